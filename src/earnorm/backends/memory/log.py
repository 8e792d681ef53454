"""The log of a memory store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import structs

from earnorm.backends.memory.state import HasState
from earnorm.emission import IdempotencyKey
from earnorm.event import Entries, Entry
from earnorm.room import fitting
from earnorm.slots import slot_of
from earnorm.store import Range

__all__ = ["LogVerbs", "is_in"]


class LogVerbs(HasState):
    """Appending, reading, and the time."""

    def append(self, entries: Sequence[Entry]) -> None:
        first = self.state.last_position + 1
        self.state.log += tuple(structs.replace(entry, position=first + i) for i, entry in enumerate(entries))
        self.state.last_position += len(entries)

    def append_many(self, entries: Entries) -> None:
        self.append(tuple(entries))

    def now(self) -> datetime:
        return self.clock.now()

    def horizon(self) -> int:
        return self.state.last_position

    def read(
        self, after: int, upto: int, limit: int, slots: Sequence[Range] = (), room: int | None = None
    ) -> list[Entry]:
        found = (entry for entry in self.state.log if after < entry.position <= upto)
        read = [entry for entry in found if not slots or is_in(entry, slots)][:limit]
        return read[: fitting((len(entry.data) for entry in read), room)]

    def find(self, key: str, name: str, after: int) -> Entry | None:
        later = (entry for entry in self.state.log if entry.position > after)
        return next((entry for entry in later if (entry.key, entry.name) == (key, name)), None)

    def get(self, event: UUID) -> Entry | None:
        return next((entry for entry in self.state.log if entry.id == event), None)

    # --- idempotency keys ---

    def reserve(self, keys: Sequence[IdempotencyKey]) -> dict[UUID, IdempotencyKey]:
        for key in sorted(keys):
            self.state.keys = {key.place: key, **self.state.keys}
        return {key.event: first for key in keys if (first := self.state.keys[key.place]).event != key.event}

    def reserved(self, tenant: str, name: str, text: str) -> IdempotencyKey | None:
        return self.state.keys.get((tenant, name, text))

    def forget_keys(self, before: datetime, limit: int) -> int:
        by_age = sorted(self.state.keys.values(), key=lambda key: key.at)
        awaited = {row.entry.id for row in self.state.deliveries.values() if row.state == "open"}
        old = [key.place for key in by_age if key.at < before and key.event not in awaited][:limit]
        self.state.keys = {place: key for place, key in self.state.keys.items() if place not in old}
        return len(old)


def is_in(entry: Entry, slots: Sequence[Range]) -> bool:
    slot = slot_of(entry.key, entry.raw_id)
    return any(first <= slot <= last for first, last in slots)
