"""A side thread: a daemon with a side connection, for what nobody should wait for."""

from __future__ import annotations

import threading
from abc import abstractmethod

from sqlalchemy import Engine

from earnorm.backends.sqlalchemy.dialects.side_connection import SideConnection

__all__ = ["SideThread"]

# Seconds that ending waits for a thread; its connection attempt may take longer, and ends with the process.
_PATIENCE = 2.0


class SideThread(SideConnection):
    """Started on first use, ended by `end`."""

    def __init__(self, engine: Engine, name: str, what: str) -> None:
        self._name = name
        super().__init__(engine, what)

    def _state(self) -> None:
        super()._state()
        self._starting = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

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

    # --- in the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        ending, over = self._ending, False
        while not over:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  a driver may raise anything, and nothing depends on it
                ending.wait(self._fail(error))
            finally:
                self._disconnect()
            over = ending.is_set()
