"""Forks: no worker is inside its store, nor in a driver, while its process forks; in the child each begins anew.

A thread does not come along into the child, but the locks that it held do: those of SQLite and of the pool for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from earnorm.worker import _workers

# Seconds that a fork waits for a worker's pass; a handler that forks itself is inside one.
_PATIENCE = 2.0
_paused: list[threading.Lock] = []
_inherited: list[object] = []


def _pause() -> None:
    passes = [lock for worker in tuple(_workers) for lock in (worker._passing, *worker._outside.locks)]
    _paused.extend(lock for lock in passes if lock.acquire(timeout=_PATIENCE))


def _go_on() -> None:
    while _paused:
        _paused.pop().release()


def _begin_anew() -> None:
    _paused.clear()
    for worker in tuple(_workers):
        worker._begin_anew()


def leave_alone(inherited: object) -> None:
    """Hold what the child has of its parent's: dropped, a connection would close, and its file's locks with it."""
    _inherited.append(inherited)


def watch(then: Callable[[], None]) -> None:
    """From now on, where processes fork at all; `then` is called in the child, once its workers have begun anew."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_begin_anew)
        os.register_at_fork(after_in_child=then)
