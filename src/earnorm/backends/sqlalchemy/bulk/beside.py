"""Beside: rows of others that the database changes along with what a bulk write does, whoever the written model is.

Of a model that nobody attached no more than that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Delete, Insert, Update
from sqlalchemy.orm import Session
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.cascades import Cascade, cascades_of_rows, concerned, tell_cascades
from earnorm.backends.sqlalchemy.bulk.followers import Followers
from earnorm.backends.sqlalchemy.bulk.given import attribute_named, listed, updated_values
from earnorm.backends.sqlalchemy.bulk.resetting import by_key, of_statement, require_unfollowed, tell_followers
from earnorm.backends.sqlalchemy.bulk.shape import Shape
from earnorm.backends.sqlalchemy.bulk.statements import Execution, columns_matching, kept, narrow, require_schema
from earnorm.backends.sqlalchemy.bulk.telling import vetoable
from earnorm.backends.sqlalchemy.bulk.upserts import is_upsert, set_values

__all__ = ["followers_of_method", "save_unattached", "taken_along", "write_unattached"]


def taken_along(execution: Execution, statement: Delete) -> tuple[list[Cascade], Delete]:
    """What a DELETE takes along, and the statement for the rows that were looked at alone."""
    session, shape = execution.session, execution.shape
    if not concerned(session, shape.table):
        return [], statement
    require_schema(execution, statement)
    rows = columns_matching(execution, statement)
    cascades = cascades_of_rows(session, execution.connection, shape, rows)
    keys = [tuple(row[column.name] for column in shape.own_key_columns) for row in rows]
    return cascades, narrow(execution, statement, keys)


def write_unattached(execution: Execution, statement: Insert | Update | Delete) -> Any:
    """Execute a statement of a model that nobody attached."""
    if isinstance(statement, Delete):
        return _delete(execution, statement)
    if isinstance(statement, Update):
        return _update(execution, statement)
    if is_upsert(statement):
        names = (attribute_named(column, execution.shape.mapper) for column in set_values(statement))
        require_unfollowed(execution, statement, [name for name in names if name is not None])
    return execution.run(statement)


def _delete(execution: Execution, statement: Delete) -> Any:
    cascades, statement = taken_along(execution, statement)
    if not cascades:
        return execution.run(statement)
    result = kept(statement, execution.run(statement))
    with vetoable(execution.session):
        tell_cascades(execution.session, cascades)
    return result


def _update(execution: Execution, statement: Update) -> Any:
    shape = execution.shape
    followers: Followers | None
    if execution.many:
        followers = by_key(execution.session, execution.connection, shape, listed(execution.params))
    else:
        values = updated_values(statement, execution.params, shape.mapper)
        sets = dict.fromkeys(name for given in values for name in given)
        followers, statement = of_statement(execution, statement, sets)
    if followers is None:
        return execution.run(statement)
    result = kept(statement, execution.run(statement))
    with vetoable(execution.session):
        tell_followers(followers)
    return result


def save_unattached(
    session: Session, shape: Shape, values: Sequence[Any], save: Callable[[], object], *, isstates: bool
) -> None:
    """Of a bulk method; `values` are what it updates by key."""
    followers = followers_of_method(session, shape, values, isstates=isstates)
    save()
    if followers is not None:
        with vetoable(session):
            tell_followers(followers)


def followers_of_method(session: Session, shape: Shape, values: Sequence[Any], *, isstates: bool) -> Followers | None:
    """Who follows what a bulk method updates by key: dictionaries, or objects' states."""
    given = [_changed_values(shape, state) for state in values] if isstates else values
    return by_key(session, session.connection(bind_arguments={"mapper": shape.mapper}), shape, given)


def _changed_values(shape: Shape, state: InstanceState[Any]) -> dict[str, Any]:
    """Of an object that a bulk method is given: its key, and what was changed, since no more is written."""
    names = (*shape.key, *(name for name in state.committed_state if name in shape.mapper.columns))
    return {name: state.dict.get(name) for name in names}
