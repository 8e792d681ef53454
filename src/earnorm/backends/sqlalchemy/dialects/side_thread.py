"""A side thread: a daemon with one connection of its own, beside the pool, for wake-ups.

What goes wrong with the connection is logged once and tried again later, since nothing depends on it.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from typing import Any

from sqlalchemy import Engine

__all__ = ["SideThread"]

_log = logging.getLogger("earnorm.wakeup")

# Seconds until a connection that failed is tried again, at first and at last.
_AGAIN, _LATEST = 1.0, 60.0
# Seconds that ending waits for a thread; its connection attempt may take longer, and ends with the process.
_PATIENCE = 2.0

# Connections of the parent, in a fork: closing one there would end the parent's session.
_inherited: list[Any] = []


class SideThread:
    """Started on first use, ended by `end`; a fork begins anew. `lock` is held while it is inside the driver."""

    def __init__(self, engine: Engine, name: str, what: str) -> None:
        # As the engine connects, with its listeners and whatever was given to it, and apart from its pool.
        self._pool = engine.pool.recreate()
        self._name = name
        self._what = what
        self._state()

    def _state(self) -> None:
        self.lock = threading.Lock()
        self._starting = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._failures = 0

    @abstractmethod
    def _work(self) -> None:
        """Connect, and work until `_ending` is set; raise when the connection is of no use any more."""

    @abstractmethod
    def _rouse(self) -> None:
        """Let the thread see that it is to end."""

    def start(self) -> None:
        with self._starting:
            # An interpreter that ends begins no thread.
            if self._thread is not None or not threading.main_thread().is_alive():
                return
            self._ending.clear()
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ending.set()
        self._rouse()
        if thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def begin_anew(self) -> None:
        _inherited.append(self._connection)
        self._state()

    # --- in the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        ending, over = self._ending, False
        while not over:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  a driver may raise anything, and nothing depends on it
                self._fail(error)
                ending.wait(min(_AGAIN * 2 ** min(self._failures - 1, 10), _LATEST))
            finally:
                self._disconnect()
            over = ending.is_set()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            _log.warning("%s (%s); trying again now and then", self._what, reason[0])

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
