"""The event bus: who hears what (`on`), the door in (`emit`), and who watches or silences it (`capture`, `muted`).

Without a database it works in memory, in this process: handlers run at once and nothing is durable. `emit` is then
one look-up by (class of the subject, name) and one generated function; that is the hot path of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from earnorm import telemetry
from earnorm.declared import Declared, declared_of, payload_of
from earnorm.dispatch import Caller, Dispatcher, Outbox
from earnorm.errors import EventError, HandlerError, StopPropagation, WrongColour
from earnorm.event import Event
from earnorm.flow import Plans
from earnorm.handler import Handler, Options, Phase, is_async, make_handler, require_durable_name
from earnorm.lifecycle import flattened
from earnorm.names import validate_name
from earnorm.occurrence import Occurrence
from earnorm.plan import Handle, Step, compile_plan, when_call
from earnorm.portal import await_here, can_await, spawn, wait_for
from earnorm.registry import ModelInfo, Registry
from earnorm.watch import Watch

__all__ = ["Door", "EventBus", "aemit", "default_bus", "emit", "event_handler", "event_handler_async"]

F = TypeVar("F", bound=Callable[..., Any])

Run = Callable[[Any, Any], Handle]
ARun = Callable[[Any, Any], Coroutine[Any, Any, Handle]]


class Door(Protocol):
    """Where emits go that need a transaction: those about models, and all of them once a database is connected."""

    @property
    def connected(self) -> bool:
        """Whether durable handlers are delivered from a log, rather than run at once."""

    def emit(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle:
        """Emit inside the transaction open here, or one of its own."""

    def aemit(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Coroutine[Any, Any, Handle]:
        """`emit`, awaited."""


@dataclass(frozen=True, slots=True)
class _Here:
    """An emit in memory that is under way in this context."""

    outbox: Outbox
    dispatcher: Dispatcher


_here: ContextVar[_Here | None] = ContextVar("earnorm_here", default=None)


class EventBus:
    """Handlers and the ways to reach them. `repr(bus)` says whether anything is durable."""

    def __init__(self, name: str = "bus") -> None:
        self.name = name
        self.registry = Registry()
        self.plans = Plans(self.registry)
        self.caller = Caller(self.registry)
        self._door: Door | None = None
        self._connected = False
        self.watch = Watch(self.forget_plans)
        # (class of subject) -> (name) -> what to call; the first level of `_declared_runs` is the event's class.
        self._runs: dict[type, dict[str, Run]] = {}
        self._aruns: dict[type, dict[str, ARun]] = {}
        self._declared_runs: dict[type, dict[type, Run]] = {}
        self._declared_aruns: dict[type, dict[type, ARun]] = {}
        self.registry.on_change(self.forget_plans)
        telemetry.on_change(self.forget_plans)

    def __repr__(self) -> str:
        kept = "durable, on a database" if self.connected else "in memory, nothing is durable"
        return f"<EventBus {self.name}: {len(self.registry.all())} handlers, {kept}>"

    @property
    def connected(self) -> bool:
        """Whether durable handlers are delivered from a log, rather than run at once."""
        return self._connected

    @property
    def attentive(self) -> bool:
        """Whether every event counts, heard or not: there is a log, or somebody watches."""
        return self._connected or self.watch.active or telemetry.verbose()

    def attach_door(self, door: Door | None) -> None:
        """Send what needs a transaction through `door`."""
        self._door = door
        self.forget_plans()

    def forget_plans(self) -> None:
        """Compile what is emitted next anew (something registered, connected, listens or is muted)."""
        self._connected = self._door is not None and self._door.connected
        self._runs.clear()
        self._aruns.clear()
        self._declared_runs.clear()
        self._declared_aruns.clear()

    # --- handlers ----------------------------------------------------------------------------

    def on(self, *events: Any, **options: Any) -> Callable[[F], F]:
        """Register a handler, plain or async, for names, lists, patterns ("user.*", "!user.viewed") or classes.

        It runs after the commit, durably; without a database, at once. `delivery=` chooses another phase.
        Raises InvalidName, UnknownOption, OptionWithoutMeaning, HandlerNameTaken, HandlerNameNeeded.
        """
        return self.register("on", events, options)

    def register(
        self, decorator: str, events: Sequence[Any], options: Mapping[str, Any], *, info: ModelInfo | None = None
    ) -> Callable[[F], F]:
        chosen = Options.parse(decorator, options)
        names = flattened(decorator, events)

        def add(function: F) -> F:
            self._add(function, decorator, names, chosen, info)
            return function

        return add

    def _add(
        self, function: Any, decorator: str, events: Sequence[Any], options: Options, info: ModelInfo | None
    ) -> None:
        if not callable(function):
            raise HandlerError(f"@{decorator} takes a function, not {function!r}")
        if decorator.endswith("_async") and not is_async(function):
            remedy = f"write `async def`, or use @{decorator.removesuffix('_async')}"
            raise WrongColour(f"@{decorator}", repr(function), remedy)
        handler = make_handler(function, decorator, Phase.DURABLE, options)
        if self.connected and handler.phase is Phase.DURABLE:
            require_durable_name(handler)
        added = self.registry.add(handler, events)
        self.registry.binding(added, info)

    def off(self, function: Callable[..., Any]) -> bool:
        """Forget every registration of `function`; whether there was one."""
        found = [handler for handler in self.registry.all() if handler.target == function]
        for handler in found:
            self.registry.remove(handler)
        return bool(found)

    def handlers(self) -> list[Handler]:
        """Every handler in registration order: `name`, `source` (file:line), `phase`, `events`, `options`."""
        return self.registry.all()

    # --- the door in -------------------------------------------------------------------------

    def emit(self, event: Any, subject: Any = None, /, **payload: Any) -> Handle:
        """Emit an event by name, or a declared event object, about `subject`.

        On a connected bus it is appended to the log in the transaction open here, or in one of its own.
        In memory, transaction handlers propagate what they raise; a later handler's error is logged, not raised.
        Raises InvalidName, PayloadError, MissingPayload, SyncDoorInCoroutine, EventLoopError.
        """
        cls = event.__class__
        if cls is str:
            try:
                run = self._runs[subject.__class__][event]
            except KeyError:
                run = self._prepare(event, subject.__class__)
            return run(subject, payload)
        try:
            run = self._declared_runs[cls][subject.__class__]
        except KeyError:
            if isinstance(event, str):
                return self.emit(str.__str__(event), subject, **payload)
            run = self._prepare_declared(event, subject.__class__)
        if payload:
            raise _payload_beside(event, payload)
        return run(subject, event)

    def aemit(self, event: Any, subject: Any = None, /, **payload: Any) -> Coroutine[Any, Any, Handle]:
        """`emit`, awaited: async handlers are awaited in order, in this task."""
        cls = event.__class__
        if cls is str:
            try:
                run = self._aruns[subject.__class__][event]
            except KeyError:
                run = self._aprepare(event, subject.__class__)
            return run(subject, payload)
        try:
            run = self._declared_aruns[cls][subject.__class__]
        except KeyError:
            if isinstance(event, str):
                return self.aemit(str.__str__(event), subject, **payload)
            run = self._aprepare_declared(event, subject.__class__)
        if payload:
            raise _payload_beside(event, payload)
        return run(subject, event)

    # --- preparing ---------------------------------------------------------------------------

    def _prepare(self, name: Any, cls: type) -> Run:
        run: Run = self._make(validate_name(name), cls, None, awaited=False)
        self._runs.setdefault(cls, {})[name] = run
        return run

    def _aprepare(self, name: Any, cls: type) -> ARun:
        run: ARun = self._make(validate_name(name), cls, None, awaited=True)
        self._aruns.setdefault(cls, {})[name] = run
        return run

    def _prepare_declared(self, event: Any, cls: type) -> Run:
        run: Run = self._make_for_object(event, cls, awaited=False)
        self._declared_runs.setdefault(event.__class__, {})[cls] = run
        return run

    def _aprepare_declared(self, event: Any, cls: type) -> ARun:
        run: ARun = self._make_for_object(event, cls, awaited=True)
        self._declared_aruns.setdefault(event.__class__, {})[cls] = run
        return run

    def _make_for_object(self, event: Any, cls: type, *, awaited: bool) -> Any:
        declared = declared_of(event)
        if declared is None:
            raise EventError(
                f"emit takes an event name or an object of a class declared with @event_type, not {event!r}"
            )
        return self._make(declared.name, cls, declared, awaited=awaited)

    def _make(self, name: str, cls: type, declared: Declared | None, *, awaited: bool) -> Any:
        if self._needs_door(cls):
            return self._through_door(name, declared, awaited=awaited)
        handlers = self.plans.custom(name, cls, declared.cls if declared else None)
        if self.observed:
            return self._watched(name, handlers, declared, awaited=awaited)
        steps = [self._step(handler) for handler in handlers if handler.target is not None]
        return compile_plan(name, steps, declared=declared is not None, awaited=awaited)

    def _step(self, handler: Handler) -> Step:
        binding = self.registry.binding(handler, None)
        when = None
        if handler.options.when is not None:
            when = when_call(handler, self.registry.condition(handler, None))
        return Step(handler, binding, when)

    def _needs_door(self, cls: type) -> bool:
        return self._connected or (self._door is not None and self.registry.model_of(cls) is not None)

    def _through_door(self, name: str, declared: Declared | None, *, awaited: bool) -> Any:
        door = self._door
        assert door is not None
        send: Any = door.aemit if awaited else door.emit
        if declared is None:
            return lambda subject, payload: send(name, subject, payload, None)
        return lambda subject, event: send(name, subject, payload_of(event), event)

    # --- in memory, observed -----------------------------------------------------------------

    @property
    def observed(self) -> bool:
        """Whether somebody watches (telemetry, capture, muted), so that the bookkeeping is worth its time."""
        return self.watch.active or telemetry.verbose()

    def _watched(self, name: str, handlers: Sequence[Handler], declared: Declared | None, *, awaited: bool) -> Any:
        def run(subject: Any, given: Any) -> Handle:
            payload = payload_of(given) if declared is not None else given
            about = given if declared is not None and subject is None else subject
            self.caller.require_payload(handlers, name, payload, None)
            occurrence = Occurrence(name, about, payload, declared=given if declared else None, handlers=handlers)
            return self.run_here(occurrence)

        async def arun(subject: Any, given: Any) -> Handle:
            return await spawn(run, subject, given)

        return arun if awaited else run

    def run_here(self, occurrence: Occurrence) -> Handle:
        """Run an occurrence without a transaction: transaction handlers first, then the later ones, isolated."""
        if self.watch.silences(occurrence):
            return Handle(occurrence.event)
        self.in_transaction(occurrence)
        outer = _here.get()
        if outer is not None:
            outer.outbox.emit(occurrence, self.caller, outer.dispatcher)
            return Handle(occurrence.event)
        here = _Here(Outbox(), Dispatcher(await_here if can_await() else None, "emit"))
        token = _here.set(here)
        try:
            here.outbox.emit(occurrence, self.caller, here.dispatcher)
        finally:
            _here.reset(token)
        for happened in here.outbox.occurrences:
            self.run_after(happened)
        return Handle(occurrence.event)

    @staticmethod
    def in_transaction(occurrence: Occurrence) -> Occurrence:
        """Keep the transaction's handlers to be run now; the later ones wait in `later`."""
        now = [h for h in occurrence.handlers if h.phase is Phase.TRANSACTION]
        occurrence.later = [h for h in occurrence.handlers if h.phase in (Phase.AFTER_COMMIT, Phase.DURABLE)]
        occurrence.handlers = now
        return occurrence

    def run_after(self, occurrence: Occurrence, *phases: Phase) -> None:
        """Run the later handlers (of `phases`, or all) of something that is certain now; each is isolated."""
        for handler in occurrence.later:
            if phases and handler.phase not in phases:
                continue
            try:
                self.caller.call_isolated(handler, occurrence, wait_for)
            except StopPropagation:
                return
            if occurrence.stopped:
                return

    # --- watching and muting -----------------------------------------------------------------

    def capture(self, *patterns: str) -> AbstractContextManager[list[Event]]:
        """Collect the events emitted inside, in any task or thread; of every name, if no pattern is given."""
        return self.watch.capture(patterns)

    def muted(self, *patterns: str, reason: str) -> AbstractContextManager[None]:
        """Events that match reach no handler and no log while this block runs, in this task only.

        Each muted event is told (INFO) with the reason. Hooks before the SQL and validation still run.
        """
        return self.watch.muted(patterns, reason)


def _payload_beside(event: Any, payload: Mapping[str, Any]) -> EventError:
    keys = ", ".join(sorted(payload))
    return EventError(f"{type(event).__name__} carries its own payload; put {keys} into its fields, not beside it")


default_bus = EventBus("default")


def event_handler(*events: Any, **options: Any) -> Callable[[F], F]:
    """Register a handler on the default bus: after the commit, durable; see `EventBus.on`."""
    return default_bus.register("event_handler", events, options)


def event_handler_async(*events: Any, **options: Any) -> Callable[[F], F]:
    """Register a coroutine function on the default bus: after the commit, durable; see `EventBus.on`."""
    return default_bus.register("event_handler_async", events, options)


# The bound methods themselves: nothing stands between a caller and the hot path.
emit = default_bus.emit
aemit = default_bus.aemit
