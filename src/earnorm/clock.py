"""The clock: now, and waiting. Time comes in from outside, so that no test sleeps."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "Signal", "SystemClock", "VirtualClock"]


@runtime_checkable
class Clock(Protocol):
    """What the engine asks of time."""

    @abstractmethod
    def now(self) -> datetime:
        """The time of day, aware, in UTC."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that only ever grow; their zero means nothing."""

    @abstractmethod
    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until `event` is set or `seconds` have passed; tell whether it is set."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Suspend this task for `seconds`."""


class Signal(Protocol):
    """What somebody waits for and others set: a `threading.Event`, or what wakes a task."""

    def set(self) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(max(0.0, seconds))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class VirtualClock:
    """A clock that stands still until a test calls `advance`; whoever waits on it wakes up then.

    A wait lasts from the moment it begins: what was advanced before does not count. A test with
    threads looks at `waiting` to know that they have got there.
    """

    # An event is set by others, who do not know us: how often, in real seconds, a waiting thread looks at it.
    _LOOK = 0.002

    def __init__(self, start: datetime) -> None:
        if start.utcoffset() is None:
            raise ValueError(f"start={start!r} has no time zone; write datetime(..., tzinfo=UTC)")
        self._start = start.astimezone(UTC)
        # Whole nanoseconds: ten steps of 0.1 s make a second.
        self._passed = 0
        self._changed = threading.Condition()
        self._threads: dict[object, int] = {}
        self._sleepers: dict[asyncio.Future[None], int] = {}

    def now(self) -> datetime:
        with self._changed:
            return self._start + timedelta(microseconds=self._passed // 1000)

    def monotonic(self) -> float:
        with self._changed:
            return self._passed / 1e9

    @property
    def waiting(self) -> int:
        """How many threads and tasks wait for a time of this clock that is yet to come."""
        with self._changed:
            return sum(deadline > self._passed for deadline in self._threads.values()) + len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake up all whose time has come. Tasks run when their loop next does."""
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: time does not go back")
        with self._changed:
            self._passed += _nanoseconds(seconds)
            due = [sleeper for sleeper, deadline in self._sleepers.items() if deadline <= self._passed]
            for sleeper in due:
                del self._sleepers[sleeper]
            self._changed.notify_all()
        for sleeper in due:
            _wake(sleeper)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        with self._changed:
            mine = object()
            deadline = self._threads[mine] = self._passed + _nanoseconds(seconds)
            try:
                while not event.is_set() and self._passed < deadline:
                    self._changed.wait(self._LOOK)
            finally:
                del self._threads[mine]
        return event.is_set()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        with self._changed:
            self._sleepers[sleeper] = self._passed + _nanoseconds(seconds)
        try:
            await sleeper
        finally:
            with self._changed:
                self._sleepers.pop(sleeper, None)


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _wake(sleeper: asyncio.Future[None]) -> None:
    loop = sleeper.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_finish, sleeper)


def _finish(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():  # cancelled in the meantime
        sleeper.set_result(None)
