"""The SQL store's verbs on workers and the cursors that they hold.

A settle moves the rows of its cursors under its fence, and so locks them; whoever takes a cursor over updates the same
rows, and so waits for a settle under way or makes it fail. Nobody waits in a circle, since all lock in one order:
workers, groups, deliveries, cursors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import presence_row, to_cursor, to_presence
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.errors import LeaseLost
from earnorm.instants import microseconds
from earnorm.store import Cursor, Presence

__all__ = ["LeaseVerbs", "held"]


class LeaseVerbs(Verbs):
    """Coming, living, dying; taking, dividing and giving back."""

    __slots__ = ()

    # --- workers ---

    def enter(self, presence: Presence) -> None:
        by, expires, dedicated, idle, knows = row = presence_row(presence)
        words = {"to_expires": expires, "to_dedicated": dedicated, "to_idle": idle, "to_knows": knows}
        if not self._statements.reenter(self._connection, by=by, **words).rowcount:
            self._dialect.insert_missing(self._connection, tables.worker, [row])

    def beat(self, worker: str, expires: datetime) -> bool:
        return bool(self._statements.beat(self._connection, by=worker, to_expires=microseconds(expires)).rowcount)

    def leave(self, worker: str) -> None:
        self._statements.unhand(self._connection, by=worker)
        self._statements.unhold(self._connection, by=worker)
        self._statements.remove(self._connection, by=worker)

    def bury(self, worker: str, *, dead: bool = False) -> bool:
        row = self._statements.lock_worker(self._connection, by=worker).fetchone()
        if row is None or not (dead or row[0] <= microseconds(self.now())):
            return False
        self._statements.unhand(self._connection, by=worker)
        self._statements.unhold_dead(self._connection, by=worker)
        self._statements.remove(self._connection, by=worker)
        return True

    def workers(self) -> list[Presence]:
        return [to_presence(row) for row in self._statements.workers(self._connection)]

    # --- cursors ---

    def cursors(self) -> list[Cursor]:
        return [to_cursor(row) for row in self._statements.cursors(self._connection)]

    def take(self, cursor: Cursor, worker: str) -> Cursor | None:
        # Whatever happened to the table meanwhile, a restore or a switch of servers, the next reader is to know.
        self._dialect.require_sound(self._connection)
        words = {"by": worker, "to_slot": cursor.last}
        row = self._statements.take(self._connection, **_place(cursor), **words).fetchone()
        return to_cursor(row) if row else None

    def release(self, cursors: Sequence[Cursor]) -> None:
        for cursor in sorted(cursors, key=lambda cursor: cursor.place):
            self._statements.release(self._connection, **held(cursor))

    def split(self, cursor: Cursor, at: int) -> Cursor:
        row = self._statements.shorten(self._connection, **held(cursor), to_slot=at - 1).fetchone()
        if row is None:
            raise LeaseLost(cursor.worker, str(cursor))
        kept = to_cursor(row)
        freed = (kept.group, kept.name, at, cursor.last, kept.position, "", kept.fence, kept.deaths)
        self._dialect.insert(self._connection, tables.cursor, [freed])
        return kept

    def merge(self, cursor: Cursor, beside: Cursor) -> Cursor:
        one, other = self._require(cursor), self._require(beside)
        if (one.position, one.last + 1, one.name) != (other.position, other.first, other.name):
            raise LeaseLost(cursor.worker, str(cursor))
        self._statements.drop_held(self._connection, **held(other))
        fence, deaths = max(one.fence, other.fence) + 1, max(one.deaths, other.deaths)
        words = {"to_slot": other.last, "to_fence": fence, "died": deaths}
        self._statements.lengthen(self._connection, **held(one), **words)
        return replace(one, last=other.last, fence=fence, deaths=deaths)

    def _require(self, cursor: Cursor) -> Cursor:
        row = self._statements.lock_held(self._connection, **held(cursor)).fetchone()
        if row is None:
            raise LeaseLost(cursor.worker, str(cursor))
        return to_cursor(row)


def _place(cursor: Cursor) -> Mapping[str, Any]:
    return {"of_group": cursor.group, "called": cursor.name, "from_slot": cursor.first}


def held(cursor: Cursor) -> dict[str, Any]:
    """Which row it is, and under which fence it must be held."""
    return {**_place(cursor), "by": cursor.worker, "under": cursor.fence}
