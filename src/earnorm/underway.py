"""An attempt under way: what is known of it while its handler runs, and the right to say how it ended."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import Context
from datetime import datetime, timedelta
from types import CoroutineType, FrameType
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from earnorm.delivery import Attempt, Delivery, Outcome
from earnorm.event import Entry, Event, Running
from earnorm.settling import Settling
from earnorm.stage import Stage
from earnorm.stepping import Steps
from earnorm.telemetry import escaped
from earnorm.verdict import Verdict
from earnorm.way import Way

__all__ = ["Run"]

_FRAMES = 8

# One for all, since it is held for a moment: making one for each attempt would cost more.
_lock = threading.Lock()


class Run(msgspec.Struct, eq=False):
    """One attempt. With a timeout two may want to say how it ended, its handler's thread and the clock: one does.

    Of an attempt that timed out while its handler goes on and cannot be stopped, `on_given_up` is told the outcome.
    """

    way: Way
    delivery: Delivery
    started: float
    # The record, where the runner has loaded it ahead.
    loaded: Any = None
    _right: Any = None
    # Whether anybody may want to be told of it, and what it calls once it is prepared.
    is_followed: bool = False
    target: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()
    on_given_up: Callable[[Outcome], None] | None = None
    is_given_up: bool = False
    timed_out: bool = False
    thread: int = 0
    # Of an async handler that waits: itself, its steps, what it waits for, and the context of its steps.
    coroutine: CoroutineType[Any, Any, Any] | None = None
    steps: Steps | None = None
    awaits: Any = None
    context: Context | None = None
    # Of a transactional handler: the transaction that it runs in.
    stage: Stage | None = None
    # Its event, and the event's subject, as far as somebody has asked for them.
    known: Event | None = None
    is_read: bool = False
    _subject: Any = None
    # What it emits, once it does; and whether it may still.
    emitting: Settling | None = None
    is_closed: bool = False

    # --- what runs here ----------------------------------------------------------------------

    @property
    def handler(self) -> str:
        return self.way.handler.name

    @property
    def before(self) -> bool:
        return False

    def noted(self) -> Running:
        return Running(self, self.handler)

    @property
    def database(self) -> str:
        return self.way.database

    @property
    def event(self) -> Event:
        """Made when somebody asks for it."""
        if self.known is None:
            self.event = self.way.told(self.delivery)
        assert self.known is not None
        return self.known

    @event.setter
    def event(self, event: Event) -> None:
        if self._subject is not None:
            force_setattr(event, "subject", self._subject)
        self.known = event

    def tell_subject(self, subject: Any) -> None:
        """Its record, which its event has as well."""
        self._subject = subject
        if self.known is not None:
            force_setattr(self.known, "subject", subject)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def timeout(self) -> float | None:
        return self.way.timeout

    @property
    def is_late(self) -> bool:
        return self.timed_out or (self.timeout is not None and self.seconds > self.timeout)

    def end(self) -> bool:
        """Take the right to say how it ended; False for whoever comes second."""
        return self._right is None or self._right.acquire(blocking=False)

    # --- what it emits -----------------------------------------------------------------------

    @property
    def settling(self) -> Settling:
        """Where what it emits waits. Made for the first who asks, since most emit nothing."""
        with _lock:
            if self.emitting is None:
                self.emitting = Settling()
            # Once it is made: `close` first says that it is over and then looks for one, so that one sees the other.
            if self.is_closed:
                self.emitting.close()
            return self.emitting

    def close(self) -> tuple[Entry, ...]:
        """What was emitted, in order; nothing comes in from now on."""
        self.is_closed = True
        return () if self.emitting is None else self.emitting.close()

    def drop(self) -> None:
        """It is not done: nothing that it emitted is kept, and nothing comes in from now on."""
        self.is_closed = True
        if self.emitting is not None:
            self.emitting.drop()

    def revoke(self, timeout: float) -> None:
        """It is given up while it still runs: what it emits from now on is refused."""
        self.settling.revoke(self.handler, timeout)

    # --- what became of it -------------------------------------------------------------------

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
