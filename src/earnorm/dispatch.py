"""Dispatch: one transaction's events, as calls now, rows at commit, calls after.

An `Outbox` belongs to one transaction. Events enter it in the order they happen; a savepoint that is rolled back
takes its events with it; at the commit they are composed per record and what runs later is released. A `Dispatcher`
runs handlers of the transaction phase at once, and those of nested emits after the current event's (breadth first).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from earnorm import telemetry
from earnorm.binding import Source, compile_call
from earnorm.errors import Abort, AsyncHandlerUnderSync, EventLoopError, MissingPayload, StopPropagation
from earnorm.event import Event, HasEvent, Running, _running
from earnorm.handler import Handler, Phase, require_log
from earnorm.multitude import Happening, Multitude, singly
from earnorm.occurrence import Kind, Occurrence
from earnorm.plan import noted
from earnorm.portal import await_here, can_await
from earnorm.registry import ModelInfo, Registry

__all__ = [
    "DEPTH_LIMIT",
    "HOOK_BUDGET",
    "Caller",
    "Compiled",
    "Dispatcher",
    "Outbox",
    "Waiter",
    "door_of",
    "refuse_loop",
    "tell_done",
    "tell_emitted",
    "tell_failed",
]

DEPTH_LIMIT = 32
HOOK_BUDGET = 0.050


class Waiter(Protocol):
    """How a coroutine is awaited from sync code, if it can be here."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any: ...


class Compiled(NamedTuple):
    """A handler as `call(s, p, e, m)`, its condition, and whether it takes nothing but its subject."""

    call: Callable[..., Any]
    when: Callable[..., Any] | None
    simple: bool


class Caller:
    """Calls one handler for one occurrence: condition, cause chain, budget, telemetry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._forget()
        registry.on_change(self._forget)

    def _forget(self) -> None:
        # A new table rather than an emptied one: what a thread is compiling right now goes into the old.
        self._calls: dict[tuple[Handler, type | None], Compiled] = {}

    def call(
        self, handler: Handler, occurrence: Occurrence, wait: Waiter | None, door: str = "save", *, tell: bool = True
    ) -> None:
        """Run a handler inside the transaction; what it raises goes on, with a note, and is told if `tell`."""
        if occurrence.link is not None:
            refuse_loop(handler, occurrence.event)
        info = occurrence.info
        call, when, simple = self._calls.get((handler, info.cls if info else None)) or self.compiled(handler, info)
        traced = telemetry.verbose()
        token = _running.set(Running(occurrence, handler.name, handler.phase is Phase.BEFORE))
        started = time.perf_counter()
        try:
            if when is not None and not when(*_arguments(occurrence)):
                telemetry.tell(telemetry.HandlerSkipped(occurrence.event, handler.name, "when"))
                return
            if traced:
                _tell_started(occurrence.event, handler)
            if handler.is_async:
                self._await(handler, call, occurrence, wait, door)
            elif simple:
                call(occurrence.subject, None, None, None)
            else:
                call(*_arguments(occurrence))
        except (StopPropagation, EventLoopError):
            raise
        except Exception as error:
            tell_failed(error, handler, occurrence, tell=tell)
            raise
        finally:
            _running.reset(token)
        seconds = time.perf_counter() - started
        if traced or seconds > HOOK_BUDGET:
            tell_done(occurrence.event, handler, seconds)

    def call_isolated(self, handler: Handler, occurrence: Occurrence, wait: Waiter | None) -> None:
        """Run a handler after the commit: what it raises is told and harms nobody."""
        try:
            require_log(handler)
            self.call(handler, occurrence, wait, tell=False)
        except StopPropagation:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it was, it is told and goes no further
            telemetry.tell(telemetry.HandlerFailed(occurrence.event, handler.name, error))

    def require_payload(
        self, handlers: Iterable[Handler], name: str, payload: Mapping[str, Any], info: ModelInfo | None
    ) -> None:
        """Raises MissingPayload before any handler has run."""
        for handler in handlers:
            missing = self._registry.binding(handler, info).required - payload.keys()
            if missing:
                raise MissingPayload(name, min(missing), handler.name, payload)

    def _await(
        self, handler: Handler, call: Callable[..., Any], occurrence: Occurrence, wait: Waiter | None, door: str
    ) -> None:
        if wait is None:
            raise AsyncHandlerUnderSync(handler.name, door, f"a{door}")
        wait(call(*_arguments(occurrence)))

    def compiled(self, handler: Handler, info: ModelInfo | None) -> Compiled:
        """The handler's call and condition, compiled once for each model."""
        key = (handler, info.cls if info is not None else None)
        known = self._calls
        found = known.get(key)
        if found is None:
            found = known[key] = self._compile(handler, info)
        return found

    def _compile(self, handler: Handler, info: ModelInfo | None) -> Compiled:
        target, condition = handler.target, handler.options.when
        if target is None:
            return Compiled(_gone, None, simple=True)
        binding = self._registry.binding(handler, info)
        simple = all(argument.source is Source.SUBJECT for argument in binding.arguments)
        call = compile_call(target, binding, handler.name, awaited=handler.is_async)
        if condition is None:
            return Compiled(call, None, simple)
        when = compile_call(condition, self._registry.condition(handler, info), f"{handler.name} when")
        return Compiled(call, when, simple)


