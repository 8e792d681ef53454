"""Rekeyed: records whose key a flush changes, or another value that foreign keys refer to, and who follows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.orm import Mapper, Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.followers import Changed, Followers, changed_columns, concerned, following
from earnorm.backends.sqlalchemy.bulk.given import attribute_of, is_sql
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row
from earnorm.backends.sqlalchemy.bulk.telling import vetoable
from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.backends.sqlalchemy.mapping import connection_of, root_of
from earnorm.event import NO_CHANGES, Change, Changes

__all__ = ["after_flush_postexec", "before_flush"]

_REKEYED = "earnorm_rekeyed"

_State = InstanceState[Any]


@dataclass(slots=True)
class _Rekeyed:
    """Who follows what this flush changes, as far as was looked: by record and table the columns."""

    followers: Followers
    looked: dict[tuple[_State, Table], set[str]] = field(default_factory=dict[tuple[_State, Table], set[str]])


# --- before the SQL --------------------------------------------------------------------------


def before_flush(session: Session, context: UOWTransaction) -> bool:
    """Look for them; whether there may be any. What others change later is looked at again."""
    found: dict[tuple[Mapper[Any], Table, Connection], list[Changed]] = defaultdict(list)
    for state in session.identity_map._modified:
        if _may_be_followed(state) and state not in session._deleted:
            for table, columns in _changed(state):
                if concerned(session, table, columns) and (fresh := _unseen(session, context, state, table, columns)):
                    key = state.mapper, table, connection_of(session, state)
                    found[key].append(Changed(_key(state), fresh, partial(_key, state)))
    for (_, table, connection), changed in found.items():
        context.attributes[_REKEYED].followers.look(connection, table, changed)
    return _REKEYED in context.attributes


def _may_be_followed(state: _State) -> bool:
    unsaved = state.committed_state
    tables = state.manager.mapper.tables
    return bool(unsaved) and state.key is not None and any(isinstance(t, Table) and following(t) for t in tables)


def _changed(state: _State) -> Iterator[tuple[Table, set[str]]]:
    mapper = state.mapper
    for table in mapper.tables:
        if isinstance(table, Table) and following(table):
            columns = changed_columns(table, lambda column: _is_changed(state, attribute_of(column, mapper)))
            if columns:
                yield table, columns


def _is_changed(state: _State, name: str | None) -> bool:
    if name is None or name not in state.committed_state:
        return False
    old, new = state.committed_state[name], state.dict.get(name)
    return is_sql(new) or not (old is new or (type(old) is type(new) and old == new))


def _unseen(session: Session, context: UOWTransaction, state: _State, table: Table, columns: set[str]) -> set[str]:
    rekeyed: _Rekeyed | None = context.attributes.get(_REKEYED)
    if rekeyed is None:
        rekeyed = context.attributes[_REKEYED] = _Rekeyed(Followers(session))
    seen = rekeyed.looked.setdefault((state, table), set())
    fresh = columns - seen
    seen |= columns
    return fresh


def _key(state: _State) -> Key:
    assert state.key is not None
    return tuple(state.key[1])


# --- after it --------------------------------------------------------------------------------


def after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    """Tell of them; what the ORM has written itself our hooks have told of."""
    rekeyed: _Rekeyed | None = context.attributes.get(_REKEYED)
    if rekeyed is None:
        return
    written = {
        (root_of(state.mapper), _key(state)): state
        for state, (deleted, listed) in context.states.items()
        if state.key is not None and not (deleted or listed)
    }

    def told(row: Row) -> Changes:
        state = written.get((root_of(inspect(row.mapping.cls)), row.key))
        return NO_CHANGES if state is None else _as_shown(state, row.values)

    with flagged(session, flushing=False), vetoable(session):
        rekeyed.followers.tell(told)


def _as_shown(state: _State, names: Iterable[str]) -> Changes:
    """The values that a record has now, which whoever wrote it knows."""
    return {name: Change(None, state.dict[name]) for name in names if name in state.dict}
