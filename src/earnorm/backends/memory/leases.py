"""The workers of a memory store, and the cursors that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from msgspec import structs

from earnorm.backends.memory.state import HasState, drop, put
from earnorm.errors import LeaseLost
from earnorm.store import Cursor, Presence

__all__ = ["LeaseVerbs"]


class LeaseVerbs(HasState):
    """Coming, living, dying; taking, dividing and giving back."""

    def enter(self, presence: Presence) -> None:
        self.state.workers = {**self.state.workers, presence.worker: presence}

    def beat(self, worker: str, expires: datetime) -> bool:
        known = self.state.workers.get(worker)
        if known is None:
            return False
        self.enter(replace(known, expires=expires))
        return True

    def leave(self, worker: str) -> None:
        self._remove(worker, deaths=0)

    def bury(self, worker: str, *, dead: bool = False) -> bool:
        known = self.state.workers.get(worker)
        if known is None or not (dead or known.expires <= self.clock.now()):
            return False
        self._remove(worker, deaths=1)
        return True

    def _remove(self, worker: str, *, deaths: int) -> None:
        held = [cursor for cursor in self.state.cursors.values() if cursor.worker == worker]
        put(self.state, *(replace(c, worker="", fence=c.fence + 1, deaths=c.deaths + deaths) for c in held))
        rows = self.state.deliveries
        self.state.deliveries = {
            i: structs.replace(row, worker="") if row.worker == worker else row for i, row in rows.items()
        }
        self.state.workers = {name: presence for name, presence in self.state.workers.items() if name != worker}

    def workers(self) -> list[Presence]:
        return [self.state.workers[name] for name in sorted(self.state.workers)]

    def cursors(self) -> list[Cursor]:
        return [self.state.cursors[place] for place in sorted(self.state.cursors)]

    def take(self, cursor: Cursor, worker: str) -> Cursor | None:
        found = self.state.cursors.get(cursor.place)
        if found is None or found.last != cursor.last or found.worker not in ("", worker):
            return None
        taken = replace(found, worker=worker, fence=found.fence + 1)
        put(self.state, taken)
        return taken

    def release(self, cursors: Sequence[Cursor]) -> None:
        put(self.state, *(replace(cursor, worker="") for cursor in map(self._held, cursors) if cursor))

    def split(self, cursor: Cursor, at: int) -> Cursor:
        held = self._require(cursor)
        fence = held.fence + 1
        kept, freed = replace(held, last=at - 1, fence=fence), replace(held, first=at, worker="", fence=fence)
        put(self.state, kept, freed)
        return kept

    def merge(self, cursor: Cursor, beside: Cursor) -> Cursor:
        one, other = self._require(cursor), self._require(beside)
        if (one.position, one.last + 1, one.name) != (other.position, other.first, other.name):
            raise LeaseLost(cursor.worker, str(cursor))
        drop(self.state, other)
        fence, deaths = max(one.fence, other.fence) + 1, max(one.deaths, other.deaths)
        merged = replace(one, last=other.last, fence=fence, deaths=deaths)
        put(self.state, merged)
        return merged

    def _held(self, cursor: Cursor) -> Cursor | None:
        """The cursor as it stands, if its lease is what `cursor` says."""
        found = self.state.cursors.get(cursor.place)
        return found if found and (found.worker, found.fence) == (cursor.worker, cursor.fence) else None

    def _require(self, cursor: Cursor) -> Cursor:
        found = self._held(cursor)
        if found is None:
            raise LeaseLost(cursor.worker, str(cursor))
        return found
