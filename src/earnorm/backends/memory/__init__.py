"""A store in dicts and lists: for tests, and the oracle that says what the SQL stores must do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from earnorm.backends.memory.deliveries import DeliveryVerbs
from earnorm.backends.memory.state import State
from earnorm.backends.memory.subscriptions import SubscriptionVerbs
from earnorm.backends.memory.upkeep import UpkeepVerbs
from earnorm.clock import Clock, SystemClock

__all__ = ["MemoryStore", "MemoryTransaction"]


class MemoryTransaction(DeliveryVerbs, SubscriptionVerbs, UpkeepVerbs):
    """The verbs, on a copy of the state that replaces it at the commit."""

    def __init__(self, state: State, clock: Clock) -> None:
        self.state = state
        self.clock = clock


class MemoryStore:
    """One lock, held for a whole transaction: as with SQLite, one writer at a time."""

    def __init__(self, clock: Clock | None = None, *, divides: bool = True) -> None:
        self.divides = divides
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._state = State()

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

    def close(self) -> None:
        """Nothing is held open, and what was stored stays readable."""
