"""A side connection: one of its own, beside the pool, for wake-ups.

What goes wrong with it is logged once and tried again later, since nothing depends on it.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from typing import Any, Protocol

from sqlalchemy import Engine

from earnorm.wakeup import Bell, Wakeup

__all__ = ["Ears", "HasEars", "SideConnection"]

_log = logging.getLogger("earnorm.wakeup")

# Seconds until a connection that failed is tried again, at first and at last.
_AGAIN, _LATEST = 1.0, 60.0

# Connections of the parent, in a fork: closing one there would end the parent's session.
_inherited: list[Any] = []


class SideConnection:
    """Opened on first use; a fork begins anew. `lock` is held while a thread is inside the driver."""

    def __init__(self, engine: Engine, what: str) -> None:
        # As the engine connects, with its listeners and whatever was given to it, and apart from its pool.
        self._pool = engine.pool.recreate()
        self._what = what
        self._state()

    def _state(self) -> None:
        self.lock = threading.Lock()
        self._connection: Any = None
        self._failures = 0

    def begin_anew(self) -> None:
        _inherited.append(self._connection)
        self._state()

    def _fail(self, error: Exception) -> float:
        """Returns in how many seconds to try again."""
        self._failures += 1
        if self._failures == 1:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            _log.warning("%s (%s); trying again now and then", self._what, reason[0])
        return min(_AGAIN * 2.0 ** min(self._failures - 1, 10), _LATEST)

    def _succeed(self) -> None:
        if self._failures:
            _log.info("wake-ups work again")
        self._failures = 0

    def _connect(self) -> Any:
        """The driver's own connection, in autocommit, which belongs to no pool."""
        fairy = self._pool.connect()
        self._connection = fairy.driver_connection
        fairy.detach()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self.lock:
                connection.close()


class HasEars(Wakeup, Protocol):
    """A wake-up whose worker waits by a connection."""

    @property
    def ears(self) -> Ears: ...


class Ears(SideConnection):
    """By which the thread of a worker waits, and learns of what other processes committed."""

    def _state(self) -> None:
        super()._state()
        self._deaf_until = 0.0

    def wait(self, bell: Bell, seconds: float) -> bool:
        """As `Wakeup.wait`. While the connection fails, only the bell is heard."""
        until = time.monotonic() + seconds
        while not bell.is_set() and (left := until - time.monotonic()) > 0:
            if (deaf := self._deaf_until - time.monotonic()) > 0:
                bell.wait(min(left, deaf))
                continue
            try:
                return self._hear(bell, until)
            except Exception as error:  # noqa: BLE001  a driver may raise anything, and nothing depends on it
                self._lose(error)
        return bell.is_set()

    def heed(self) -> None:
        """As `Wakeup.heed`."""
        if self._connection is None:
            return
        try:
            self._take_in(self._connection)
        except Exception as error:  # noqa: BLE001  as above
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._deaf_until = time.monotonic() + self._fail(error)
        self.leave()

    def leave(self) -> None:
        self._disconnect()

    def lend(self) -> Any:
        """Its connection, to look at the log by, until it is given `back`. None: there is none, or it is in use."""
        if self._connection is None or not self.lock.acquire(blocking=False):
            return None
        connection = self._connection
        if connection is None:
            self.lock.release()
        return connection

    def back(self) -> None:
        self.lock.release()

    @abstractmethod
    def _hear(self, bell: Bell, until: float) -> bool:
        """`wait`, by a connection that is opened if there is none; raise when it is of no use any more."""

    @abstractmethod
    def _take_in(self, connection: Any) -> bool:
        """Take in what it has told by now, without waiting; whether another process may have left something to do."""
