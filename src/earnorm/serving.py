"""Serving: plain handlers of a batch's lanes, in threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from earnorm.batch import Batch
from earnorm.delivery import Delivery, Outcome
from earnorm.places import Entrance, Place, Places
from earnorm.portal import LoopThread
from earnorm.threads import Threads
from earnorm.underway import Run

__all__ = ["Serving", "Watch"]

_log = logging.getLogger("earnorm.worker")


class Performer(Protocol):
    """Who performs attempts: the runner."""

    def begin(self, delivery: Delivery, loaded: Any = None) -> Run: ...

    def perform(self, run: Run) -> Outcome | None: ...

    def give_up(self, run: Run) -> Outcome | None: ...


class Serving:
    """`size` threads follow one lane after the other, side by side. `own_loop` has the timers of their handlers."""

    def __init__(self, performer: Performer, size: int, own_loop: LoopThread) -> None:
        self.threads: Threads | Executor = Threads(size)
        self._performer = performer
        self._size = size
        self._own_loop = own_loop
        self._lock = threading.Lock()

    def begin(self, batch: Batch, lanes: Iterable[int], entrance: Entrance | None) -> None:
        left = partial(_left, batch)
        places = Places(batch, lanes, entrance, resume=self._send, left=left)
        self._send(places, len(places))

    def close(self) -> None:
        self.threads.shutdown(wait=False)

    def _send(self, places: Places, count: int = 1) -> None:
        """So many threads more, unless enough of them are on their way."""
        with self._lock:
            count = min(count, self._size - places.sent)
            places.sent += count
        try:
            for _ in range(count):
                self.threads.submit(self._serve, places)
        except RuntimeError:  # no thread starts any more: the interpreter ends
            places.forgo()

    def _serve(self, places: Places) -> None:
        """Perform one delivery after the other, beside other threads that do the same."""
        with self._lock:
            places.sent -= 1
        while (place := places.take()) is not None:
            if not self._attempt(places, place):
                return

    def _attempt(self, places: Places, place: Place) -> bool:
        """Perform one delivery; False if it was given up, and another thread goes on."""
        batch, run = places.batch, None
        try:
            if batch.closed:
                places.end(place)
                return True
            run = self._performer.begin(places.delivery(place), place.loaded)
            batch.runs(place.lane)
            outcome = self._timed(places, place, run)
        except BaseException:  # noqa: BLE001  whatever it was, it is logged and no attempt
            _log.exception("a delivery was stopped and will be made again")
            if run is not None and run.is_given_up:
                return False
            places.end(place)
            return True
        if outcome is None:
            return False
        places.note(place, outcome)
        return True

    def _timed(self, places: Places, place: Place, run: Run) -> Outcome | None:
        """Perform it; nobody can stop a thread, but once its time is over another one goes on with what follows."""
        if run.timeout is None:
            return self._performer.perform(run)
        watch = Watch(self._own_loop.loop, run.timeout, lambda: self._give_up(places, place, run))
        try:
            return self._performer.perform(run)
        finally:
            watch.end()

    def _give_up(self, places: Places, place: Place, run: Run) -> None:
        outcome = self._performer.give_up(run)
        if outcome is None:
            return
        assert isinstance(self.threads, Threads)
        self.threads.give_up(run.thread)
        places.note(place, outcome)
        self._send(places)


def _left(batch: Batch, count: int) -> None:
    batch.left(in_threads=count)


class Watch:
    """A call from the loop's thread after some seconds, unless it ends before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        loop.call_soon_threadsafe(self._begin, seconds, callback)

    def _begin(self, seconds: float, callback: Callable[[], None]) -> None:
        if not self._ended:
            self._timer = self._loop.call_later(seconds, callback)

    def end(self) -> None:
        self._ended = True
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
