"""A pool that the event loops of several threads use at once.

SQLAlchemy's own has a lock and a queue of asyncio's: whoever waits there is woken on the loop that gives something
back, and on any other loop sleeps on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

__all__ = ["SharedPool"]

T = TypeVar("T")

# Seconds between two looks whether the first connection is open.
_MOMENT = 0.002


class _SharedQueue(QueueCommon[T]):
    """What is put here on one loop wakes whoever has waited longest, on whatever loop."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002  as SQLAlchemy calls it
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._items: deque[T] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        # A connection that is collected as garbage comes back in the middle of anything, also of what is below.
        self._lock = threading.RLock()

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def qsize(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        with self._lock:
            if self.full():
                raise Full
            self._items.append(item)
            self._wake_one()

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002  a pool never waits to give back
        self.put_nowait(item)

    def get_nowait(self) -> T:
        with self._lock:
            if not self._items:
                raise Empty
            return self._items.pop() if self.use_lifo else self._items.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # noqa: FBT001, FBT002  as SQLAlchemy calls it
        if not block or self._items:
            with suppress(Empty):
                return self.get_nowait()
        if not block:
            raise Empty
        return await_only(self._wait(timeout))

    async def _wait(self, timeout: float | None) -> T:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    turn = asyncio.get_running_loop().create_future()
                    with self._lock:
                        with suppress(Empty):
                            return self.get_nowait()
                        self._waiting.append(turn)
                    await self._turn(turn)
        except TimeoutError:
            raise Empty from None

    async def _turn(self, turn: asyncio.Future[None]) -> None:
        try:
            await turn
        except BaseException:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif self._items:
                    self._wake_one()  # woken and given up in one moment: it is somebody else's turn
            raise

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            # A loop that is closed is waiting for nothing.
            with suppress(RuntimeError):
                turn.get_loop().call_soon_threadsafe(_wake, turn)
                return


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class SharedPool(AsyncAdaptedQueuePool):
    """For drivers whose connections belong to no loop."""

    # Its log lines are a pool's, for whoever listens to SQLAlchemy's.
    __module__ = AsyncAdaptedQueuePool.__module__

    _queue_class: type[QueueCommon[Any]] = _SharedQueue

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # SQLAlchemy learns of the server by the very first connection, behind a lock that only one loop can wait for.
        self._opening = threading.Lock()
        self._opened = False

    def connect(self) -> PoolProxiedConnection:
        while not self._opened:
            if self._opening.acquire(blocking=False):
                try:
                    found = self._connect()
                    self._opened = True
                    return found
                finally:
                    self._opening.release()
            await_only(asyncio.sleep(_MOMENT))
        return self._connect()

    def _connect(self) -> PoolProxiedConnection:
        return super().connect()
