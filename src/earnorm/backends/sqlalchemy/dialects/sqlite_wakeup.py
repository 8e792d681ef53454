"""The wake-up on SQLite: the file itself tells that another connection has committed, whoever it was.

`PRAGMA data_version` takes some microseconds and reads no page. Nothing is sent, so nothing is left behind by a
process that is killed, and no folder need be writable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine

from earnorm.backends.sqlalchemy.dialects.side_thread import SideThread

__all__ = ["SQLiteWakeup"]

# Seconds between two looks: while the file was changed not longer than `_LIVELY` ago, and when it has been idle for
# long. A look costs some 40 µs with the switches between threads.
_QUICK, _SLOW, _LIVELY = 0.0005, 0.032, 1.0

# How long a worker rests where commits are seen, and where they are not.
_SEEN, _UNSEEN = 60.0, 1.0


class SQLiteWakeup(SideThread):
    """Looks at the file's version, as long as a worker watches. A commit needs no telling."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "earnorm-watch", "a worker cannot see at once what other processes commit")
        self._wake: Callable[[], object] = bool

    def _state(self) -> None:
        super()._state()
        self._watching = False

    @property
    def longest(self) -> float:
        return _SEEN if self._watching else _UNSEEN

    @property
    def locks(self) -> Sequence[threading.Lock]:
        return (self.lock,)

    def watch(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self.start()

    def unwatch(self) -> None:
        self.end()

    def notify(self) -> None:
        """The file tells it."""

    def claim(self) -> None:
        """The file tells it."""

    def close(self) -> None:
        self.end()

    # --- in the thread -----------------------------------------------------------------------

    def _rouse(self) -> None:
        """It looks often enough by itself."""

    def _work(self) -> None:
        with self.lock:
            connection = self._connect()
        try:
            self._look_on(connection)
        finally:
            self._watching = False

    def _look_on(self, connection: Any) -> None:
        ending, pause, version, changed = self._ending, _QUICK, -1, 0.0
        while not ending.wait(pause):
            with self.lock:
                found = connection.execute("PRAGMA data_version").fetchone()[0]
            if found != version:
                version, changed, pause = found, time.monotonic(), _QUICK
                self._watching = True
                self._succeed()
                self._wake()
            elif pause < _SLOW and time.monotonic() - changed > _LIVELY:
                pause *= 2
