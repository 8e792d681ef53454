"""Outside: an INSERT, UPDATE or DELETE of a model where no Session executes it as such, so that no row of it is told.

It is refused where that is seen: a CTE where it is built, since what is executed is the statement around it, often a
SELECT of columns that belong to no model, and to look into each of those would be paid by all; what is given to a
Connection, where it is executed. What is inside a `from_statement` the Session is given as it is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.orm.context import FromStatement, _ORMFromStatementCompileState
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CTE

from earnorm.backends.sqlalchemy.attention import loud
from earnorm.backends.sqlalchemy.bulk.shape import shape_of
from earnorm.backends.sqlalchemy.mapping import Mapping
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
    for model in _known(statement):
        if loud(model):
            raise BulkRefused(model.info.name, what.format(type(statement).__name__), why)


def _is_heard(statement: UpdateBase) -> bool:
    return any(map(loud, _known(statement)))


def _known(statement: UpdateBase) -> tuple[Mapping, ...]:
    mapper = statement.table._annotations.get("parententity")
    return shape_of(mapper).known if mapper is not None and mapper.is_mapper else ()


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


def _told_from_statement(_cls: Any, session: Session, statement: FromStatement[Any], *rest: Any) -> Any:
    inside = statement.element
    if isinstance(inside, UpdateBase) and _is_heard(inside):
        if not _asks_for_the_same(statement, inside):
            _refuse(inside, "{} in select(...).from_statement()", _FROM)
        # What one had to write before RETURNING gave records.
        params, options, binds, _ = rest
        own = {name: value for name, value in options.items() if not name.startswith("_sa_")}
        loading: Any = inside.options(*statement._with_options)
        words = {"execution_options": own, "bind_arguments": {**binds, "clause": inside}}
        return session.execute(loading, params, _parent_execute_state=_HEARD, **words)
    return _from_statement(session, statement, *rest)


class _Heard:
    """A statement that the listeners of do_orm_execute have heard already."""

    def _remaining_events(self) -> list[Any]:
        return []


_HEARD: Any = _Heard()


def _asks_for_the_same(statement: FromStatement[Any], inside: UpdateBase) -> bool:
    wanted, given = statement._raw_columns, inside._returning
    return len(wanted) == len(given) and all(map(ClauseElement.compare, wanted, given))


_FROM = (
    "inside a SELECT of something else its rows cannot be told; execute it itself, and have it return what you want: "
    "session.execute(statement.returning(...))"
)

# --- connection.execute(...) -----------------------------------------------------------------

_execute_on_connection = UpdateBase._execute_on_connection


def _told_on_connection(statement: UpdateBase, *rest: Any) -> Any:
    if "parententity" in statement.table._annotations and not _is_sessions(statement, rest[-1]):
        _refuse(statement, "{} on a Connection", _ON_CONNECTION)
    return _execute_on_connection(statement, *rest)


def _is_sessions(statement: UpdateBase, options: Any) -> bool:
    """Whether a Session executes it: it says by which strategy on the statement, or of a lambda's in the options."""
    return "dml_strategy" in statement._annotations or not _OF_SESSIONS.isdisjoint(options)


_OF_SESSIONS = frozenset({"_sa_orm_insert_options", "_sa_orm_update_options"})

_ON_CONNECTION = (
    "only a Session tells its rows; give it to session.execute(), with Session(connection) if need be, or write its "
    "table, which tells nothing: insert(Model.__table__)"
)
