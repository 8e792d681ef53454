"""Threads: a pool for plain handlers, whose threads may be given up one by one."""

from __future__ import annotations

import atexit
import functools
import importlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

__all__ = ["Threads", "before_executors_end"]

T = TypeVar("T")


class Threads(Executor):
    """A pool of daemon threads: a handler that hangs does not keep the process from ending."""

    def __init__(self, size: int, name: str = "earnorm-handlers") -> None:
        self._size = size
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._started = 0
        self._named = 0
        self._idle = 0
        self._shift = 0
        self._given_up: set[int] = set()

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
        self._named += 1
        name = f"{self._name}-{self._named}"
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

    def give_up(self, thread: int) -> None:
        """Let another thread work in place of this one, which ends with its job, if ever."""
        with self._changed:
            self._given_up.add(thread)
            self._started -= 1
            if self._jobs:
                self._start()

    def _next(self, shift: int) -> Callable[[], None] | None:
        with self._changed:
            if (this := threading.get_ident()) in self._given_up:
                self._given_up.discard(this)
                return None
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
            self._given_up.clear()
            self._jobs.clear()
            self._changed.notify_all()


def _fulfil(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  whoever waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)


@functools.cache
def before_executors_end(stop: Callable[[], None]) -> None:
    """Call `stop` before the interpreter closes the executors that handlers may use; atexit comes after that."""
    # Last registered is first called, so the executors' own exit hook must be there already.
    importlib.import_module("concurrent.futures.thread")
    register = getattr(threading, "_register_atexit", atexit.register)
    register(stop)
