"""Settling: what a durable handler emits outside a transaction waits here for the handler's own settle."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from earnorm.emission import IdempotencyKey
from earnorm.event import Entry
from earnorm.handle import Emission

__all__ = ["Settling", "settling_here"]


class Settling:
    """The events of one attempt. They are appended with its outcome, so that a redelivery does not repeat them."""

    __slots__ = ("_entries", "_keyed", "_lock", "_revoked", "database")

    def __init__(self, database: str) -> None:
        self.database = database
        self._entries: list[Entry] | None = []
        self._keyed: dict[tuple[str, str, str], Emission] = {}
        self._lock = threading.Lock()
        self._revoked: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Raises what the attempt was given up for."""
        if self._revoked is not None:
            raise self._revoked
        return self._entries is not None

    def add(self, entry: Entry, emission: Emission | None = None) -> bool:
        """Whether it will be appended: not once the handler has ended, from a task or thread it left behind."""
        with self._lock:
            if self._entries is None:
                return False
            self._entries.append(entry)
            if emission is not None and emission.key is not None:
                self._keyed[emission.key.place] = emission
            return True

    def under(self, place: tuple[str, str, str]) -> Emission | None:
        """What this very attempt emitted under an idempotency key."""
        return self._keyed.get(place)

    def close(self) -> tuple[tuple[Entry, ...], tuple[IdempotencyKey, ...]]:
        """What was emitted, in order, and the keys of it; nothing comes in from now on."""
        with self._lock:
            entries, self._entries = self._entries or (), None
        return tuple(entries), tuple(emission.key for emission in self._keyed.values() if emission.key is not None)

    def revoke(self, error: Exception) -> None:
        """The attempt is given up while it still runs: what it emits from now on is refused with `error`."""
        with self._lock:
            self._entries, self._revoked = None, error


_settling: ContextVar[Settling | None] = ContextVar("earnorm_settling", default=None)


def settling_here(database: str) -> Settling | None:
    """That of the durable handler that runs here, if its event is in the log of this database.

    Raises HandlerTimedOut in an attempt that was given up.
    """
    found = _settling.get()
    return found if found is not None and found.database == database and found.is_open else None
