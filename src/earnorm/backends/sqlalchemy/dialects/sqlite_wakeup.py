"""The wake-up on SQLite: the file itself tells that another connection has committed, whoever it was.

`PRAGMA data_version` takes some microseconds and reads no page. Nothing is sent, so nothing is left behind by a
process that is killed, and no folder need be writable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from earnorm.backends.sqlalchemy.dialects.side_connection import Ears
from earnorm.wakeup import Bell

__all__ = ["SQLiteWakeup"]

# Seconds between two looks: while the file was changed not longer than `_LIVELY` ago, and when it has been idle for
# long. A look costs some 40 µs with the switches between threads.
_QUICK, _SLOW, _LIVELY = 0.0005, 0.032, 1.0

# How long a worker rests where commits are seen, and where they are not.
_SEEN, _UNSEEN = 60.0, 1.0


class SQLiteWakeup(Ears):
    """Looks at the file's version, as long as a worker waits. A commit needs no telling."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "a worker cannot see at once what other processes commit")

    def _state(self) -> None:
        super()._state()
        self._version, self._changed, self._pause = -1, 0.0, _QUICK

    @property
    def ears(self) -> Ears:
        return self

    @property
    def longest(self) -> float:
        return _UNSEEN if self._connection is None else _SEEN

    @property
    def locks(self) -> Sequence[threading.Lock]:
        return (self.lock,)

    def notify(self) -> None:
        """The file tells it."""

    def claim(self) -> None:
        """The file tells it."""

    def leave(self) -> None:
        super().leave()
        # Versions are those of one connection.
        self._version = -1

    def close(self) -> None:
        self.leave()

    def _hear(self, bell: Bell, until: float) -> bool:
        with self.lock:
            connection = self._connection or self._connect()
        while not (told := self._take_in(connection)) and (left := until - time.monotonic()) > 0:
            if bell.wait(min(self._pause, left)):
                return True
        return told

    def _take_in(self, connection: Any) -> bool:
        with self.lock:
            found = connection.execute("PRAGMA data_version").fetchone()[0]
        if found != self._version:
            self._version, self._changed, self._pause = found, time.monotonic(), _QUICK
            self._succeed()
            return True
        if self._pause < _SLOW and time.monotonic() - self._changed > _LIVELY:
            self._pause *= 2
        return False
