"""The runner: one delivery to its outcome. A straight pipe, past which nothing raises but the end of the process."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from msgspec import structs

from earnorm import telemetry
from earnorm.backoff import Backoff
from earnorm.binding import Moment
from earnorm.bus import EventBus
from earnorm.delivery import Dead, Delivery, Done, Outcome, Retry, Skipped
from earnorm.dispatch import refuse_loop
from earnorm.envelope import origin_of
from earnorm.errors import (
    ConnectionLost,
    Control,
    Discard,
    EventLoopError,
    MissingPayload,
    PayloadError,
    RetryLater,
    SensitiveArgument,
    StopPropagation,
    UnknownHandler,
    UnsatisfiableArgument,
    ValidationFailed,
)
from earnorm.event import Entry, Event, caused_by
from earnorm.handler import Handler
from earnorm.portal import wait_for
from earnorm.registry import ModelInfo
from earnorm.settling import Settling, settling
from earnorm.telemetry import escaped
from earnorm.tenant import acting_for

__all__ = ["Hydrated", "Runner", "classify", "error_text"]

A = TypeVar("A")
T = TypeVar("T")

_log = logging.getLogger("earnorm.worker")

# What a handler may raise and still harm only itself. The last two would otherwise end a thread or a loop.
_FAILURES = (Exception, SystemExit, asyncio.CancelledError)

# No later attempt would find anything else.
_HOPELESS = (
    EventLoopError,
    MissingPayload,
    PayloadError,
    SensitiveArgument,
    UnsatisfiableArgument,
    ValidationFailed,
)

_STOPPED = (
    "stop_propagation() means nothing in a durable handler, since each is delivered on its own; "
    "raise Discard(reason) to skip this delivery"
)

# Ten years: what is later overflows some database's idea of time.
_LATEST = 10 * 365 * 86_400.0
_TEXT = 4_096
_SUMMARY = 1_000
_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Hydrated:
    """What the database found for an entry: its record, loaded fresh, and its declared event object.

    `missing` says that the entry has a record and its row is gone for good.
    """

    subject: Any = None
    info: ModelInfo | None = None
    declared: Any = None
    missing: bool = False


@dataclass(slots=True, eq=False)
class _Run:
    """One attempt under way. `event` is made of the entry's words until its data is decoded."""

    handler: Handler
    delivery: Delivery
    event: Event
    call: Callable[[], Any] | None = None
    started: float = field(default_factory=time.perf_counter)


class Runner:
    """Decodes, hydrates, asks `when=`, calls, and says what came of it.

    `events(entry, attempt)` decodes an entry; `hydrate(entry, event)` loads its record and may block.
    """

    def __init__(
        self,
        bus: EventBus,
        hydrate: Callable[[Entry, Event], Hydrated],
        events: Callable[[Entry, int], Event],
        *,
        database: str = "",
        backoff: Backoff | None = None,
        random: Random | None = None,
        hint: Callable[[BaseException], str | None] = lambda _error: None,
    ) -> None:
        self.events = events
        self._bus = bus
        self._hydrate = hydrate
        self._database = database
        self._backoff = backoff or Backoff()
        self._hint = hint
        self._random = random or Random()  # noqa: S311  jitter is no secret
        self._version = -1
        self._handlers: dict[str, Handler] = {}
        self._recorded: Mapping[str, str] = {}

    def record(self, names: Mapping[str, str]) -> None:
        """From now on subscriptions go by their recorded names, given here by those of their handlers."""
        self._recorded = dict(names)
        self._version = -1

    def handler(self, name: str) -> Handler | None:
        """The durable handler of the subscription of this name, if this process has it."""
        version = self._bus.registry.version
        if version != self._version:
            named = self._recorded
            self._handlers = {
                named.get(handler.name, handler.name): handler for handler in self._bus.registry.durable()
            }
            self._version = version
        return self._handlers.get(name)

    def is_async(self, name: str) -> bool:
        """Whether deliveries of this subscription belong on a loop."""
        handler = self.handler(name)
        return handler is not None and handler.is_async

    def tell_appended(self, entries: Sequence[Entry]) -> None:
        """What handlers emitted is in the log now."""
        if entries and telemetry.wanted(telemetry.Appended):
            for entry in entries:
                _tell(telemetry.Appended(self.events(entry, 1)))

    # --- the pipe ----------------------------------------------------------------------------

    def run(self, delivery: Delivery) -> Outcome:
        """Run one attempt in this thread. Raises UnknownHandler, ConnectionLost; of a handler's own doing, nothing."""
        run = self._begin(delivery)
        try:
            with acting_for(delivery.entry.tenant):
                outcome = self._prepare(run) or self._perform(run)
        except ConnectionLost:
            # Ours, as the record was loaded: no doing of the handler, and so no attempt.
            raise
        except _FAILURES as error:
            return self._failed(run, error)
        return self._ended(run, outcome)

    async def arun(self, delivery: Delivery, executor: Executor | None = None) -> Outcome:
        """`run`, awaited: what may block (loading, `when=`, a plain handler) is done in `executor`."""
        if not self.is_async(delivery.subscription):
            return await _offloaded(executor, self.run, delivery)
        run = self._begin(delivery)
        try:
            with acting_for(delivery.entry.tenant):
                outcome = await self._aprepare(run, executor) or await self._aperform(run)
        except ConnectionLost:
            # Ours, as the record was loaded: no doing of the handler, and so no attempt.
            raise
        except _FAILURES as error:
            return self._failed(run, error)
        return self._ended(run, outcome)

    def _begin(self, delivery: Delivery) -> _Run:
        handler = self.handler(delivery.subscription)
        if handler is None:
            raise UnknownHandler(delivery.subscription)
        run = _Run(handler, delivery, self._words(delivery))
        if telemetry.wanted(telemetry.HandlerStarted):
            _tell(telemetry.HandlerStarted(run.event, handler.name))
        return run

    def _words(self, delivery: Delivery) -> Event:
        """The event as far as it can be known without its data."""
        entry = delivery.entry
        origin = origin_of(entry, attempt=delivery.attempt, database=self._database)
        return Event(entry.name, key=entry.key, origin=origin, _id=entry.id, _at=entry.at.timestamp())

    def _prepare(self, run: _Run) -> Skipped | None:
        """All that comes before the call; says why there is none, if so."""
        entry, handler = run.delivery.entry, run.handler
        event = run.event = self.events(entry, run.delivery.attempt)
        refuse_loop(handler, event)
        found = self._hydrate(entry, event)
        if found.missing:
            return Skipped("missing")
        event = run.event = structs.replace(event, subject=found.subject)
        self._bus.caller.require_payload((handler,), event.name, event.payload, found.info)
        compiled = self._bus.caller.compiled(handler, found.info)
        moment = Moment(None, entry.name == f"{entry.subject}.created", found.declared)
        arguments = (event.subject, event.payload, event, moment)
        with caused_by(event, handler.name):
            if compiled.when is not None and not compiled.when(*arguments):
                return Skipped("when")
        run.call = lambda: compiled.call(*arguments)
        return None

    async def _aprepare(self, run: _Run, executor: Executor | None) -> Skipped | None:
        if not run.delivery.entry.key and run.handler.options.when is None:
            # No record to load and no condition to ask: nothing here blocks.
            return self._prepare(run)
        return await _offloaded(executor, self._prepare, run)

    def _perform(self, run: _Run) -> Done:
        assert run.call is not None
        with caused_by(run.event, run.handler.name), settling(self._database) as here:
            result = run.call()
            if inspect.iscoroutine(result):
                wait_for(result)
            return _done(run, here)

    async def _aperform(self, run: _Run) -> Done:
        assert run.call is not None
        with caused_by(run.event, run.handler.name), settling(self._database) as here:
            result = run.call()
            if inspect.isawaitable(result):
                await result
            return _done(run, here)

    # --- what came of it ---------------------------------------------------------------------

    def _failed(self, run: _Run, error: BaseException) -> Outcome:
        if _process_ends(error):
            raise error
        if (hint := self._hint(error)) is not None:
            error.add_note(hint)
        outcome = classify(error, run.delivery.attempt, self._backoff, self._random.random())
        if not isinstance(error, Control) or isinstance(error, StopPropagation):
            _tell(telemetry.HandlerFailed(run.event, run.handler.name, error))
        return self._ended(run, outcome)

    def _ended(self, run: _Run, outcome: Outcome) -> Outcome:
        event, name = run.event, run.handler.name
        match outcome:
            case Done():
                if telemetry.wanted(telemetry.HandlerDone):
                    _tell(telemetry.HandlerDone(event, name, time.perf_counter() - run.started))
            case Skipped(reason):
                _tell(telemetry.HandlerSkipped(event, name, reason))
            case Retry(after, text):
                _tell(telemetry.DeliverySetAside(event, name, after, text.partition("\n")[0]))
            case Dead(text):
                _tell(telemetry.HandlerDead(event, name, text.partition("\n")[0]))
        return outcome


