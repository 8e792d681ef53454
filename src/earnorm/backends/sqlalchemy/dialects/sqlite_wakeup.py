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

# Seconds between two looks: a 250th of the silence so far, but not less, nor more. A look costs some 50 µs with the
# switch to the thread: a tenth of a core while commits come all the time, one per cent after a silent second.
_QUICK, _SLOW, _SHARE = 0.00025, 0.032, 0.004

# How long a worker rests where commits are seen, and where they are not.
_SEEN, _UNSEEN = 60.0, 1.0


class SQLiteWakeup(Ears):
    """Looks at the file's version, as long as a worker waits. A commit needs no telling."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "a worker cannot see at once what other processes commit")

    def _state(self) -> None:
        super()._state()
        self._version, self._changed = -1, 0.0

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

    def told(self) -> None:
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
        while not self._take_in(connection):
            now = time.monotonic()
            if now >= until:
                return False
            if bell.wait(min(max(_QUICK, _SHARE * (now - self._changed)), _SLOW, until - now)):
                break
        return True

    def _take_in(self, connection: Any) -> bool:
        with self.lock:
            found = connection.execute("PRAGMA data_version").fetchone()[0]
        if found == self._version:
            return False
        self._version, self._changed = found, time.monotonic()
        self._succeed()
        return True
