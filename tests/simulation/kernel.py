"""The kernel: processes made of greenlets, a clock that jumps to the next thing to do, and a seed that decides.

One thread runs everything. A task runs until it pauses; then the kernel draws the next one among those that could go
on. So a seed tells the same story each time, whatever the machine does meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random

from greenlet import getcurrent, greenlet

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Crash(BaseException):
    """This process is gone. Nothing in it may catch this and go on."""


class Stuck(AssertionError):
    """Nothing will ever go on."""


class Process:
    """What crashes as one. `skew` is how wrong its clock is, `frozen` until when the machine gives it no time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.skew = 0.0
        self.frozen = 0.0
        self.on_end: Callable[[], None] = lambda: None


class Task:
    """One thread of a process. `verb` is what it asks the store for."""

    def __init__(self, process: Process, function: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.verb = ""
        self.wakes = 0.0
        self.until: Callable[[], bool] | None = None
        self.greenlet = greenlet(function, parent=hub)

    def may_run(self, now: float) -> bool:
        return self.process.frozen <= now and (self.wakes <= now or (self.until is not None and self.until()))

    @property
    def soonest(self) -> float:
        """When it can go on, if nobody helps."""
        return max(self.wakes, self.process.frozen)


class Kernel:
    """Runs tasks, one step of one of them at a time. `deeds` counts what a story is measured by."""

    def __init__(self, seed: object) -> None:
        self.chance = Random(str(seed))
        self.now = 0.0
        self.steps = 0
        self.deeds = 0
        self.trace: deque[str] = deque(maxlen=40)
        self._hub = getcurrent()
        self._tasks: list[Task] = []
        self._current: Task | None = None

    # --- for the story ---

    def spawn(self, process: Process, function: Callable[[], None], after: float = 0.0) -> Task:
        def run() -> None:
            try:
                function()
            except Crash:
                process.dead = True

        task = Task(process, run, self._hub)
        task.wakes = self.now + after
        self._tasks.append(task)
        return task

    def step(self) -> None:
        """Let one task go on to its next pause."""
        ready = [task for task in self._tasks if task.may_run(self.now)]
        if not ready:
            self._jump()
            ready = [task for task in self._tasks if task.may_run(self.now)]
        self.steps += 1
        self._resume(self.chance.choice(ready))
        self.now += self.chance.random() * 0.02

    def _jump(self) -> None:
        if not self._tasks:
            raise Stuck("all tasks have ended")
        self.now = max(self.now, min(task.soonest for task in self._tasks))

    def _resume(self, task: Task) -> None:
        self._current, task.until = task, None
        try:
            task.greenlet.switch()
        finally:
            self._current = None
        if task.process.dead:
            self.kill(task.process)
        elif task.greenlet.dead:
            self._tasks.remove(task)
            if not any(other.process is task.process for other in self._tasks):
                task.process.on_end()

    def kill(self, process: Process) -> None:
        """End all of it, wherever its tasks stand; only the hub may do this."""
        process.dead = True
        for task in [task for task in self._tasks if task.process is process]:
            self._tasks.remove(task)
            if task.greenlet and not task.greenlet.dead:
                task.greenlet.throw(Crash())
        self.tell(process, "is gone")
        process.on_end()

    def close(self) -> None:
        """End everything, so that no transaction stays open behind a story that failed."""
        for process in {id(task.process): task.process for task in self._tasks}.values():
            process.on_end = lambda: None
            self.kill(process)

    # --- for tasks ---

    def pause(self, seconds: float = 0.0, until: Callable[[], bool] | None = None) -> None:
        """Let others go on, until `seconds` have passed or `until` holds. Outside of any task this is nothing."""
        task = self._current
        if task is None:
            return
        if task.process.dead:
            raise Crash
        task.wakes, task.until = self.now + seconds, until
        # Whatever runs meanwhile is not on this task's loop, if it has one.
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            self._hub.switch()
        finally:
            asyncio._set_running_loop(loop)
        if task.process.dead:
            raise Crash

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody goes on in here: who looks from outside takes no time."""
        current, self._current = self._current, None
        try:
            yield
        finally:
            self._current = current

    @property
    def process(self) -> Process | None:
        return self._current.process if self._current else None

    @property
    def verb(self) -> str:
        return self._current.verb if self._current else ""

    @contextmanager
    def asking(self, verb: str) -> Iterator[None]:
        """The task that runs asks the store for this, and for nothing else meanwhile."""
        task = self._current
        if task is not None:
            task.verb = verb
        try:
            yield
        finally:
            if task is not None:
                task.verb = ""

    def tell(self, process: Process | None, *words: object) -> None:
        who = process.name if process else "-"
        self.trace.append(f"{self.now:9.2f} s  {who:10}  {' '.join(map(str, words))}")


class ProcessClock:
    """The clock of one process: its time of day may be wrong, its seconds are right, and waiting lets others go on."""

    def __init__(self, kernel: Kernel, process: Process | None = None) -> None:
        self._kernel = kernel
        self._process = process

    def now(self) -> datetime:
        skew = self._process.skew if self._process else 0.0
        return START + timedelta(seconds=round(self._kernel.now + skew, 6))

    def monotonic(self) -> float:
        return self._kernel.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._kernel.pause(seconds, event.is_set)
        return event.is_set()

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError("nothing in a story sleeps on a loop")


class Lock:
    """A lock for which others go on while somebody waits."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._held = False

    def acquire(self, timeout: float = 1e9) -> bool:
        until = self._kernel.now + timeout
        while self._held and self._kernel.now < until:
            self._kernel.pause(until - self._kernel.now, lambda: not self._held)
        got, self._held = not self._held, True
        return got

    def release(self) -> None:
        self._held = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Thread:
    """A task as those see it who wait for its end."""

    def __init__(self, kernel: Kernel, task: Task) -> None:
        self._kernel = kernel
        self._task = task

    def join(self, timeout: float) -> None:
        self._kernel.pause(timeout, lambda: self._task.greenlet.dead)


class Greenlets(Executor):
    """An executor whose threads are tasks of one process."""

    def __init__(self, kernel: Kernel, process: Process) -> None:
        self._kernel = kernel
        self._process = process

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()

        def job() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self._kernel.spawn(self._process, job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Tasks end with their process."""
