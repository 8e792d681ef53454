"""Vanished: records that a flush deletes though their rows are gone, since somebody else was quicker.

A DELETE that matches no row is no error, and SQLAlchemy at most warns. Whoever deleted them has told of it. How many
rows one matched SQLAlchemy tells nobody, so what executes it is wrapped once. Where that says nothing, a SELECT asks
before: of many that go with one statement, and of rows that others of the same flush take along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Select, Table, bindparam, literal, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Mapper, Session, UOWTransaction, persistence
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.cascades import reached_from
from earnorm.backends.sqlalchemy.bulk.shape import Key, among, in_chunks
from earnorm.backends.sqlalchemy.bulk.telling import hears
from earnorm.backends.sqlalchemy.course import VANISHED
from earnorm.backends.sqlalchemy.mapping import connection_of, mapping_of, root_of

__all__ = ["before_flush", "is_there", "listen"]

_Known = dict[tuple[Mapper[Any], Key], bool]
_Params = Mapping[str, Any]

# --- before the SQL --------------------------------------------------------------------------


def before_flush(session: Session, context: UOWTransaction) -> None:
    """Ask which of the records that are to be deleted have a row, where their deletions are heard and will not say."""
    states = [state for state in session._deleted if _is_heard(session, state)]
    if not states:
        return
    known: _Known = context.attributes.setdefault(VANISHED, {})
    unknown: dict[tuple[Mapper[Any], Connection], list[Key]] = defaultdict(list)
    for state in states:
        if state.key is not None and (root_of(state.mapper), state.key[1]) not in known:
            unknown[state.mapper, connection_of(session, state)].append(state.key[1])
    taken = _taken_by(session._deleted)
    for (mapper, connection), keys in unknown.items():
        if len(keys) > 1 or not taken.isdisjoint(mapper.tables):
            known.update(((root_of(mapper), key), gone) for key, gone in _gone(connection, mapper, keys))


def _is_heard(session: Session, state: InstanceState[Any]) -> bool:
    model = mapping_of(state.class_)
    # By its version SQLAlchemy notices by itself, and refuses it.
    return model is not None and state.mapper.version_id_col is None and hears(session, [model], "deleted")


def _taken_by(states: Iterable[InstanceState[Any]]) -> set[Table]:
    """The tables whose rows the database may delete when it deletes these."""
    tables = {table for state in states for table in state.mapper.tables if isinstance(table, Table)}
    return {each.table for table in tables for each in reached_from(table) if not each.emptied}


def _gone(connection: Connection, mapper: Mapper[Any], keys: Sequence[Key]) -> Iterable[tuple[Key, bool]]:
    for some in in_chunks(keys):
        among_them = among(mapper.primary_key, some, connection.dialect.name)
        there = connection.execute(select(literal(1)).where(among_them).with_for_update()).all()
        # Counted, and not compared: what a key is in the database need not be what it was here, such as "7" for 7.
        are_all = len(there) == len(some)
        yield from ((key, not (are_all or is_there(connection, mapper, key))) for key in some)


def is_there(connection: Connection, mapper: Mapper[Any], key: Key) -> bool:
    """Whether there is a row of this primary key, which then stays until the end of the transaction."""
    statement = _holding.get(mapper)
    if statement is None:
        statement = _holding[mapper] = _hold(mapper)
    identity = {f"key_{number}": part for number, part in enumerate(key)}
    return connection.execute(statement, identity).first() is not None


_holding: WeakKeyDictionary[Mapper[Any], Select[Any]] = WeakKeyDictionary()


def _hold(mapper: Mapper[Any]) -> Select[Any]:
    where = [c == bindparam(f"key_{number}", type_=c.type) for number, c in enumerate(mapper.primary_key)]
    return select(literal(1)).where(*where).with_for_update()


# --- the SQL ---------------------------------------------------------------------------------


def listen() -> None:
    """Count the rows of every Session's deletions from now on."""
    _persistence._emit_delete_statements = _delete


_persistence: Any = persistence
_emit_delete_statements = _persistence._emit_delete_statements


def _delete(
    base: Mapper[Any], context: UOWTransaction, mapper: Mapper[Any], table: Table, rows: Iterable[tuple[_Params, Any]]
) -> None:
    known: _Known | None = context.attributes.get(VANISHED)
    # The row of the base is the record's.
    if known is None or table is not base.local_table or not base.confirm_deleted_rows:
        _emit_delete_statements(base, context, mapper, table, rows)
        return
    counting: dict[Connection, _Counting] = {}
    counted = ((given, counting.setdefault(by, _Counting(by, base, known))) for given, by in rows)
    _emit_delete_statements(base, context, mapper, table, counted)


class _Counting:
    """A Connection, as far as a deletion needs it: what one record's has not met is known to have vanished."""

    def __init__(self, connection: Connection, base: Mapper[Any], known: _Known) -> None:
        self.dialect = connection.dialect
        self._connection = connection
        self._base = base
        self._known = known

    def execute(self, statement: Any, given: Any, **options: Any) -> CursorResult[Any]:
        result = self._connection.execute(statement, given, **options)
        if len(given) == 1 and result.rowcount == 0:
            key = tuple(given[0][column.key] for column in self._base.primary_key)
            self._known.setdefault((self._base, key), True)
        return result
