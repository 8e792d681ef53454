"""Stepping: coroutines taken through their steps in contexts that are not their task's, and a timer for one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from contextvars import Context
from types import CoroutineType, coroutine
from typing import Any, cast

__all__ = ["Rest", "Steps", "Timer", "awaiting"]


class Ended:
    """That a coroutine has ended, and what it returned."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


class Steps:
    """Takes one coroutine after the other through its steps, of which most need but one.

    A generator awaits them: who sends to a coroutine instead is told by an exception that it has ended, which takes
    longer than a handler that does nothing.
    """

    __slots__ = ("_awaiting", "ended", "send")

    def __init__(self) -> None:
        self.ended = Ended()
        self.begin_anew()

    def begin_anew(self) -> None:
        """After whatever a coroutine raised: the generator ended of it as well."""
        self._awaiting = _start(self.ended)
        # What `first` does, without a call of its own, for who begins anew by himself.
        self.send = self._awaiting.send

    def first(self, taken: CoroutineType[Any, Any, Any]) -> Any:
        """`ended`, or else what it waits for, and then these steps are its own from now on."""
        try:
            return self._awaiting.send(taken)
        except BaseException:
            self.begin_anew()
            raise

    def next(self, answer: Any) -> Any:
        return self._awaiting.send(answer)

    def throw(self, error: BaseException) -> Any:
        return self._awaiting.throw(error)


def _start(ended: Ended) -> Generator[Any, Any, Any]:
    # Whatever may be awaited, say the decorator's types: it is what it was.
    started = cast("Generator[Any, Any, Any]", _await_each(ended))
    started.send(None)
    return started


@coroutine
def _await_each(ended: Ended) -> Generator[Any, Any, Any]:
    # Not a method of Steps: a handler that is left waiting is to go with them, and not with the garbage.
    while True:
        ended.value = yield from (yield ended)


class Rest:
    """What is left of a coroutine, awaited by a task of another context: each of its steps is made in its own."""

    __slots__ = ("_awaits", "_context", "_steps")

    def __init__(self, context: Context, steps: Steps, awaits: Any) -> None:
        self._context = context
        self._steps = steps
        self._awaits = awaits

    def __await__(self) -> Generator[Any, Any, Any]:
        enter, steps, awaits = self._context.run, self._steps, self._awaits
        while awaits is not steps.ended:
            try:
                answer = yield awaits
            except BaseException as error:  # noqa: BLE001  whatever it is, it is the coroutine's
                awaits = enter(steps.throw, error)
            else:
                awaits = enter(steps.next, answer)
        return steps.ended.value


async def awaiting(value: Any) -> Any:
    """A coroutine of whatever else a handler has returned, which may be awaited or not."""
    return await value if inspect.isawaitable(value) else value


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
