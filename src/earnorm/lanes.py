"""Lanes under way: in order within one, side by side across them; plain handlers in threads, async ones on a loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextvars import Context
from typing import Any, Protocol, TypeVar

from earnorm.delivery import Delivery, Outcome, Retry
from earnorm.portal import LoopThread

__all__ = ["Batch", "Lanes", "Performer", "Threads"]

T = TypeVar("T")

_log = logging.getLogger("earnorm.worker")


class Performer(Protocol):
    """Who runs one delivery: the runner."""

    def is_async(self, name: str) -> bool: ...

    def run(self, delivery: Delivery) -> Outcome: ...

    async def arun(self, delivery: Delivery, executor: Executor | None = None) -> Outcome: ...


class Batch:
    """Lanes that were begun together. `signal` is set when all have ended, and when the batch is closed."""

    def __init__(self, lanes: Sequence[tuple[Delivery, ...]]) -> None:
        self.lanes = lanes
        self.signal = threading.Event()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.calm = threading.Event()
        self._outcomes: list[list[Outcome]] = [[] for _ in lanes]
        self._lock = threading.Lock()
        self._in_threads = 0
        self._on_loop = 0

    @property
    def outcomes(self) -> list[list[Outcome]]:
        """What each lane came to so far. A lane that stays short of its deliveries was stopped."""
        return [list(outcomes) for outcomes in self._outcomes]

    @property
    def finished(self) -> bool:
        # A loop that was closed under its tasks will never end them.
        gone = self.loop is not None and self.loop.is_closed()
        return self._in_threads <= 0 and (self._on_loop <= 0 or gone)

    def close(self) -> None:
        """Begin no further delivery."""
        self.closed = True
        self.signal.set()

    def expect(self, *, in_threads: int, on_loop: int) -> None:
        with self._lock:
            self._in_threads, self._on_loop = in_threads, on_loop
        self._look()

    def left(self, *, in_threads: int = 0, on_loop: int = 0) -> None:
        with self._lock:
            self._in_threads -= in_threads
            self._on_loop -= on_loop
        self._look()

    def _look(self) -> None:
        if self._on_loop == 0:
            self.calm.set()
        if self.finished:
            self.signal.set()

    def note(self, lane: int, outcome: Outcome) -> bool:
        """Write an outcome down; whether the lane may go on: behind a delivery that is to be retried, it waits."""
        self._outcomes[lane].append(outcome)
        return not isinstance(outcome, Retry)


class Lanes:
    """Runs batches. A handler sees an empty context: nothing of whoever woke the worker or drains it."""

    def __init__(self, performer: Performer, *, threads: int, concurrency: int, own_loop: LoopThread) -> None:
        self._performer = performer
        self._threads = Threads(threads)
        self._concurrency = concurrency
        self._own_loop = own_loop
        self._loop: asyncio.AbstractEventLoop | None = None

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run async handlers on `loop` for as long as it runs; otherwise they run on the loop thread."""
        self._loop = loop

    def begin(self, batch: Batch) -> None:
        """Start every lane, the first ones first."""
        plain: list[int] = []
        awaited: deque[int] = deque()
        for index, lane in enumerate(batch.lanes):
            (awaited if self._performer.is_async(lane[0].subscription) else plain).append(index)
        drivers = min(len(awaited), self._concurrency)
        batch.expect(in_threads=len(plain), on_loop=drivers)
        if drivers:
            self._on_loop(batch, lambda: self._spread(batch, awaited, drivers))
        for index in plain:
            try:
                self._threads.submit(self._follow, batch, index)
            except RuntimeError:  # no thread starts any more: the interpreter ends
                batch.left(in_threads=1)

    def abandon(self, batch: Batch) -> None:
        """Cancel the async deliveries of `batch` and leave the others to themselves. None of them was an attempt."""
        batch.close()
        loop = batch.loop
        if loop is None or batch.calm.is_set() or loop.is_closed():
            return
        loop.call_soon_threadsafe(_cancel, batch)
        batch.calm.wait(1.0)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._loop = None

    # --- in threads --------------------------------------------------------------------------

    def _follow(self, batch: Batch, index: int) -> None:
        try:
            for delivery in batch.lanes[index]:
                if batch.closed or not batch.note(index, Context().run(self._performer.run, delivery)):
                    return
        except BaseException:  # noqa: BLE001  whatever it was, it is logged and no attempt
            _log.exception("a delivery was stopped and will be made again")
        finally:
            batch.left(in_threads=1)

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

    def _spread(self, batch: Batch, lanes: deque[int], drivers: int) -> None:
        for _ in range(drivers):
            task = asyncio.get_running_loop().create_task(self._drive(batch, lanes))
            batch.tasks.add(task)
            task.add_done_callback(lambda _: batch.left(on_loop=1))

    async def _drive(self, batch: Batch, lanes: deque[int]) -> None:
        while lanes and not batch.closed:
            await self._afollow(batch, lanes.popleft())

    async def _afollow(self, batch: Batch, index: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            for delivery in batch.lanes[index]:
                if batch.closed:
                    return
                attempt = loop.create_task(self._performer.arun(delivery, self._threads), context=Context())
                if not batch.note(index, await attempt):
                    return
        except Exception:  # noqa: BLE001  whatever it was, it is logged and no attempt
            _log.exception("a delivery was stopped and will be made again")


def _cancel(batch: Batch) -> None:
    for task in batch.tasks:
        task.cancel()


class Threads(Executor):
    """A pool of daemon threads: a handler that hangs does not keep the process from ending."""

    def __init__(self, size: int, name: str = "earnorm-handlers") -> None:
        self._size = size
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._started = 0
        self._idle = 0
        self._shift = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                _fulfil(future, lambda: fn(*args, **kwargs))

        with self._changed:
            if self._idle <= len(self._jobs) and self._started < self._size:
                self._start()
            self._jobs.append(job)
            self._changed.notify()
        return future

    def _start(self) -> None:
        name = f"{self._name}-{self._started + 1}"
        thread = threading.Thread(target=self._serve, args=(self._shift,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends; those that run already may still do it
            if not self._started:
                raise
        else:
            self._started += 1

    def _serve(self, shift: int) -> None:
        while (job := self._next(shift)) is not None:
            job()
            del job  # what it holds need not wait for the next one

    def _next(self, shift: int) -> Callable[[], None] | None:
        with self._changed:
            while not self._jobs and shift == self._shift:
                self._idle += 1
                self._changed.wait()
                if shift == self._shift:
                    self._idle -= 1
            return self._jobs.popleft() if shift == self._shift else None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  the signature is Executor's
        """Let the threads end after what they do now; what waits is dropped, and a later use starts new ones."""
        with self._changed:
            self._shift += 1
            self._started = self._idle = 0
            self._jobs.clear()
            self._changed.notify_all()


def _fulfil(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  whoever waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
