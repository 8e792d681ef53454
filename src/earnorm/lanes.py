"""Lanes under way: in order within one, side by side across them; plain handlers in threads, async ones on a loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple, Protocol

from earnorm.batch import Batch
from earnorm.clock import Clock
from earnorm.delivery import Delivery, Outcome
from earnorm.gate import Gate
from earnorm.portal import LoopThread
from earnorm.preload import Preload, Share
from earnorm.threads import Threads
from earnorm.underway import Run

__all__ = ["Lanes", "Performer"]

_log = logging.getLogger("earnorm.worker")

# Seconds for which handlers that never wait may keep a loop from its other tasks.
_SLICE = 0.005
# Threads that do what may block for async handlers: load their records, ask their conditions.
_LOADERS = 4
# Seconds that cancelled handlers are given to be gone.
_CALM = 1.0


class Performer(Protocol):
    """Who performs attempts: the runner."""

    def is_async(self, name: str) -> bool: ...

    def concurrency(self, name: str) -> int | None: ...

    def loads(self, delivery: Delivery) -> bool: ...

    def load(self, deliveries: Sequence[Delivery]) -> list[Any]: ...

    def begin(self, delivery: Delivery, loaded: Any = None) -> Run: ...

    def perform(self, run: Run) -> Outcome | None: ...

    async def aperform(self, run: Run, executor: Executor | None = None) -> Outcome | None: ...

    def give_up(self, run: Run) -> Outcome | None: ...


class _Place(NamedTuple):
    """Where to go on in a batch: a lane, and which of its deliveries is next. `gate` is the one it is inside of."""

    lane: int
    start: int = 0
    gate: Gate | None = None


_Places = deque[_Place]


class Lanes:
    """Runs batches. A handler sees a context of its own: nothing of whoever woke the worker or drains it."""

    def __init__(
        self, performer: Performer, clock: Clock, *, threads: int, concurrency: int, own_loop: LoopThread
    ) -> None:
        self._performer = performer
        self._clock = clock
        self._size = threads
        self._threads = Threads(threads)
        # Others than the handlers' own: plain handlers that hang must not keep records from async ones.
        self._loaders = Threads(_LOADERS, "earnorm-loaders")
        self._preload = Preload(performer, self._loaders)
        self._concurrency = concurrency
        self._own_loop = own_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: dict[str, Gate] = {}

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run async handlers on `loop` for as long as it runs; otherwise they run on the loop thread."""
        self._loop = loop

    def begin(self, batch: Batch) -> None:
        """Start every lane, the first ones first."""
        plain, awaited = _Places(), _Places()
        for index, lane in enumerate(batch.lanes):
            (awaited if self._performer.is_async(lane[0].subscription) else plain).append(_Place(index))
        batch.expect(in_threads=len(plain), on_loop=len(awaited))
        if awaited:
            self._on_loop(batch, lambda: self._drive_more(batch, awaited))
        for _ in range(min(len(plain), self._size)):
            self._send(batch, plain)

    def abandon(self, batch: Batch) -> None:
        """Cancel the async deliveries of `batch` and leave the others to themselves. None of them was an attempt."""
        batch.close()
        loop = batch.loop
        if loop is None or batch.calm.is_set() or loop.is_closed():
            return
        loop.call_soon_threadsafe(_cancel, batch)
        self._clock.wait(batch.calm, _CALM)

    def close(self) -> None:
        self._preload.close()
        self._threads.shutdown(wait=False)
        self._loaders.shutdown(wait=False)
        self._loop = None

    def _take(self, batch: Batch, places: _Places, later: Callable[[Batch, _Places], None]) -> _Place | None:
        """The next lane that may run. One whose handler is at work often enough comes back, and `later` is told."""
        while True:
            try:
                place = places.popleft()
            except IndexError:
                return None
            if place.gate is not None:
                return place
            name = batch.lanes[place.lane][0].subscription
            room = self._performer.concurrency(name)
            if room is None:
                return place
            inside = place._replace(gate=self._gates.setdefault(name, Gate(room)))
            if self._enter(batch, places, inside, later):
                return inside

    @staticmethod
    def _enter(batch: Batch, places: _Places, inside: _Place, later: Callable[[Batch, _Places], None]) -> bool:
        assert inside.gate is not None

        def admit() -> None:
            places.appendleft(inside)
            later(batch, places)

        return inside.gate.enter(admit)

    # --- in threads --------------------------------------------------------------------------

    def _send(self, batch: Batch, places: _Places) -> None:
        try:
            self._threads.submit(self._serve, batch, places)
        except RuntimeError:  # no thread starts any more: the interpreter ends
            batch.left(in_threads=_forgo(places))

    def _serve(self, batch: Batch, places: _Places) -> None:
        """Follow one lane after the other, beside other threads that do the same."""
        while (place := self._take(batch, places, self._send)) is not None:
            if not self._follow(batch, places, place):
                return
            _leave(place)
            batch.left(in_threads=1)

    def _follow(self, batch: Batch, places: _Places, place: _Place) -> bool:
        """False if a delivery of the lane was given up, and another thread goes on."""
        run: Run | None = None
        try:
            lane = batch.lanes[place.lane]
            for index in range(place.start, len(lane)):
                if batch.closed:
                    break
                run = self._performer.begin(lane[index], self._loaded(batch, place.lane, index))
                batch.runs(place.lane)
                outcome = self._timed(batch, places, place._replace(start=index + 1), run)
                if outcome is None:
                    return False
                if not batch.note(place.lane, outcome):
                    break
        except BaseException:  # noqa: BLE001  whatever it was, it is logged and no attempt
            _log.exception("a delivery was stopped and will be made again")
            return run is None or not run.is_given_up
        return True

    def _loaded(self, batch: Batch, lane: int, index: int) -> Any:
        share = None if index else self._preload.share(batch, lane)
        if share is None:
            return None
        wait([share.job])
        return share.get()

    def _timed(self, batch: Batch, places: _Places, following: _Place, run: Run) -> Outcome | None:
        """Perform it; nobody can stop a thread, but once its time is over another one goes on with what follows."""
        if run.timeout is None:
            return self._performer.perform(run)
        watch = _Watch(self._own_loop.loop, run.timeout, lambda: self._give_up(batch, places, following, run))
        try:
            return self._performer.perform(run)
        finally:
            watch.end()

    def _give_up(self, batch: Batch, places: _Places, following: _Place, run: Run) -> None:
        outcome = self._performer.give_up(run)
        if outcome is None:
            return
        self._threads.give_up(run.thread)
        if batch.note(following.lane, outcome):
            places.appendleft(following)
        else:
            _leave(following)
            batch.left(in_threads=1)
        self._send(batch, places)

    # --- on a loop ---------------------------------------------------------------------------

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

    def _drive_more(self, batch: Batch, places: _Places) -> None:
        """See to it that a task follows these lanes, unless as many handlers wait as may.

        One does, until its handler waits: handlers that never do need no other.
        """
        if not places or batch.driving or batch.waiting >= self._concurrency:
            return
        batch.driving += 1
        batch.calm.clear()
        task = asyncio.get_running_loop().create_task(self._drive(batch, places), context=Context())
        batch.tasks.add(task)
        task.add_done_callback(partial(self._task_ended, batch, places))

    def _drive_later(self, batch: Batch, places: _Places) -> None:
        """From whatever thread has made room."""
        assert batch.loop is not None
        try:
            batch.loop.call_soon_threadsafe(self._drive_more, batch, places, context=Context())
        except RuntimeError:  # it was closed
            batch.left(on_loop=_forgo(places))

    async def _drive(self, batch: Batch, places: _Places) -> None:
        """Follow one lane after the other until a handler waits. That one keeps this task, and a new one goes on.

        So whatever a handler ties to its task, a timeout or a session, it finds again after it waited, and nobody
        else does.
        """
        since = time.perf_counter()
        while (place := self._take(batch, places, self._drive_later)) is not None:
            if await self._attempt(batch, places, place):
                # Another task goes on since the handler waited.
                return
            if time.perf_counter() - since > _SLICE:
                await asyncio.sleep(0)
                since = time.perf_counter()
        batch.driving -= 1

    async def _attempt(self, batch: Batch, places: _Places, place: _Place) -> bool:
        """Perform one delivery; whether its handler waited."""
        run: Run | None = None
        try:
            if not batch.closed:
                share = None if place.start else self._preload.share(batch, place.lane)
                loaded = None if share is None else await _shared(share)
                run = self._performer.begin(batch.lanes[place.lane][place.start], loaded)
                run.on_wait = partial(self._waits, batch, places, place.lane)
                if run.timeout is not None:
                    run.on_given_up = partial(self._go_on, batch, places, place)
                outcome = await self._performer.aperform(run, self._loaders)
                if outcome is None:
                    return True
                self._noted(batch, places, place, outcome)
            else:
                self._end(batch, place)
        except BaseException as error:
            if run is not None and run.is_given_up:
                return True
            self._end(batch, place)
            if not isinstance(error, Exception):
                self._pause(batch, run)
                raise
            _log.exception("a delivery was stopped and will be made again")
        if run is None or not run.waited:
            return False
        self._pause(batch, run)
        self._drive_more(batch, places)
        return True

    @staticmethod
    def _pause(batch: Batch, run: Run | None) -> None:
        """A task of the batch is about to end."""
        if run is not None and run.waited:
            batch.waiting -= 1
        else:
            batch.driving -= 1

    def _waits(self, batch: Batch, places: _Places, lane: int) -> None:
        batch.runs(lane)
        batch.driving -= 1
        batch.waiting += 1
        self._drive_more(batch, places)

    def _go_on(self, batch: Batch, places: _Places, place: _Place, outcome: Outcome) -> None:
        """A handler goes on past its time, deaf to being cancelled: leave it its task, and go on in another."""
        batch.waiting -= 1
        self._noted(batch, places, place, outcome)
        self._drive_more(batch, places)

    def _noted(self, batch: Batch, places: _Places, place: _Place, outcome: Outcome) -> None:
        """The outcome of a delivery: its lane goes on, or has come to its end."""
        if batch.note(place.lane, outcome) and place.start + 1 < len(batch.lanes[place.lane]):
            places.appendleft(place._replace(start=place.start + 1))
        else:
            self._end(batch, place)

    @staticmethod
    def _end(batch: Batch, place: _Place) -> None:
        _leave(place)
        batch.left(on_loop=1)

    def _task_ended(self, batch: Batch, places: _Places, task: asyncio.Task[None]) -> None:
        batch.tasks.discard(task)
        if not batch.tasks:
            batch.left(on_loop=_forgo(places))
            batch.calm.set()


def _leave(place: _Place) -> None:
    if place.gate is not None:
        place.gate.leave()


def _forgo(places: _Places) -> int:
    """Nobody is left to run these: how many lanes that makes."""
    count = len(places)
    for place in places:
        _leave(place)
    places.clear()
    return count


async def _shared(share: Share) -> Any:
    if not share.job.done():
        await asyncio.wait([asyncio.wrap_future(share.job)])
    return share.get()


def _cancel(batch: Batch) -> None:
    for task in tuple(batch.tasks):
        task.cancel()


class _Watch:
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
