"""Driving: async handlers of a batch's lanes, by tasks of a loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from typing import Any, Protocol

from earnorm.batch import Batch
from earnorm.clock import Clock
from earnorm.delivery import Delivery, Outcome
from earnorm.places import Entrance, Place, Places
from earnorm.portal import LoopThread
from earnorm.stepping import Steps
from earnorm.sweeping import Swept
from earnorm.underway import Run

__all__ = ["Driving"]

_log = logging.getLogger("earnorm.worker")

# Seconds for which handlers that never wait may keep a loop from its other tasks.
_SLICE = 0.005
# Seconds that cancelled handlers are given to be gone.
_CALM = 1.0

# An attempt, and what it came to; None while it waits.
_Tried = tuple[Place, Run, Outcome | None]


class AsyncPerformer(Protocol):
    """Who performs attempts on a loop: the runner."""

    def begin(self, delivery: Delivery, loaded: Any = None) -> Run: ...

    def start(self, run: Run, steps: Steps) -> Outcome | None: ...

    def sweep(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None: ...

    async def finish(self, run: Run, executor: Executor | None = None) -> Outcome | None: ...


class Driving:
    """As many handlers wait side by side as `concurrency` says. What may block for them is done in `loaders`."""

    def __init__(
        self, performer: AsyncPerformer, clock: Clock, concurrency: int, own_loop: LoopThread, loaders: Executor
    ) -> None:
        self._performer = performer
        self._clock = clock
        self._concurrency = concurrency
        self._own_loop = own_loop
        self._loaders = loaders
        self._loop: asyncio.AbstractEventLoop | None = None

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run handlers on `loop` for as long as it runs; otherwise they run on the loop thread."""
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where handlers run now."""
        given = self._loop
        return given if given is not None and given.is_running() else self._own_loop.loop

    def begin(self, batch: Batch, lanes: Iterable[int], entrance: Entrance | None) -> None:
        places = Places(batch, lanes, entrance, resume=self._drive_later, left=batch.ended.append)
        if len(places):
            self._on_loop(batch, lambda: self._drive_more(places))

    def abandon(self, batch: Batch) -> None:
        """Cancel what runs on a loop, and wait a moment until it has ended."""
        loop = batch.loop
        if loop is None or batch.calm.is_set() or loop.is_closed():
            return
        loop.call_soon_threadsafe(_cancel, batch)
        self._clock.wait(batch.calm, _CALM)

    def _on_loop(self, batch: Batch, callback: Callable[[], None]) -> None:
        given = self._loop
        if given is not None and given.is_running():
            try:
                batch.loop = given
                given.call_soon_threadsafe(callback, context=Context())
                return
            except RuntimeError:  # closed in this very moment
                self._loop = None
        batch.loop = self._own_loop.loop
        batch.loop.call_soon_threadsafe(callback, context=Context())

    # --- tasks -------------------------------------------------------------------------------

    def _drive_more(self, places: Places) -> None:
        """See to it that a task follows these lanes, unless as many handlers wait as may.

        One does, until its handler waits: handlers that never do need no other.
        """
        places.sent = 0
        batch = places.batch
        if not places.is_ready or batch.driving or batch.waiting >= self._concurrency:
            return
        batch.driving += 1
        batch.calm.clear()
        task = asyncio.get_running_loop().create_task(self._drive(places), context=Context())
        batch.tasks.add(task)
        task.add_done_callback(partial(self._task_ended, places))

    def _drive_later(self, places: Places, _count: int) -> None:
        """From whatever thread has made room. What comes back before the loop has come to it is seen then."""
        if places.sent:
            return
        places.sent = 1
        assert places.batch.loop is not None
        try:
            places.batch.loop.call_soon_threadsafe(self._drive_more, places, context=Context())
        except RuntimeError:  # it was closed
            places.forgo()
            places.batch.tell_ended()

    async def _drive(self, places: Places) -> None:
        """Perform one delivery after the other until a handler waits. That one keeps this task, and a new one goes on.

        So whatever a handler ties to its task, a timeout or a session, it finds again after it waited, and nobody
        else does.
        """
        batch, steps = places.batch, Steps()
        try:
            while (waiting := self._follow(places, steps)) is None and places.is_ready:
                batch.tell_ended()
                await asyncio.sleep(0)
        finally:
            batch.driving -= 1
            batch.tell_ended()
        if waiting is not None:
            await self._finish(places, *waiting)

    def _follow(self, places: Places, steps: Steps) -> tuple[Place, Run] | None:
        """Perform one delivery after the other for a moment, or up to one that waits: returned if one does."""
        until = time.perf_counter() + _SLICE
        while True:
            try:
                tried = self._swept(places, steps, until) or self._attempt(places, steps)
                if tried is None:
                    return None
                place, run, outcome = tried
                if outcome is None:
                    return place, run
                places.note(place, outcome)
                if run.started > until:
                    return None
            except Exception:  # noqa: BLE001  whatever it was, it is logged and no attempt
                _log.exception("a delivery was stopped and will be made again")

    def _swept(self, places: Places, steps: Steps, until: float) -> _Tried | None:
        """Begin lanes for as long as what is in them is done at once: the first that is not, if it was begun."""
        if not places.is_open:
            return None
        swept = self._performer.sweep(places.batch, places.unbegun, steps, until)
        if swept is None:
            return None
        place = Place(swept.lane, swept.place)
        if swept.run is None:
            places.go_on(place)
            return None
        return place, swept.run, swept.outcome

    def _attempt(self, places: Places, steps: Steps) -> _Tried | None:
        """Perform the next delivery, as far as it goes without waiting; None if there is none to be performed now."""
        while (place := places.take()) is not None:
            try:
                if not places.batch.closed:
                    run = self._performer.begin(places.delivery(place), place.loaded)
                    return place, run, self._performer.start(run, steps)
            except BaseException:
                places.end(place)
                raise
            places.end(place)
        return None

    async def _finish(self, places: Places, place: Place, run: Run) -> None:
        """The rest of one that waits, while another task follows the other lanes."""
        batch = places.batch
        batch.runs(place.lane)
        batch.waiting += 1
        self._drive_more(places)
        if run.timeout is not None:
            run.on_given_up = partial(self._go_on, places, place)
        try:
            outcome = await self._performer.finish(run, self._loaders)
            if outcome is None:
                return
            places.note(place, outcome)
        except BaseException as error:
            if run.is_given_up:
                return
            places.end(place)
            if not isinstance(error, Exception):
                batch.waiting -= 1
                raise
            _log.exception("a delivery was stopped and will be made again")
        finally:
            batch.tell_ended()
        batch.waiting -= 1
        self._drive_more(places)

    def _go_on(self, places: Places, place: Place, outcome: Outcome) -> None:
        """A handler goes on past its time, deaf to being cancelled: leave it its task, and go on in another."""
        places.batch.waiting -= 1
        places.note(place, outcome)
        places.batch.tell_ended()
        self._drive_more(places)

    def _task_ended(self, places: Places, task: asyncio.Task[None]) -> None:
        batch = places.batch
        batch.tasks.discard(task)
        if batch.tasks:
            return
        if task.cancelled() or task.exception() is not None:
            places.forgo()
            batch.tell_ended()
        # What came back while the last task ended has none yet.
        self._drive_more(places)
        if not batch.tasks:
            batch.calm.set()


def _cancel(batch: Batch) -> None:
    for task in tuple(batch.tasks):
        task.cancel()
