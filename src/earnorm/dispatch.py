"""Dispatch: one transaction's events, as calls now, rows at commit, calls after.

An `Outbox` belongs to one transaction. Events enter it in the order they happen; handlers of the transaction
phase run at once, nested emits after the current event's handlers (breadth first); a savepoint that is rolled back
takes its events with it; at the commit the events are composed per record and what runs later is released.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from earnorm import telemetry
from earnorm.binding import Moment, compile_call
from earnorm.errors import Abort, AsyncHandlerUnderSync, EventLoopError, MissingPayload, StopPropagation
from earnorm.event import Event, Running, _running, running
from earnorm.handler import Handler, Phase
from earnorm.plan import noted
from earnorm.registry import ModelInfo, Registry

__all__ = ["DEPTH_LIMIT", "HOOK_BUDGET", "Caller", "Kind", "Occurrence", "Outbox", "Waiter"]

DEPTH_LIMIT = 32
HOOK_BUDGET = 0.050

Kind = Literal["created", "updated", "deleted", "event"]


class Waiter(Protocol):
    """How a coroutine is awaited from sync code, if it can be here."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any: ...


@dataclass(slots=True, eq=False)
class Occurrence:
    """One event in flight: the event, what kind of change it is, and what its handlers are given besides."""

    event: Event
    kind: Kind = "event"
    info: ModelInfo | None = None
    identity: tuple[Any, ...] = ()
    moment: Moment | None = None
    handlers: Sequence[Handler] = ()
    later: Sequence[Handler] = ()
    data: bytes = b""


