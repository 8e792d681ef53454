"""Settling: what a durable handler emits outside a transaction waits here for the handler's own settle."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Protocol

from earnorm.emission import IdempotencyKey
from earnorm.errors import HandlerTimedOut
from earnorm.event import Entry
from earnorm.handle import Emission

__all__ = ["Attempting", "Settling", "settling_here"]


# One for all, since it is held for a moment: making one for each attempt would cost more.
_lock = threading.Lock()


class Settling:
    """The events of one attempt. They are appended with its outcome, so that a redelivery does not repeat them."""

    __slots__ = ("_emissions", "_entries", "_given_up", "_keyed")

    def __init__(self) -> None:
        self._entries: list[Entry] | None = []
        self._emissions: list[Emission] = []
        # Made for the first key: most attempts have none.
        self._keyed: dict[tuple[str, str, str], Emission] | None = None
        self._given_up: tuple[str, float] | None = None

    @property
    def is_open(self) -> bool:
        return self._entries is not None

    def require_counting(self) -> None:
        """Raises HandlerTimedOut once the attempt was given up."""
        if self._given_up is not None:
            raise HandlerTimedOut(*self._given_up)

    def add(self, entry: Entry, emission: Emission | None = None) -> bool:
        """Whether it will be appended: not once the handler has ended, from a task or thread it left behind."""
        with _lock:
            if self._entries is None:
                return False
            self._entries.append(entry)
            if emission is not None:
                self._emissions.append(emission)
            if emission is not None and emission.key is not None:
                self._keyed = {**(self._keyed or {}), emission.key.place: emission}
            return True

    def under(self, place: tuple[str, str, str]) -> Emission | None:
        """What this very attempt emitted under an idempotency key."""
        return None if self._keyed is None else self._keyed.get(place)

    @property
    def keys(self) -> tuple[IdempotencyKey, ...]:
        """The idempotency keys of what was emitted."""
        emissions = () if self._keyed is None else self._keyed.values()
        return tuple(emission.key for emission in emissions if emission.key is not None)

    def close(self) -> tuple[Entry, ...]:
        """What was emitted, in order; nothing comes in from now on."""
        with _lock:
            entries, self._entries = self._entries, None
        return tuple(entries) if entries else ()

    def drop(self) -> None:
        """The attempt is not done: nothing of it is ever appended, as its handles are told."""
        self.close()
        for emission in self._emissions:
            emission.fate = "rolled back"

    def revoke(self, handler: str, timeout: float) -> None:
        """The attempt is given up while it still runs: what it emits from now on is refused."""
        with _lock:
            self._given_up = handler, timeout
        self.drop()


class Attempting(Protocol):
    """An attempt of a durable handler."""

    @property
    def database(self) -> str: ...

    @property
    def settling(self) -> Settling: ...


_attempt: ContextVar[Attempting | None] = ContextVar("earnorm_attempt", default=None)


def settling_here(database: str) -> Settling | None:
    """That of the durable handler that runs here, if its event is in the log of this database.

    Raises HandlerTimedOut in an attempt that was given up.
    """
    attempt = _attempt.get()
    if attempt is None or attempt.database != database:
        return None
    found = attempt.settling
    found.require_counting()
    return found if found.is_open else None
