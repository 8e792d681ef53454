"""The wake-up: how workers learn at once of what other processes committed. Only a hint; polls find it anyway."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

__all__ = ["Bell", "Polling", "Wakeup"]


class Bell(threading.Event):
    """An event that can be waited for beside sockets: once `fileno` was asked for, setting it makes that readable.

    One thread waits and clears; any may set. In a fork the worker makes itself another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def fileno(self) -> int:
        if self._pair is None:
            ears, mouth = self._pair = socket.socketpair()
            ears.setblocking(False)
            mouth.setblocking(False)
            # Not by `__del__`: what is collected together with its sockets may come after them.
            weakref.finalize(self, _close, self._pair)
            if self.is_set():
                # By who did not see the sockets yet, and will say nothing more.
                mouth.send(b".")
        return self._pair[0].fileno()

    def set(self) -> None:
        # Whoever clears it looks afterwards, so what is set already need not be said again.
        if self.is_set():
            return
        super().set()
        if (pair := self._pair) is not None:
            # Full: it is readable.
            with suppress(BlockingIOError):
                pair[1].send(b".")

    def heard(self) -> bool:
        """Whether it is set, asked by who found it readable: it is no more, until it is set again."""
        if self._pair is not None:
            with suppress(BlockingIOError):
                self._pair[0].recv(4096)
        return self.is_set()


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        end.close()


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

    def wait(self, bell: Bell, seconds: float) -> bool:
        """Block until `bell` is set, another process may have left something to do, or for so long; False if that long.

        The worker's own thread waits here, with no other in between.
        """
        ...

    def heed(self) -> None:
        """The log is looked at next, so that what was told until now need not be told by `wait`."""
        ...

    def leave(self) -> None:
        """Nobody waits any more: give back what that took. `wait` may follow."""
        ...

    def notify(self) -> None:
        """Something was committed here: wake the workers of other processes. Waits for nothing, raises nothing."""
        ...

    def claim(self) -> str | None:
        """What a COMMIT may tell the workers right behind itself, in place of `notify`; None if it had better not."""
        ...

    def told(self) -> None:
        """A COMMIT told what `claim` gave it: the workers know of all that was committed here before that."""
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

    def wait(self, bell: Bell, seconds: float) -> bool:
        return bell.wait(max(0.0, seconds))

    def heed(self) -> None:
        """Nothing is told."""

    def leave(self) -> None:
        """Nothing is held."""

    def notify(self) -> None:
        """Nobody hears it."""

    def claim(self) -> None:
        """Nobody hears it."""

    def told(self) -> None:
        """Nobody hears it."""

    def begin_anew(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""