class Caller:
    """Calls one handler for one occurrence: condition, cause chain, budget, telemetry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._calls: dict[tuple[Handler, type | None], tuple[Callable[..., Any], Callable[..., Any] | None]] = {}
        registry.on_change(self._calls.clear)

    def call(self, handler: Handler, occurrence: Occurrence, wait: Waiter | None, door: str = "save") -> None:
        """Run a handler inside the transaction; what it raises goes on, with a note."""
        event = occurrence.event
        refuse_loop(handler, event)
        call, when = self._compiled(handler, occurrence.info)
        arguments = (event.subject, event.payload, event, occurrence.moment or Moment())
        token = _running.set(Running(event, handler.name))
        started = time.perf_counter()
        try:
            if when is not None and not when(*arguments):
                telemetry.tell(telemetry.HandlerSkipped(event, handler.name, "when"))
                return
            _tell_started(event, handler)
            self._run(handler, call, arguments, wait, door)
        except (StopPropagation, EventLoopError):
            raise
        except Exception as error:
            telemetry.tell(telemetry.HandlerFailed(event, handler.name, error, propagated=True))
            raise error if isinstance(error, Abort) else noted(error, handler, event.name)
        finally:
            _running.reset(token)
        _tell_done(event, handler, time.perf_counter() - started)

    def call_isolated(self, handler: Handler, occurrence: Occurrence, wait: Waiter | None) -> None:
        """Run a handler after the commit: what it raises is told and harms nobody."""
        try:
            self.call(handler, occurrence, wait)
        except StopPropagation:
            raise
        except Exception as error:
            telemetry.tell(telemetry.HandlerFailed(occurrence.event, handler.name, error))

    def require_payload(self, handlers: Iterable[Handler], event: Event, info: ModelInfo | None) -> None:
        """Raises MissingPayload before any handler has run."""
        for handler in handlers:
            missing = self._registry.binding(handler, info).required - event.payload.keys()
            if missing:
                raise MissingPayload(event.name, min(missing), handler.name, event.payload)

    def _run(
        self, handler: Handler, call: Callable[..., Any], arguments: tuple[Any, ...], wait: Waiter | None, door: str
    ) -> None:
        if not handler.is_async:
            call(*arguments)
        elif wait is None:
            raise AsyncHandlerUnderSync(handler.name, door, f"a{door}")
        else:
            wait(call(*arguments))

    def _compiled(
        self, handler: Handler, info: ModelInfo | None
    ) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
        key = (handler, info.cls if info is not None else None)
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = self._compile(handler, info)
        return found

    def _compile(
        self, handler: Handler, info: ModelInfo | None
    ) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
        target, condition = handler.target, handler.options.when
        if target is None:
            return _gone, None
        call = compile_call(target, self._registry.binding(handler, info), handler.name, awaited=handler.is_async)
        if condition is None:
            return call, None
        return call, compile_call(condition, self._registry.condition(handler, info), f"{handler.name} when")


def _gone(*_: Any) -> None:
    """A bound method whose object went while the event was on its way."""


def _tell_started(event: Event, handler: Handler) -> None:
    if telemetry.wanted(telemetry.HandlerStarted):
        telemetry.tell(telemetry.HandlerStarted(event, handler.name))


def _tell_done(event: Event, handler: Handler, seconds: float) -> None:
    if telemetry.wanted(telemetry.HandlerDone):
        telemetry.tell(telemetry.HandlerDone(event, handler.name, seconds))
    if seconds > HOOK_BUDGET and handler.phase in (Phase.BEFORE, Phase.TRANSACTION):
        remedy = f"{handler.decorator.removesuffix('_async').replace('pre_', 'post_')}_async"
        telemetry.tell(telemetry.HookSlow(event, handler.name, seconds, HOOK_BUDGET, remedy))


def refuse_loop(handler: Handler, event: Event) -> None:
    """Raises EventLoopError if `handler` runs already, up the cause chain, for the same record and changes."""
    if event.depth > DEPTH_LIMIT:
        raise EventLoopError(
            f"{event.name} is caused {event.depth} levels deep, {DEPTH_LIMIT} is the limit", _chain(event)
        )
    link: Event | None = event
    while link is not None and link.cause is not None:
        if link.emitter == handler.name and _same(link.cause, event):
            why = f"{handler.name} is called again by its own doing, for the same record and the same changes"
            raise EventLoopError(why, [*_chain(event), f"{event.name} → {handler.name}"])
        link = link.cause


def _same(earlier: Event, later: Event) -> bool:
    if earlier.name != later.name or earlier.key != later.key:
        return False
    return earlier.subject is later.subject and earlier.changes == later.changes and earlier.payload == later.payload


def _chain(event: Event) -> list[str]:
    links: list[str] = []
    link: Event | None = event
    while link is not None and link.cause is not None:
        about = f" of {link.cause.key}" if link.cause.key else ""
        links.append(f"{link.cause.name}{about} → {link.emitter}")
        link = link.cause
    return links[::-1]


class Outbox:
    """The events of one transaction."""

    def __init__(self, caller: Caller, wait: Waiter | None = None) -> None:
        self.caller = caller
        self.wait = wait
        self.door = "save"
        self.occurrences: list[Occurrence] = []
        self.rolled_back: list[Occurrence] = []
        self._savepoints: list[tuple[str, int]] = []
        self._queue: deque[Occurrence] = deque()
        self._dispatching = False

    # --- savepoints --------------------------------------------------------------------------

    def savepoint(self, name: str) -> None:
        self._savepoints.append((name, len(self.occurrences)))

    def release(self, name: str) -> None:
        self._forget(name)

    def rollback_to(self, name: str) -> None:
        """Drop what happened since; a savepoint older than this outbox takes everything."""
        self._drop(self._forget(name))

    def _forget(self, name: str) -> int:
        for index, (known, mark) in enumerate(self._savepoints):
            if known == name:
                del self._savepoints[index:]
                return mark
        return 0

    def _drop(self, mark: int) -> None:
        dropped = self.occurrences[mark:]
        del self.occurrences[mark:]
        self.rolled_back += dropped
        for occurrence in dropped:
            if telemetry.wanted(telemetry.RolledBack):
                telemetry.tell(telemetry.RolledBack(occurrence.event))

    def rollback(self) -> list[Occurrence]:
        """The whole transaction went; returns what had happened in it."""
        lost = self.occurrences[:]
        self._queue.clear()
        self._drop(0)
        return lost

    # --- dispatch ----------------------------------------------------------------------------

    def emit(self, occurrence: Occurrence) -> None:
        """Record an event and run its transaction handlers; if one raises, the event never was."""
        mark = len(self.occurrences)
        self.record(occurrence)
        try:
            self.dispatch([occurrence])
        except BaseException:
            if not self._dispatching:
                self._drop(min(mark, len(self.occurrences)))
            raise

    def record(self, occurrence: Occurrence) -> None:
        self.occurrences.append(occurrence)
        if telemetry.wanted(telemetry.Emitted):
            telemetry.tell(telemetry.Emitted(occurrence.event))

    def dispatch(self, occurrences: Iterable[Occurrence]) -> None:
        """Run the transaction handlers of each, and of what they emit, breadth first."""
        self._queue.extend(o for o in occurrences if o.handlers)
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._queue:
                self._handle(self._queue.popleft())
        except BaseException:
            self._queue.clear()
            raise
        finally:
            self._dispatching = False

    def _handle(self, occurrence: Occurrence) -> None:
        for handler in occurrence.handlers:
            try:
                self.caller.call(handler, occurrence, self.wait, self.door)
            except StopPropagation:
                return
            if occurrence.event.stopped:
                return


def new_event(name: str, subject: Any, payload: Any, **details: Any) -> Event:
    """An event that knows its cause: the event whose handler is running here."""
    now = running()
    if now is None:
        return Event(name, subject, payload, _at=time.time(), **details)
    cause = now.event
    return Event(
        name,
        subject,
        payload,
        cause=cause,
        emitter=now.handler,
        causation_id=cause.id,
        depth=cause.depth + 1,
        _correlation_id=cause.correlation_id,
        _at=time.time(),
        **details,
    )
