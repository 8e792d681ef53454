"""The wake-up: how workers learn at once of what other processes committed. Only a hint; polls find it anyway."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Polling", "Wakeup"]


class Wakeup(Protocol):
    """Between the processes that share a log. A wake-up may be lost, come late, or mean nothing."""

    @property
    def longest(self) -> float:
        """Seconds for which a worker with nothing to do may leave the log unseen, since it would be woken."""
        ...

    @property
    def locks(self) -> Sequence[threading.Lock]:
        """Each is held while a thread here is inside a driver: a fork takes them first, to leave none locked."""
        ...

    def watch(self, wake: Callable[[], object]) -> None:
        """Call `wake`, from a thread of its own, whenever another process may have left something to do."""
        ...

    def unwatch(self) -> None:
        """Call it no more. `watch` may follow."""
        ...

    def notify(self) -> None:
        """Something was committed here: wake the workers of other processes. Waits for nothing, raises nothing."""
        ...

    def claim(self) -> str | None:
        """What a COMMIT may tell the workers right behind itself, in place of `notify`; None if it had better not."""
        ...

    def begin_anew(self) -> None:
        """In a fork: threads and connections stayed with the parent."""
        ...

    def close(self) -> None:
        """Send what is still to be sent, and give back what is held."""
        ...


class Polling:
    """Nobody wakes anybody: workers look by themselves, so often."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds

    @property
    def longest(self) -> float:
        return self._seconds

    @property
    def locks(self) -> Sequence[threading.Lock]:
        return ()

    def watch(self, wake: Callable[[], object]) -> None:
        """Nothing would call it."""

    def unwatch(self) -> None:
        """Nothing was begun."""

    def notify(self) -> None:
        """Nobody hears it."""

    def claim(self) -> None:
        """Nobody hears it."""

    def begin_anew(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""