def _gone(*_: Any) -> None:
    """A bound method whose object went while the event was on its way."""


def _arguments(occurrence: Occurrence) -> tuple[Any, ...]:
    return occurrence.subject, occurrence.payload, occurrence.event, occurrence.moment


def tell_failed(error: Exception, handler: Handler, source: HasEvent, *, tell: bool = True) -> None:
    """Note on what a handler raised which one it was; and tell it, unless somebody else will."""
    if tell:
        telemetry.tell(telemetry.HandlerFailed(source.event, handler.name, error, propagated=True))
    if not isinstance(error, Abort):
        noted(error, handler, source.event.name)


def _tell_started(event: Event, handler: Handler) -> None:
    if telemetry.wanted(telemetry.HandlerStarted):
        telemetry.tell(telemetry.HandlerStarted(event, handler.name))


def tell_done(event: Event, handler: Handler, seconds: float) -> None:
    """That a handler is done, and if it took longer than its budget, that as well."""
    if telemetry.wanted(telemetry.HandlerDone):
        telemetry.tell(telemetry.HandlerDone(event, handler.name, seconds))
    if seconds > HOOK_BUDGET and handler.phase in (Phase.BEFORE, Phase.TRANSACTION):
        remedy = f"{handler.decorator.removesuffix('_async').replace('pre_', 'post_')}_async"
        telemetry.tell(telemetry.HookSlow(event, handler.name, seconds, HOOK_BUDGET, remedy))


def refuse_loop(handler: Handler, event: Event) -> None:
    """Raises EventLoopError if `handler` runs already, up the cause chain, for the same record and changes."""
    if event.depth > DEPTH_LIMIT:
        why = f"{event.name} is caused {event.depth} levels deep, {DEPTH_LIMIT} is the limit"
        raise EventLoopError(why, _chain(event))
    link = event
    while link.cause is not None:
        if link.emitter == handler.name and _same(link.cause, event):
            why = f"{handler.name} is called again by its own doing, for the same record and the same changes"
            raise EventLoopError(why, [*_chain(event), f"{event.name} → {handler.name}"])
        link = link.cause


def _same(earlier: Event, later: Event) -> bool:
    if earlier.name != later.name or earlier.key != later.key or earlier.subject is not later.subject:
        return False
    # A change is what it changed; the values around it are the same record's.
    return earlier.changes == later.changes and (bool(later.changes) or earlier.payload == later.payload)


def _chain(event: Event) -> list[str]:
    links: list[str] = []
    link = event
    while link.cause is not None:
        about = f" of {link.cause.key}" if link.cause.key else ""
        links.append(f"{link.cause.name}{about} → {link.emitter or 'bubbles'}")
        link = link.cause
    return links[::-1]


