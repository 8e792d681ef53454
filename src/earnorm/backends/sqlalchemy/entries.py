"""The SQL store's verbs on the log itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, delete

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import entry_row, to_entry
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.event import Entries, Entry
from earnorm.slots import LAST_SLOT
from earnorm.store import Range

__all__ = ["LogVerbs", "parameters_of"]

# Values in one IN list: below the parameters that any database takes (SQLite 32,766).
_VALUES_A_LIST = 10_000

T = TypeVar("T")


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
        return self._dialect.append(self._connection, [entry_row(entry) for entry in entries])

    def take_back(self, ids: Sequence[bytes]) -> None:
        """Undo an append of this very transaction, to append something else in its place."""
        for some in _in_lists(list(ids)):
            self._connection.execute(delete(tables.log).where(tables.log.c.id.in_(some)))

    def append_many(self, entries: Entries) -> None:
        self.append_many_meeting(entries)

    def append_many_meeting(self, entries: Entries) -> bool:
        """`append_many`, as `append_meeting`."""
        return self._dialect.append_many(self._connection, entries)

    def read(self, after: int, upto: int, limit: int, slots: Sequence[Range] = ()) -> list[Entry]:
        words = {"after": after, "upto": upto, "limit": limit}
        if not slots or (0, LAST_SLOT) in slots:
            rows = self._statements.read(self._connection, **words)
        else:
            rows = self._statements.read_slots(len(slots))(self._connection, **words, **parameters_of(slots))
        return [to_entry(row) for row in rows.fetchall()]

    def find(self, key: str, name: str, after: int) -> Entry | None:
        row = self._statements.find(self._connection, key=key, name=name, after=after).fetchone()
        return to_entry(row) if row else None


def parameters_of(slots: Sequence[Range]) -> dict[str, int]:
    """The parameters of so many ranges (`Statements.read_slots`)."""
    firsts = {f"first_{number}": first for number, (first, _) in enumerate(slots)}
    return firsts | {f"last_{number}": last for number, (_, last) in enumerate(slots)}


def _in_lists(values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), _VALUES_A_LIST):
        yield values[start : start + _VALUES_A_LIST]