def _done(run: _Run, here: Settling) -> Done:
    if run.event.stopped:
        raise StopPropagation(_STOPPED)
    return Done(here.close())


async def _offloaded(executor: Executor | None, function: Callable[[A], T], argument: A) -> T:
    """Run what may block in `executor`, in a copy of this task's context."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(executor, lambda: context.run(function, argument))


def _tell(record: telemetry.Record) -> None:
    """What is told must not decide what happens: even an error's own text may raise."""
    try:
        telemetry.tell(record)
    except Exception:  # noqa: BLE001  a listener's or an error's own code
        _log.exception("%s could not be told", type(record).__name__)


def _process_ends(error: BaseException) -> bool:
    """Whether this is no failure of the handler but the end of its task or of the interpreter."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        return task is not None and task.cancelling() > 0
    refused = isinstance(error, RuntimeError) and "cannot schedule new futures" in _message(error)
    return refused and not threading.main_thread().is_alive()


# --- judging ---------------------------------------------------------------------------------


def classify(error: BaseException, attempt: int, backoff: Backoff, chance: float) -> Outcome:
    """The outcome of attempt number `attempt` that ended in `error`."""
    if isinstance(error, Discard):
        return Skipped(escaped(_message(error)))
    if isinstance(error, StopPropagation):
        return Dead(_STOPPED)
    text = error_text(error)
    if isinstance(error, _HOPELESS) or backoff.exhausted(attempt):
        return Dead(text)
    if isinstance(error, RetryLater):
        return Retry(min(max(0.0, error.seconds), _LATEST), text)
    return Retry(backoff.wait(attempt, chance), text)


def error_text(error: BaseException) -> str:
    """The error as a delivery keeps it: type and message, then the last lines of the traceback, about 4 KB at most.

    Control characters are escaped, so that no message can forge lines or break a terminal.
    """
    summary = escaped(f"{type(error).__name__}: {_message(error)}"[:_SUMMARY])
    if isinstance(error, Control):
        return summary[:_TEXT]
    lines = "".join(traceback.format_tb(error.__traceback__, -_FRAMES)).splitlines()
    kept = "\n".join(map(escaped, lines))[-(_TEXT - len(summary) - 1) :]
    notes = "".join(f"\n{escaped(note)}" for note in getattr(error, "__notes__", ()))
    return f"{summary}{notes[:_SUMMARY]}\n{kept}"[:_TEXT]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  an error's text is code of the user
        return "(its text cannot be shown)"
