"""The portal between sync code and event loops: how sync code awaits, where it can.

Sync code under an async door runs in a greenlet of SQLAlchemy's, which can await in place. Elsewhere a coroutine
runs on a loop thread of our own. A sync door in a bare coroutine is refused, since it would block the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from greenlet import GreenletExit  # type: ignore[import-untyped]  # its types are not marked as such
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from earnorm.errors import SyncDoorInCoroutine

__all__ = [
    "GreenletExit",
    "LoopThread",
    "await_here",
    "can_await",
    "loop_thread",
    "owner",
    "refuse_in_coroutine",
    "spawn",
    "wait_for",
]

T = TypeVar("T")

# Seconds that a loop which stops gives the tasks that were cancelled before.
_GRACE = 1.0


can_await = in_greenlet
"""Whether sync code runs under an async door here, so that it can await in place."""


def await_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await in place, in the task of the async door this sync code runs under."""
    return await_only(coroutine)


async def spawn(function: Callable[..., T], *args: Any) -> T:
    """Run sync code so that it can `await_here`."""
    return await greenlet_spawn(function, *args)


def refuse_in_coroutine(door: str, instead: str | None = None) -> None:
    """Raises SyncDoorInCoroutine if calling `door` here would block a running event loop."""
    if asyncio._get_running_loop() is not None and not in_greenlet():
        raise SyncDoorInCoroutine(door, instead or f"a{door}")


def owner() -> tuple[int, int]:
    """Who runs here: the thread, and the task if there is one."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return threading.get_ident(), id(task) if task is not None else 0


def wait_for(coroutine: Coroutine[Any, Any, T], door: str = "emit") -> T:
    """Run a coroutine to its end from sync code: in place, or on the loop thread; never by blocking a running loop."""
    if in_greenlet():
        return await_only(coroutine)
    if asyncio._get_running_loop() is not None:
        coroutine.close()
        raise SyncDoorInCoroutine(door, f"a{door}")
    return loop_thread().run(coroutine)


class LoopThread:
    """An event loop in a daemon thread of its own, started on first use. A fork starts fresh."""

    def __init__(self, name: str = "earnorm-loop") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._loop, self._pid = loop, os.getpid()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name=self._name, daemon=True)
        self._thread.start()

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(_let_cancelled_end())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop, in a copy of the caller's context."""
        future: Future[T] = Future()
        context = contextvars.copy_context()

        def start() -> None:
            task = loop.create_task(coroutine, context=context)
            task.add_done_callback(lambda done: _hand_over(done, future))

        loop = self.loop
        loop.call_soon_threadsafe(start)
        return future

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for what it returns or raises."""
        return self.submit(coroutine).result()

    def close(self) -> None:
        """Stop the loop and join its thread; a later use starts a new one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join()


async def _let_cancelled_end() -> None:
    """Tasks that were cancelled roll back and close what they have: nobody else would, and a lock would be left."""
    cancelled = [task for task in asyncio.all_tasks() if task.cancelling()]
    if cancelled:
        await asyncio.wait(cancelled, timeout=_GRACE)


def _hand_over(done: asyncio.Task[T], future: Future[T]) -> None:
    if done.cancelled():
        future.cancel()
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


_shared = LoopThread()


def loop_thread() -> LoopThread:
    """The loop thread for coroutines of handlers that no database runs."""
    return _shared
