"""The SQL store's verbs on the log itself, and on the idempotency keys of its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import MANY, Seen
from earnorm.backends.sqlalchemy.lists import in_lists
from earnorm.backends.sqlalchemy.payloads import within
from earnorm.backends.sqlalchemy.rows import key_row, log_rows, to_entries, to_entry, to_groups, to_key, to_waiting
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.emission import IdempotencyKey
from earnorm.event import Entries, Entry
from earnorm.glance import Glance, Span
from earnorm.instants import microseconds
from earnorm.store import Range

__all__ = ["LogVerbs", "glance_of"]

# Where an entry read, a position, an id and the ENTRY_COLUMNS, has its data.
_PLACE = 2 + tables.ENTRY_COLUMNS.index("data")


class LogVerbs(Verbs):
    """Appending and reading."""

    __slots__ = ()

    @property
    def connection(self) -> Connection:
        return self._connection

    def append(self, entries: Sequence[Entry]) -> None:
        self.append_meeting(entries)

    def append_meeting(self, entries: Sequence[Entry]) -> bool:
        """`append`; returns whether triggers may have captured changes of this transaction as well."""
        return self._dialect.append(self._connection, log_rows(entries))

    def append_with_commit(self, entries: Sequence[Entry], claim: Callable[[], str | None]) -> bool | None:
        """`append` them together with COMMIT, where that can be (`Dialect.append_with_commit`)."""
        if len(entries) >= MANY:
            return None
        return self._dialect.append_with_commit(self._connection, partial(log_rows, entries), claim)

    def take_back(self, ids: Sequence[bytes]) -> None:
        """Undo an append of this very transaction, to append something else in its place."""
        for some in in_lists(ids):
            self._connection.execute(delete(tables.log).where(tables.log.c.id.in_(some)))

    def append_many(self, entries: Entries) -> None:
        self.append_many_meeting(entries)

    def append_many_meeting(self, entries: Entries) -> bool:
        """`append_many`, as `append_meeting`."""
        return self._dialect.append_many(self._connection, entries)

    def read(
        self, after: int, upto: int, limit: int, slots: Sequence[Range] = (), room: int | None = None
    ) -> list[Entry]:
        statement, words = self._statements.reading(after, upto, limit, slots)

        def rows() -> Sequence[Any]:
            return list(statement.rows(self._connection, **words))

        return to_entries(within(self._connection, tables.log.c.position, rows, _PLACE, room))

    def find(self, key: str, name: str, after: int) -> Entry | None:
        row = self._statements.find(self._connection, key=key, name=name, after=after).fetchone()
        return to_entry(row) if row else None

    def get(self, event: UUID) -> Entry | None:
        row = self._statements.get(self._connection, event_id=event.bytes).fetchone()
        return to_entry(row) if row else None

    # --- idempotency keys ---

    def reserve(self, keys: Sequence[IdempotencyKey]) -> dict[UUID, IdempotencyKey]:
        ours = self._dialect.reserve(self._connection, [key_row(key) for key in keys]) if keys else set[bytes]()
        # Another transaction took them first; it is committed by now, or this one would still wait for it.
        lost = [key for key in keys if key.event.bytes not in ours]
        return {key.event: first for key in lost if (first := self.reserved(*key.place)) is not None}

    def reserved(self, tenant: str, name: str, text: str) -> IdempotencyKey | None:
        row = self._statements.reserved(self._connection, tenant=tenant, name=name, text=text).fetchone()
        return to_key(row) if row else None

    def forget_keys(self, before: datetime, limit: int) -> int:
        return self._statements.forget_keys(self._connection, before=microseconds(before), limit=limit).rowcount


def glance_of(seen: Seen, span: Span | None) -> Glance:
    entries = None if span is None else seen.entries
    if entries and entries[-1].position > seen.horizon:
        entries = [entry for entry in entries if entry.position <= seen.horizon]
    return Glance(seen.horizon, to_groups(seen.groups), entries, to_waiting(seen.waiting))
