"""The event bus: who hears what (`on`), the door in (`emit`), and who watches or silences it (`capture`, `muted`).

Without a database it works in memory, in this process: handlers run at once and nothing is durable. `emit` is then
one look-up by (class of the subject, name) and one generated function; that is the hot path of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from earnorm import telemetry
from earnorm.binding import refuse_reserved
from earnorm.declared import Declared, declaration, payload_of
from earnorm.dispatch import Caller
from earnorm.door import Door
from earnorm.emission import Emit, require_emit
from earnorm.errors import NotAFunction, NotAnOption, StopPropagation, WrongColour
from earnorm.event import Event
from earnorm.flow import Plans, remember
from earnorm.handle import Handle, MutedHandle, UnseenHandle, handle_of
from earnorm.handler import Handler, Options, Phase, is_async, make_handler, require_durable_name, require_log
from earnorm.in_memory import run_now
from earnorm.lifecycle import flattened
from earnorm.names import validate_name
from earnorm.occurrence import Occurrence
from earnorm.once import Once
from earnorm.order import in_order
from earnorm.plan import Lone, Plan, Step, compile_plan, rescue, when_call
from earnorm.portal import spawn, wait_for
from earnorm.registry import ModelInfo, Registry
from earnorm.watch import Watch

__all__ = ["EventBus", "aemit", "default_bus", "emit", "event_handler", "event_handler_async"]

F = TypeVar("F", bound=Callable[..., Any])


class EventBus:
    """Handlers and the ways to reach them. `repr(bus)` says whether anything is durable."""

    def __init__(self, name: str = "bus") -> None:
        self.name = name
        self.registry = Registry()
        self.plans = Plans(self.registry)
        self.caller = Caller(self.registry)
        self._door: Door | None = None
        self._connected = False
        self._closed = False
        self._attentive = False
        self.watch = Watch(self.forget_plans)
        self.once = Once()
        # What to call, by class of the subject and name; for a declared event without a subject by its class.
        # Most names are emitted about one class: the first of each is found by the name alone.
        self._first: dict[str, tuple[type, Lone, Any]] = {}
        self._plans: dict[type, dict[str, Plan]] = {}
        self._aplans: dict[type, dict[str, Plan]] = {}
        self._alone: dict[type, Plan] = {}
        self._declared: dict[tuple[type, type, bool], Plan] = {}
        # For whoever writes records: what is known of models that nobody hears, and what a new record meets.
        self.silences: dict[type, Any] = {}
        self.courses: dict[type, Any] = {}
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
        return self._attentive or telemetry.verbose()

    def attach_door(self, door: Door | None) -> None:
        """Send what needs a transaction through `door`."""
        self._door = door
        self.forget_plans()

    def forget_plans(self) -> None:
        """Compile what is emitted next anew (something registered, connected, listens or is muted)."""
        before, self._connected = self._connected, self._door is not None and self._door.connected
        self._closed = (before or self._closed) and not self._connected
        self._attentive = self._connected or self.watch.active or telemetry.stepping()
        # New tables rather than emptied ones: what a thread is preparing right now goes into the old.
        self._first, self._plans, self._aplans = {}, {}, {}
        self._alone, self._declared = {}, {}
        self.silences, self.courses = {}, {}

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
            raise NotAFunction(decorator, function)
        if decorator.endswith("_async") and not is_async(function):
            remedy = f"write `async def`, or use @{decorator.removesuffix('_async')}"
            raise WrongColour(f"@{decorator}", repr(function), remedy)
        handler = make_handler(function, decorator, Phase.DURABLE, options)
        if self.connected and handler.phase is Phase.DURABLE:
            require_durable_name(handler)
        self.registry.check(handler, events, info)
        self.registry.add(handler, events)

    def off(self, function: Callable[..., Any]) -> bool:
        """Forget every registration of `function`; whether there was one."""
        found = [handler for handler in self.registry.all() if handler.target == function]
        for handler in found:
            self.registry.remove(handler)
        return bool(found)

    def handlers(self) -> list[Handler]:
        """Every handler with `name`, `source` (file:line), `phase`, `events`, `options`, in the order they would run.

        Phase by phase; within one by before=/after=, priority, base class before subclass, module and definition.
        """
        every = self.registry.all()
        return [handler for phase in Phase for handler in in_order(h for h in every if h.phase is phase)]

    # --- the door in -------------------------------------------------------------------------

    def emit(self, event: Any, subject: Any = None, options: Emit | None = None, /, **payload: Any) -> Handle:  # noqa: C901  # one more call would cost as much as a handler
        """Emit an event by name, or a declared event object, about `subject`.

        On a connected bus it is appended to the log in the transaction open here, or in one of its own.
        In memory, transaction handlers propagate what they raise; a later handler's error is logged, not raised.
        `Emit(key=)` lets it happen once, `Emit(at=)` and `Emit(delay=)` later.
        Raises InvalidName, PayloadError, MissingPayload, SyncDoorInCoroutine, EventLoopError, InvalidEmit, KeyReused,
        DelayedInProcess.
        """
        if options is not None:
            return self._with_options(event, subject, options, payload, awaited=False)  # type: ignore[no-any-return]  # of the sync kind
        if event.__class__ is str:
            try:
                cls, lone, run = self._first[event]
                if subject.__class__ is not cls:
                    lone, run = self._plans[subject.__class__][event]
            except KeyError:
                lone, run = self._prepare(self._plans, event, subject, awaited=False)
            if lone is None or payload:
                return run(subject, payload)  # type: ignore[no-any-return]  # of the sync kind
            if lone:
                try:
                    lone(subject)
                except Exception:  # noqa: BLE001  # raised again, unless the handler comes after the commit
                    rescue(run, subject)
            return UnseenHandle()
        if subject is None and not payload:
            try:
                lone, run = self._alone[event.__class__]
            except KeyError:  # what is raised later has nothing to do with it
                lone, run = None, partial(self._route, subject=None, payload=payload, awaited=False)
            if lone:
                try:
                    lone(event)
                except Exception:  # noqa: BLE001  # as above
                    rescue(run, event)
            elif lone is None:
                return run(event)  # type: ignore[no-any-return]  # as above
            return UnseenHandle()
        return self._route(event, subject, payload, awaited=False)  # type: ignore[no-any-return]  # as above

    def aemit(
        self, event: Any, subject: Any = None, options: Emit | None = None, /, **payload: Any
    ) -> Coroutine[Any, Any, Handle]:
        """`emit`, awaited: async handlers are awaited in order, in this task."""
        if options is not None:
            return self._with_options(event, subject, options, payload, awaited=True)  # type: ignore[no-any-return]  # of the async kind
        if event.__class__ is str:
            try:
                _, run = self._aplans[subject.__class__][event]
            except KeyError:
                _, run = self._prepare(self._aplans, event, subject, awaited=True)
            return run(subject, payload)  # type: ignore[no-any-return]  # of the async kind
        return self._route(event, subject, payload, awaited=True)  # type: ignore[no-any-return]  # of the async kind

    # --- preparing ---------------------------------------------------------------------------

    def _prepare(self, table: dict[type, dict[str, Plan]], name: Any, subject: Any, *, awaited: bool) -> Plan:
        first, cls = self._first, subject.__class__
        known = table.setdefault(cls, {})
        plan = known.get(name)
        if plan is None:
            plan = remember(known, name, self._make(validate_name(name), cls, None, awaited=awaited))
        if not awaited and name not in first:
            remember(first, name, (cls, *plan))
        return plan

    def _route(self, event: Any, subject: Any, payload: dict[str, Any], *, awaited: bool) -> Any:
        """What is no plain name: a subclass of str, or a declared event, perhaps met for the first time."""
        if isinstance(event, str):
            return (self.aemit if awaited else self.emit)(str.__str__(event), subject, **payload)
        declared = declaration(event, payload)
        key = (declared.cls, subject.__class__, awaited)
        known, alone = self._declared, self._alone
        plan = known.get(key)
        if plan is None:
            plan = known[key] = self._make(declared.name, subject.__class__, declared, awaited=awaited)
            if subject is None and not awaited:
                alone[declared.cls] = plan
        run = plan[1]
        return run(event) if subject is None else run(subject, event)

    def _make(self, name: str, cls: type, declared: Declared | None, *, awaited: bool) -> Plan:
        if cls is Emit:
            raise NotAnOption(
                f"{name}: Emit(...) stands behind the subject, also where there is none: emit(event, None, Emit(...))"
            )
        if self._needs_door(cls):
            return None, self._through_door(name, cls, declared, awaited=awaited)
        handlers = self._handlers_here(name, cls, declared.cls if declared else None)
        if self.observed:
            return None, self._watched(name, cls, handlers, declared, awaited=awaited)
        steps = [self._step(handler) for handler in handlers if handler.target is not None]
        alone = declared is not None and cls is type(None)
        return compile_plan(name, steps, declared=declared is not None, alone=alone, awaited=awaited)

    def _handlers_here(self, name: str, cls: type, declared: type | None) -> Sequence[Handler]:
        """Who is to hear a custom event in this process, with no log. Raises NotConnected for who needs one."""
        require_log(*(handlers := self.plans.custom(name, cls, declared)))
        self.warn_if_closed(name, handlers)
        return handlers

    def warn_if_closed(self, name: str, handlers: Sequence[Handler]) -> None:
        """Say that nothing is kept, once for each name, where there was a database until its `close()`."""
        if self._closed and any(handler.phase is Phase.DURABLE for handler in handlers):
            telemetry.warn_of_late_emit(name)

    def _step(self, handler: Handler) -> Step:
        registry, conditional = self.registry, handler.options.when is not None
        when = when_call(handler, registry.condition(handler, None)) if conditional else None
        return Step(handler, registry.binding(handler, None), when)

    def _needs_door(self, cls: type) -> bool:
        return self._connected or (self._door is not None and self.registry.model_of(cls) is not None)

    def _through_door(self, name: str, cls: type, declared: Declared | None, *, awaited: bool) -> Any:
        door = self._door
        assert door is not None
        prepared = door.prepare(name, cls, None if declared is None else declared.cls)
        return self._shaped(prepared.aemit if awaited else prepared.emit, cls, declared)

    # --- with options ------------------------------------------------------------------------

    def _with_options(self, event: Any, subject: Any, options: Emit, payload: dict[str, Any], *, awaited: bool) -> Any:
        """Off the hot path: nothing is prepared for an emit that may not happen, or not now."""
        options, declared = require_emit(options), None
        if isinstance(event, str):
            name = validate_name(str.__str__(event))
        else:
            name, declared, payload = declaration(event, payload).name, event, dict(payload_of(event))
        door = self._door
        if door is not None and self._needs_door(subject.__class__):
            prepared = door.prepare(name, subject.__class__, None if declared is None else declared.__class__)
            return (prepared.aemit if awaited else prepared.emit)(subject, payload, declared, options)
        if awaited:
            return spawn(self._emit_here, name, subject, payload, declared, options)
        return self._emit_here(name, subject, payload, declared, options)

    def _emit_here(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any, options: Emit) -> Handle:
        handlers = self._handlers_here(name, subject.__class__, None if declared is None else declared.__class__)
        about = declared if subject is None else subject
        occurrence = self._checked(name, about, payload, declared, handlers)
        return self.once.run(occurrence, options, self.run_here)

    def _checked(
        self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any, handlers: Sequence[Handler]
    ) -> Occurrence:
        refuse_reserved(name, payload)
        self.caller.require_payload(handlers, name, payload, None)
        return Occurrence(name, subject, payload, declared=declared, handlers=handlers)

    # --- in memory, observed -----------------------------------------------------------------

    @property
    def observed(self) -> bool:
        """Whether somebody watches (telemetry, capture, muted), so that the bookkeeping is worth its time."""
        return self.watch.active or telemetry.verbose()

    def _watched(
        self, name: str, cls: type, handlers: Sequence[Handler], declared: Declared | None, *, awaited: bool
    ) -> Any:
        def run(subject: Any, payload: Mapping[str, Any], event: Any = None) -> Handle:
            return self.run_here(self._checked(name, subject, payload, event, handlers))

        if awaited:
            return self._shaped(partial(spawn, run), cls, declared)
        return self._shaped(run, cls, declared)

    @staticmethod
    def _shaped(run: Any, cls: type, declared: Declared | None) -> Any:
        """As a plan is called: a name with subject and payload, a declared event alone or with its subject."""
        if declared is None:
            return run
        if cls is type(None):
            return lambda event: run(event, payload_of(event), event)
        return lambda subject, event: run(subject, payload_of(event), event)

    def run_here(self, occurrence: Occurrence) -> Handle:
        """Run an occurrence without a transaction: transaction handlers first, then the later ones, isolated."""
        if self.watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        self.in_transaction(occurrence)
        for happened in run_now(occurrence, self.caller):
            self.run_after(happened)
        return handle_of(occurrence.event)

    @staticmethod
    def in_transaction(occurrence: Occurrence) -> Occurrence:
        """Keep the transaction's handlers to be run now; the later ones wait in `later`."""
        now = [h for h in occurrence.handlers if h.phase is Phase.TRANSACTION]
        occurrence.later = [h for h in occurrence.handlers if h.phase in (Phase.AFTER_COMMIT, Phase.DURABLE)]
        occurrence.handlers = now
        return occurrence

    def run_after(self, occurrence: Occurrence) -> None:
        """Run the later handlers of something that is certain now; each is isolated."""
        for handler in occurrence.later:
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
