"""Stepping: a coroutine taken through its steps in a context that is not its task's, and a timer for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from types import CoroutineType
from typing import Any

__all__ = ["Rest", "Timer", "awaiting"]


class Rest:
    """What is left of a coroutine, awaited by a task of another context: each of its steps is made in its own."""

    __slots__ = ("_awaits", "_context", "_coroutine")

    def __init__(self, context: Context, coroutine: CoroutineType[Any, Any, Any], awaits: Any) -> None:
        self._context = context
        self._coroutine = coroutine
        self._awaits = awaits

    def __await__(self) -> Generator[Any, Any, Any]:
        enter, coroutine, awaits = self._context.run, self._coroutine, self._awaits
        try:
            while True:
                try:
                    answer = yield awaits
                except BaseException as error:  # noqa: BLE001  whatever it is, it is the coroutine's
                    awaits = enter(coroutine.throw, error)
                else:
                    awaits = enter(coroutine.send, answer)
        except StopIteration as stop:
            return stop.value


async def awaiting(awaitable: Any) -> Any:
    """A coroutine of whatever else can be awaited."""
    return await awaitable


class Timer:
    """A call on the loop later on, one at a time."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        self._handle = self._loop.call_later(max(0.0, seconds), callback, *args)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
