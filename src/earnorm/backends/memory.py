"""A store in dicts and lists: for tests, and the oracle that says what the SQL stores must do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import structs

from earnorm.clock import Clock, SystemClock
from earnorm.delivery import Delivery
from earnorm.emission import IdempotencyKey
from earnorm.errors import LeaseLost
from earnorm.event import Entries, Entry
from earnorm.store import Lease, Settlement

__all__ = ["MemoryStore", "MemoryTransaction"]


@dataclass(slots=True)
class _State:
    """Everything the store remembers. Its parts are never changed in place, so that a copy is a savepoint."""

    log: tuple[Entry, ...] = ()
    last_position: int = 0
    cursors: dict[str, int] = field(default_factory=dict[str, int])
    lease: Lease | None = None
    fence: int = 0
    deliveries: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    last_delivery: int = 0
    keys: dict[tuple[str, str, str], IdempotencyKey] = field(default_factory=dict[tuple[str, str, str], IdempotencyKey])


class MemoryStore:
    """One lock, held for a whole transaction: as with SQLite, one writer at a time."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._state = _State()

    @contextmanager
    def begin(self, *, readonly: bool = False) -> Iterator[MemoryTransaction]:  # noqa: ARG002  one lock serves both
        if self._holder == threading.get_ident():
            raise RuntimeError("this thread already holds a transaction of this store; use that one, or join() it")
        with self._lock:
            self._holder = threading.get_ident()
            try:
                transaction = MemoryTransaction(replace(self._state), self._clock)
                yield transaction
                self._state = transaction.state
            finally:
                self._holder = None

    def join(self, connection: Any) -> MemoryTransaction:
        """Memory has no connections: what is joined is a transaction of this store that `begin` has opened."""
        if not isinstance(connection, MemoryTransaction):
            raise TypeError(f"a memory store joins a transaction from its begin(), not {connection!r}")
        return connection

    def prune(self) -> None:
        """Empty the log. Its positions are not given out again."""
        with self._lock:
            self._state = replace(self._state, log=())

    def close(self) -> None:
        """Nothing is held open, and what was stored stays readable."""


class MemoryTransaction:
    """The verbs, on a copy of the state that replaces it at the commit."""

    def __init__(self, state: _State, clock: Clock) -> None:
        self.state = state
        self._clock = clock

    # --- the log ---

    def append(self, entries: Sequence[Entry]) -> None:
        first = self.state.last_position + 1
        self.state.log += tuple(structs.replace(entry, position=first + i) for i, entry in enumerate(entries))
        self.state.last_position += len(entries)

    def append_many(self, entries: Entries) -> None:
        self.append(tuple(entries))

    def now(self) -> datetime:
        return self._clock.now()

    def horizon(self) -> int:
        return self.state.last_position

    def read(self, after: int, upto: int, limit: int) -> list[Entry]:
        return [entry for entry in self.state.log if after < entry.position <= upto][:limit]

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
        old = [key.place for key in by_age if key.at < before][:limit]
        self.state.keys = {place: key for place, key in self.state.keys.items() if place not in old}
        return len(old)

    # --- subscriptions ---

    def subscribe(self, names: Sequence[str]) -> None:
        self.state.cursors = {**dict.fromkeys(names, self.horizon()), **self.state.cursors}

    def cursors(self) -> dict[str, int]:
        return dict(self.state.cursors)

    # --- the lease ---

    def claim(self, worker: str, seconds: float) -> Lease | None:
        now, held = self.now(), self.state.lease
        if held and held.worker != worker and held.expires > now:
            return None
        if not held or held.worker != worker:
            self.state.fence += 1
        self.state.lease = Lease(worker, self.state.fence, now + timedelta(seconds=seconds))
        return self.state.lease

    def holder(self) -> Lease | None:
        return self.state.lease

    def release(self, lease: Lease) -> None:
        if self._is_ours(lease):
            self.state.lease = None

    def _is_ours(self, lease: Lease) -> bool:
        held = self.state.lease
        return held is not None and (held.worker, held.fence) == (lease.worker, lease.fence)

    # --- deliveries set aside ---

    def due(self, limit: int) -> list[Delivery]:
        now = self.now()
        return [delivery for delivery in self._runnable() if delivery.due <= now][:limit]

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        return set(pairs) & {_lane(delivery) for delivery in self._open() if delivery.ordered}

    def open(self) -> tuple[int, datetime | None]:
        return len(self._open()), next((delivery.due for delivery in self._runnable()), None)

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        rows = self.state.deliveries.values()
        return [delivery for delivery in rows if event is None or str(delivery.entry.id) == event]

    def _open(self) -> list[Delivery]:
        return [delivery for delivery in self.state.deliveries.values() if delivery.state == "open"]

    def _runnable(self) -> list[Delivery]:
        """Those nothing stands before, the longest due first."""
        lowest: dict[tuple[str, str], int] = {}
        for delivery in self._open():
            if delivery.ordered:
                lowest.setdefault(_lane(delivery), delivery.id)
        free = [d for d in self._open() if not d.ordered or lowest[_lane(d)] == d.id]
        return sorted(free, key=lambda delivery: (delivery.due, delivery.id))

    # --- settling ---

    def _stands(self, settlement: Settlement) -> bool:
        seen = settlement.seen
        return seen is None or any((e.position, e.id) == (seen.position, seen.event) for e in self.state.log)

    def settle(self, lease: Lease, settlement: Settlement) -> None:
        expected = {name: advance.previous for name, advance in settlement.advances.items()}
        if (
            not self._is_ours(lease)
            or not expected.items() <= self.state.cursors.items()
            or not self._stands(settlement)
        ):
            raise LeaseLost(lease.worker, lease.fence)
        moved = {name: advance.position for name, advance in settlement.advances.items()}
        self.state.cursors = {**self.state.cursors, **moved}
        rows = dict(self.state.deliveries)
        for delivery in settlement.set_aside:
            self.state.last_delivery += 1
            aside = structs.replace(delivery.entry, due=None)
            rows[self.state.last_delivery] = replace(delivery, id=self.state.last_delivery, entry=aside)
        for again in settlement.rescheduled:
            if again.id in rows:
                rows[again.id] = _rescheduled(rows[again.id], again)
        for finished in settlement.finished:
            rows.pop(finished, None)
        self.state.deliveries = rows
        taken = self.reserve(settlement.keys)
        self.append([entry for entry in settlement.emitted if entry.id not in taken])


def _lane(delivery: Delivery) -> tuple[str, str]:
    return delivery.subscription, delivery.entry.key


def _rescheduled(row: Delivery, again: Delivery) -> Delivery:
    return replace(row, attempt=again.attempt, due=again.due, state=again.state, error=again.error)
