"""Outside: an INSERT, UPDATE or DELETE of a model where no Session executes it as such, so that no row of it is told.

It is refused where that is seen: a CTE where it is built, since what is executed is the statement around it, often a
SELECT of columns that belong to no model, and to look into each of those would be paid by all; the inside of a
`from_statement`, and what is given to a Connection, where it is executed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm.context import FromStatement, _ORMFromStatementCompileState
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CTE

from earnorm.backends.sqlalchemy.attention import loud
from earnorm.backends.sqlalchemy.bulk.shape import shape_of
from earnorm.errors import BulkRefused

__all__ = ["listen"]


def listen() -> None:
    """Look at every such statement from now on. There are no events for it."""
    dml: Any = UpdateBase
    dml.cte = _told_cte
    dml._execute_on_connection = _told_on_connection
    compile_state: Any = _ORMFromStatementCompileState
    compile_state.orm_execute_statement = classmethod(_told_from_statement)


def _refuse(statement: UpdateBase, what: str, why: str) -> None:
    """Raises BulkRefused if the statement writes a model that somebody hears."""
    mapper = statement.table._annotations.get("parententity")
    if mapper is not None and mapper.is_mapper:
        for model in shape_of(mapper).known:
            if loud(model):
                raise BulkRefused(model.info.name, what.format(type(statement).__name__), why)


# --- a CTE -----------------------------------------------------------------------------------

_cte = UpdateBase.cte


def _told_cte(statement: UpdateBase, *args: Any, **options: Any) -> CTE:
    _refuse(statement, "{}.cte()", _INSIDE.format("insert(Model.__table__).cte()"))
    return _cte(statement, *args, **options)


_INSIDE = (
    "inside another statement its rows cannot be told; execute it first and use what it returns (RETURNING), or write "
    "its table, which tells nothing: {}"
)

# --- select(Model).from_statement(...) -------------------------------------------------------

_from_statement: Any = _ORMFromStatementCompileState.orm_execute_statement


def _told_from_statement(_cls: Any, session: Any, statement: FromStatement[Any], *rest: Any) -> Any:
    inside = statement.element
    if isinstance(inside, UpdateBase):
        _refuse(inside, "{} in select(...).from_statement()", _FROM)
    return _from_statement(session, statement, *rest)


_FROM = (
    "inside a SELECT its rows cannot be told; execute it itself, which gives the same records: "
    "session.scalars(statement.returning(Model)), with populate_existing=True if they are to be read anew"
)

# --- connection.execute(...) -----------------------------------------------------------------

_execute_on_connection = UpdateBase._execute_on_connection


def _told_on_connection(statement: UpdateBase, *rest: Any) -> Any:
    # A Session says on each statement that it executes by which strategy it does.
    if "parententity" in statement.table._annotations and "dml_strategy" not in statement._annotations:
        _refuse(statement, "{} on a Connection", _ON_CONNECTION)
    return _execute_on_connection(statement, *rest)


_ON_CONNECTION = (
    "only a Session tells its rows; give it to session.execute(), with Session(connection) if need be, or write its "
    "table, which tells nothing: insert(Model.__table__)"
)