def tell_emitted(occurrence: Occurrence) -> None:
    if telemetry.follows_events() and telemetry.wanted(telemetry.Emitted):
        telemetry.tell(telemetry.Emitted(occurrence.event))


def door_of(kind: Kind) -> str:
    """By which door what is of this kind comes, and so which one could have been awaited."""
    return _DOORS.get(kind, "save")


_DOORS: dict[Kind, str] = {"deleted": "delete", "trashed": "trash", "restored": "restore", "event": "emit"}


class Dispatcher:
    """Runs the transaction handlers of events, and of what they emit, breadth first."""

    __slots__ = ("_queue", "_running")

    def __init__(self) -> None:
        self._queue: deque[tuple[Caller, Occurrence, Outbox | None]] = deque()
        self._running = False

    @property
    def busy(self) -> bool:
        return self._running

    @property
    def wait(self) -> Waiter | None:
        """How async handlers are awaited here; None where nobody can."""
        return await_here if can_await() else None

    def enqueue(self, caller: Caller, occurrence: Occurrence, outbox: Outbox | None) -> None:
        """Put what hears the event behind the handlers that are running or waiting here."""
        if occurrence.handlers or occurrence.bubble:
            self._queue.append((caller, occurrence, outbox))

    def run(self) -> None:
        """Run what is queued; a call inside a handler leaves it to the one that runs already."""
        if not self._running and self._queue:
            self._empty(door_of(self._queue[0][1].kind))

    def _empty(self, door: str) -> None:
        self._running = True
        try:
            while self._queue:
                self._handle(*self._queue.popleft(), door)
        except BaseException:
            self._queue.clear()
            raise
        finally:
            self._running = False

    def hold(self) -> None:
        """Let what is emitted wait, until `resume`."""
        self._running = True

    def resume(self) -> None:
        """Run what waited, emitted by a hook of a save."""
        self._empty("save")

    def _handle(self, caller: Caller, occurrence: Occurrence, outbox: Outbox | None, door: str) -> None:
        for handler in occurrence.handlers:
            try:
                caller.call(handler, occurrence, self.wait, door)
            except StopPropagation:
                return
            if occurrence.stopped:
                return
        whole = occurrence.bubble(occurrence) if occurrence.bubble is not None else None
        if whole is not None:
            if outbox is not None:
                outbox.record(whole)
            self._queue.append((caller, whole, outbox))


class Outbox:
    """The events of one transaction, in the order they happened."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []
        self._savepoints: list[tuple[str, int]] = []

    # --- savepoints --------------------------------------------------------------------------

    def savepoint(self, name: str) -> None:
        self._savepoints.append((name, len(self.happenings)))

    def release_savepoint(self, name: str) -> None:
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
        dropped = self.happenings[mark:]
        del self.happenings[mark:]
        for happening in dropped:
            if isinstance(happening, Occurrence) and happening.emission is not None:
                happening.emission.fate = "rolled back"
        if dropped and telemetry.wanted(telemetry.RolledBack):
            for occurrence in singly(dropped):
                telemetry.tell(telemetry.RolledBack(occurrence.event))

    def rollback(self) -> Sequence[Happening]:
        """The whole transaction went; returns what had happened in it."""
        lost = self.happenings[:]
        self._drop(0)
        return lost

    # --- recording ---------------------------------------------------------------------------

    def record(self, occurrence: Occurrence) -> None:
        self.happenings.append(occurrence)
        tell_emitted(occurrence)

    def record_many(self, multitude: Multitude) -> None:
        """Record what nobody hears of here: no handler, and no telemetry."""
        self.happenings.append(multitude)

    def emit(self, occurrence: Occurrence, caller: Caller, dispatcher: Dispatcher) -> None:
        """Record an event and run its transaction handlers; if one raises, the event never was."""
        mark, nested = len(self.happenings), dispatcher.busy
        self.record(occurrence)
        try:
            dispatcher.enqueue(caller, occurrence, self)
            dispatcher.run()
        except BaseException:
            if not nested:
                self._drop(mark)
            raise
