"""Vanished: records that a flush is to delete though their rows are gone, since somebody else was quicker.

A DELETE that matches no row is no error, and SQLAlchemy at most warns. Whoever deleted them has told of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Select, bindparam, literal, select
from sqlalchemy.orm import Mapper, Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.shape import among, in_chunks
from earnorm.backends.sqlalchemy.bulk.telling import hears
from earnorm.backends.sqlalchemy.course import VANISHED
from earnorm.backends.sqlalchemy.mapping import connection_of, mapping_of

__all__ = ["before_flush", "held", "is_there"]

# On a Session: a record of which it is known that its row is there, until that is deleted.
_HELD = "_earnorm_held"

_State = InstanceState[Any]


def before_flush(session: Session, context: UOWTransaction) -> None:
    """Hold the rows of records that are to be deleted, and take down which of them have none."""
    known: dict[_State, bool] = context.attributes.setdefault(VANISHED, {})
    unknown: dict[tuple[Mapper[Any], Connection], list[_State]] = defaultdict(list)
    for state in session._deleted:
        model = mapping_of(state.class_)
        if model is None or state in known or state is vars(session).get(_HELD):
            continue
        # By its version SQLAlchemy notices by itself, and refuses it.
        if state.mapper.version_id_col is None and hears(session, [model], "deleted"):
            unknown[state.mapper, connection_of(session, state)].append(state)
    for (mapper, connection), states in unknown.items():
        for some in in_chunks(states):
            are_all = len(some) > 1 and _are_there(connection, mapper, some)
            known.update((state, not (are_all or is_there(connection, state))) for state in some)


def _are_there(connection: Connection, mapper: Mapper[Any], states: list[_State]) -> bool:
    # Counted, and not compared: what a key is in the database need not be what it was here, such as "7" for 7.
    keys = [state.key[1] for state in states if state.key is not None]
    statement = select(literal(1)).where(among(mapper.primary_key, keys, connection.dialect.name)).with_for_update()
    return len(connection.execute(statement).all()) == len(states)


def is_there(connection: Connection, state: _State) -> bool:
    """Whether the record has a row, which then stays until the end of the transaction."""
    statement = _holding.get(state.mapper)
    if statement is None:
        statement = _holding[state.mapper] = _hold(state.mapper)
    identity = {f"key_{number}": part for number, part in enumerate(state.identity or ())}
    return connection.execute(statement, identity).first() is not None


_holding: WeakKeyDictionary[Mapper[Any], Select[Any]] = WeakKeyDictionary()


def _hold(mapper: Mapper[Any]) -> Select[Any]:
    where = [c == bindparam(f"key_{number}", type_=c.type) for number, c in enumerate(mapper.primary_key)]
    return select(literal(1)).where(*where).with_for_update()


@contextmanager
def held(session: Session, state: _State) -> Iterator[None]:
    """Inside, nobody asks again whether this record `is_there`."""
    before, vars(session)[_HELD] = vars(session).get(_HELD), state
    try:
        yield
    finally:
        vars(session)[_HELD] = before
