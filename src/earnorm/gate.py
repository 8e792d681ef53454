"""A gate: how many of one kind may be inside at once. Whoever comes later is called when there is room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Gate"]


class Gate:
    """First come, first served; from any thread."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()

    def enter(self, later: Callable[[], None]) -> bool:
        """True: inside. False: `later` is called once there is room, and is inside then."""
        with self._lock:
            if self._room > 0:
                self._room -= 1
                return True
            self._waiting.append(later)
            return False

    def leave(self) -> None:
        with self._lock:
            if not self._waiting:
                self._room += 1
                return
            later = self._waiting.popleft()
        later()
