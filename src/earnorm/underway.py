"""An attempt under way: what is known of it while its handler runs, and the right to say how it ended."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextvars import Context
from datetime import datetime, timedelta
from types import CoroutineType, FrameType
from typing import Any

import msgspec

from earnorm.delivery import Attempt, Delivery, Outcome
from earnorm.event import Event, Running, _running
from earnorm.handler import Handler
from earnorm.settling import Settling, _settling
from earnorm.stage import Stage
from earnorm.telemetry import escaped
from earnorm.tenant import _tenant
from earnorm.verdict import Verdict

__all__ = ["Run"]

_FRAMES = 8


def _nothing(*_: Any) -> None:
    """What an attempt calls that has not come so far."""


class Run(msgspec.Struct, eq=False):
    """One attempt. With a timeout two may want to say how it ended, its handler's thread and the clock: one does.

    Of an attempt that timed out while its handler goes on and cannot be stopped, `on_given_up` is told the outcome.
    """

    handler: Handler
    delivery: Delivery
    decode: Callable[[Delivery], Event]
    timeout: float | None = None
    _right: Any = None
    # The record, where the runner has loaded it ahead.
    loaded: Any = None
    started: float = msgspec.field(default_factory=time.perf_counter)
    settling: Settling | None = None
    on_given_up: Callable[[Outcome], None] | None = None
    is_given_up: bool = False
    timed_out: bool = False
    thread: int = 0
    target: Callable[..., Any] = _nothing
    arguments: tuple[Any, ...] = (None, None, None, None)
    # Of an async handler that waits: itself, what it waits for, and the context of its steps.
    coroutine: CoroutineType[Any, Any, Any] | None = None
    awaits: Any = None
    context: Context | None = None
    # Of a transactional handler: the transaction that it runs in.
    stage: Stage | None = None
    _event: Event | None = None

    @property
    def event(self) -> Event:
        """Made when somebody asks for it."""
        if self._event is None:
            self._event = self.decode(self.delivery)
        return self._event

    @event.setter
    def event(self, event: Event) -> None:
        self._event = event

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def is_late(self) -> bool:
        return self.timed_out or (self.timeout is not None and self.seconds > self.timeout)

    def end(self) -> bool:
        """Take the right to say how it ended; False for whoever comes second."""
        return self._right is None or self._right.acquire(blocking=False)

    def enter(self, database: str) -> None:
        """Make of the context that runs here the handler's own."""
        if self.delivery.entry.tenant is not None:
            _tenant.set(self.delivery.entry.tenant)
        _running.set(Running(self, self.handler.name))
        self.settling = Settling(database)
        _settling.set(self.settling)

    def failed(self, verdict: Verdict, now: datetime, version: str) -> Attempt:
        """This attempt as it is remembered."""
        summary, _, trace = verdict.text.partition("\n")
        seconds = self.seconds
        return Attempt(
            subscription=self.delivery.subscription,
            event=self.delivery.entry.id,
            number=self.delivery.attempt,
            error=summary,
            traceback=trace,
            fingerprint=verdict.fingerprint,
            started=now - timedelta(seconds=seconds),
            seconds=seconds,
            version=version,
        )

    def stack(self) -> str:
        """Where its handler stands right now: the last lines of it, innermost last."""
        if self.coroutine is not None:
            frames = _awaited(self.coroutine)
            lines = traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in frames))
        else:
            lines = traceback.format_stack(sys._current_frames().get(self.thread))
        return "\n".join(escaped(line) for part in lines[-_FRAMES:] for line in part.splitlines())


def _awaited(coroutine: Any) -> list[FrameType]:
    """The frames of a suspended coroutine and of what it waits for, outermost first."""
    frames: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames
