"""The runner: one delivery to its outcome. A straight pipe, past which nothing raises but the end of the process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import Context
from random import Random
from types import CoroutineType
from typing import Any

from earnorm import telemetry
from earnorm.backoff import Backoff
from earnorm.bus import EventBus
from earnorm.clock import Clock, SystemClock
from earnorm.delivery import DONE, Dead, Delivery, Done, Outcome, Retry, Skipped
from earnorm.errors import (
    Control,
    HandlerTimedOut,
    ProcessDied,
    RetryLater,
    StopPropagation,
    UnknownHandler,
)
from earnorm.event import Entry, Event
from earnorm.handler import Handler
from earnorm.portal import wait_for
from earnorm.preparation import Ahead, Hydrated, Loaded, Preparation
from earnorm.stepping import Rest, Steps, Timer, awaiting
from earnorm.sweeping import Sweeping
from earnorm.telemetry import escaped
from earnorm.underway import Run
from earnorm.verdict import STOPPED, Verdict, is_no_attempt, judge
from earnorm.way import Ways

__all__ = ["Hydrated", "Runner", "tell_refused"]

_log = logging.getLogger("earnorm.worker")

# Seconds that a coroutine may take to end once it was cancelled for its timeout.
_GRACE = 1.0


class Runner:
    """Prepares, calls, and says what came of it.

    `events(entry, attempt)` decodes an entry, `payloads(entry)` its payload alone; `hydrate(entry, event)` loads its
    record and may block, unless it is given one that `ahead` has loaded: `hydrate(entry, event, record)`. It calls
    `event` if it needs it.
    `version` is that of the application's code, for the record of failed attempts.
    """

    def __init__(
        self,
        bus: EventBus,
        hydrate: Callable[..., Hydrated],
        events: Callable[[Entry, int], Event],
        *,
        database: str = "",
        backoff: Backoff | None = None,
        random: Random | None = None,
        hint: Callable[[BaseException], str | None] = lambda _error: None,
        clock: Clock | None = None,
        version: str = "",
        grace: float = _GRACE,
        payloads: Callable[[Entry], Mapping[str, Any]] | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self.events = events
        self._bus = bus
        self._database = database
        payloads = payloads or (lambda entry: events(entry, 1).payload)
        self.preparation = Preparation(bus, hydrate, events, payloads=payloads, database=database, ahead=ahead)
        self._loads_ahead = ahead is not None
        self._backoff = backoff or Backoff()
        self._hint = hint
        self._random = random or Random()  # noqa: S311  jitter is no secret
        self._clock = clock or SystemClock()
        self._code_version = version
        self._grace = grace
        self._ways = Ways(bus, self.preparation.way)
        self.sweep = Sweeping(self._ways, self.preparation, self).sweep

    def record(self, names: Mapping[str, str]) -> None:
        """From now on subscriptions go by their recorded names, given here by those of their handlers."""
        self._ways.record(names)

    def handler(self, name: str) -> Handler | None:
        """The durable handler of the subscription of this name, if this process has it."""
        return self._ways.handler(name)

    def is_ordered(self, name: str) -> bool:
        """Whether later deliveries of a record wait for earlier ones of this subscription."""
        handler = self.handler(name)
        return handler is not None and handler.ordered

    def is_async(self, name: str) -> bool:
        """Whether deliveries of this subscription belong on a loop."""
        handler = self.handler(name)
        return handler is not None and handler.is_async

    def is_transactional(self, name: str) -> bool:
        """Whether deliveries of this subscription run on a stage."""
        handler = self.handler(name)
        return handler is not None and handler.transactional

    def concurrency(self, name: str) -> int | None:
        """How many deliveries of this subscription may run side by side, if it says."""
        handler = self.handler(name)
        return handler.options.concurrency if handler is not None else None

    def tell_appended(self, entries: Sequence[Entry]) -> None:
        """What handlers emitted is in the log now."""
        if entries and telemetry.wanted(telemetry.Appended):
            for entry in entries:
                _tell(telemetry.Appended(self.events(entry, 1)))

    # --- doors -------------------------------------------------------------------------------

    def may_load(self, delivery: Delivery) -> bool:
        """Whether `load` may find records for deliveries of this subscription that are about what this one is about."""
        if not self._loads_ahead or delivery.entry.key == "":
            return False
        try:
            return self._ways.of(delivery).record
        except UnknownHandler:  # it was taken off meanwhile, as the attempt will say
            return False

    def loads(self, delivery: Delivery) -> bool:
        """Whether `load` would find a record for this delivery."""
        entry = delivery.entry
        return self.may_load(delivery) and entry.name != f"{entry.subject}.deleted"

    def load(self, deliveries: Sequence[Delivery]) -> list[Loaded | None]:
        """Records of deliveries that are to begin, loaded together; may block. Give each to `begin`."""
        return Context().run(self.preparation.load, deliveries)

    def is_fresh(self, loaded: Loaded) -> bool:
        """Whether what `load` has found may still be given to `begin`: if not, the attempt loads for itself."""
        return self.preparation.is_fresh(loaded)

    def begin(self, delivery: Delivery, loaded: Loaded | None = None) -> Run:
        """An attempt, to be performed at once. Raises UnknownHandler."""
        way = self._ways.of(delivery)
        right = None if way.timeout is None else threading.Lock()
        run = Run(way, delivery, time.perf_counter(), loaded, right)
        if telemetry.follows_handlers():
            run.is_followed = True
            if telemetry.wanted(telemetry.HandlerStarted):
                _tell(telemetry.HandlerStarted(run.event, run.handler))
        return run

    def perform(self, run: Run) -> Outcome | None:
        """Run an attempt in this thread, in a context of its own; None if it was given up meanwhile.

        Raises ConnectionLost; of a handler's own doing, nothing.
        """
        run.thread = threading.get_ident()
        try:
            outcome = Context().run(self.work, run)
        except BaseException as error:
            if is_no_attempt(error):
                raise
            return self.failed(run, error)
        return self.ended(run, outcome)

    def start(self, run: Run, steps: Steps) -> Outcome | None:
        """`perform`, on a loop, up to where it has to wait: None if it has, and `finish` does the rest.

        A handler that never waits needs no more, and no task, and leaves the `steps` to the next one.
        """
        way, context = run.way, Context()
        try:
            may_block = not way.nothing and self.preparation.may_block(run)
            outcome = None if may_block else context.run(self.first_step, run, steps)
        except BaseException as error:
            if is_no_attempt(error):
                raise
            return self.failed(run, error)
        if outcome is DONE and way.timeout is None and not run.is_followed:
            return outcome
        if outcome is None:
            run.context = context
            return None
        return self.ended(run, outcome)

    async def finish(self, run: Run, executor: Executor | None = None) -> Outcome | None:
        """What `start` has left, in the caller's task: what may block (loading, `when=`) is done in `executor`."""
        # The context has the attempt: it would wait for the garbage collector, and large payloads with it.
        context, run.context = run.context, None
        assert context is not None
        try:
            outcome: Outcome | None = None
            if run.coroutine is None:
                loop = asyncio.get_running_loop()
                outcome = await loop.run_in_executor(executor, lambda: context.run(self.preparation.prepare, run))
                outcome = outcome or context.run(self.first_step, run, Steps())
            if outcome is None:
                outcome = self.returned(run, await self.waited_for(run, context))
        except BaseException as error:
            if is_no_attempt(error, awaited=True):
                raise
            return self.failed(run, error)
        return self.ended(run, outcome)

    def died(self, delivery: Delivery) -> Outcome:
        """What comes of an attempt that takes its process with it. Nothing is told, since it may come otherwise."""
        run = Run(self._ways.of(delivery), delivery, time.perf_counter())
        return self._judge(run, ProcessDied(delivery.subscription, delivery.attempt))

    def give_up(self, run: Run) -> Outcome | None:
        """The attempt has timed out and its handler cannot be stopped: say how it ended; None if that is said.

        What it emits from now on is refused.
        """
        if not run.end():
            return None
        assert run.timeout is not None
        run.timed_out = run.is_given_up = True
        error = HandlerTimedOut(run.handler, run.timeout)
        run.revoke(run.timeout)
        stack = run.stack()
        _tell(telemetry.HandlerStuck(run.event, run.handler, run.seconds, stack))
        return self._judged(run, error, stack)

    # --- before the call ---------------------------------------------------------------------

    def work(self, run: Run) -> Outcome:
        """All of an attempt in this thread and context. Raises what the handler does."""
        skipped = self.preparation.prepare(run)
        if skipped is not None:
            return skipped
        assert run.target is not None
        result = run.target(*run.arguments)
        return self.returned(run, wait_for(result) if inspect.iscoroutine(result) else result)

    # --- on a loop ---------------------------------------------------------------------------

    def first_step(self, run: Run, steps: Steps) -> Outcome | None:
        """Call the handler, up to where it waits for the first time: None if it does.

        Before, whatever else is to be done for it, unless that was.
        """
        if run.target is None:
            skipped = self.preparation.prepare(run)
            if skipped is not None:
                return skipped
            assert run.target is not None
        result = run.target(*run.arguments)
        if type(result) is not CoroutineType:
            result = awaiting(result)
        awaits = steps.first(result)
        if awaits is steps.ended:
            return self.returned(run, steps.ended.value)
        run.coroutine, run.steps, run.awaits = result, steps, awaits
        return None

    async def waited_for(self, run: Run, context: Context) -> Any:
        """The rest of a handler that waits, cancelled when its time is over."""
        assert run.steps is not None
        rest = Rest(context, run.steps, run.awaits)
        if run.timeout is None:
            return await rest
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        timer = Timer(loop)
        timer.start(run.timeout - run.seconds, self._expire, run, task, timer)
        try:
            return await rest
        finally:
            timer.cancel()
            if run.timed_out:
                # Ours alone is taken back: whoever else cancelled the task is heard.
                task.uncancel()

    def _expire(self, run: Run, task: asyncio.Task[Any], timer: Timer) -> None:
        run.timed_out = True
        task.cancel()
        timer.start(self._grace, self._abandon, run)

    def _abandon(self, run: Run) -> None:
        """It swallows its cancellation. Somebody else goes on in its place, if there is anybody to be told."""
        if run.on_given_up is not None and (outcome := self.give_up(run)) is not None:
            run.on_given_up(outcome)

    # --- what came of it ---------------------------------------------------------------------

    def returned(self, run: Run, value: Any) -> Outcome:
        """Its handler has ended: what it returned counts if it is an outcome, and is nobody's business otherwise."""
        emitted = run.close()
        if run.known is not None and run.known.stopped:
            raise StopPropagation(STOPPED)
        if value is None and not emitted:
            return DONE
        match value:
            case Retry(after, error):
                raise RetryLater(after, error) if error else RetryLater(after)
            case Dead(error):
                run.drop()
                verdict = Verdict.of_words("Dead", str(error), run.handler)
                return Dead(verdict.text, run.failed(verdict, self._clock.now(), self._code_version))
            case Skipped(reason):
                run.drop()
                return Skipped(escaped(str(reason)))
            case _:
                return Done(emitted, run.settling.keys) if emitted else DONE

    def failed(self, run: Run, error: BaseException) -> Outcome | None:
        """What comes of an attempt that ended so; None if that was said before."""
        if not run.end():
            tell_refused(run)
            return None
        return self.came_to(run, error)

    def came_to(self, run: Run, error: BaseException) -> Outcome:
        """What comes of an attempt that ended so, from whoever has the right to say it."""
        run.drop()
        if run.is_late:
            assert run.timeout is not None
            error = HandlerTimedOut(run.handler, run.timeout).with_traceback(error.__traceback__)
        if (hint := self._hint(error)) is not None:
            error.add_note(hint)
        return self._judged(run, error)

    def _judged(self, run: Run, error: BaseException, stack: str = "") -> Outcome:
        outcome = self._judge(run, error, stack)
        if not isinstance(error, Control) or isinstance(error, StopPropagation):
            _tell(telemetry.HandlerFailed(run.event, run.handler, error))
        return self.tell_of(run, outcome)

    def _judge(self, run: Run, error: BaseException, stack: str = "") -> Outcome:
        rules = run.way.handler.options.retry
        backoff = self._backoff if rules is None else rules.backoff(type(error), self._backoff)
        verdict = Verdict.of(error, run.handler, stack)
        match judge(error, verdict.text, run.delivery.attempt, backoff, self._random.random(), rules=rules):
            case Retry(after, text):
                return Retry(after, text, run.failed(verdict, self._clock.now(), self._code_version))
            case Dead(text):
                return Dead(text, run.failed(verdict, self._clock.now(), self._code_version))
            case other:
                return other

    def ended(self, run: Run, outcome: Outcome) -> Outcome | None:
        """Tell whoever listens of it; None if it was given up meanwhile."""
        timeout = run.way.timeout
        if timeout is not None:
            if run.is_late:
                return self.failed(run, HandlerTimedOut(run.handler, timeout))
            if not run.end():
                tell_refused(run)
                return None
        return outcome if outcome is DONE and not telemetry.follows_handlers() else self.tell_of(run, outcome)

    def tell_of(self, run: Run, outcome: Outcome) -> Outcome:
        """Tell whoever listens what came of it."""
        name = run.handler
        match outcome:
            case Done():
                if telemetry.follows_handlers() and telemetry.wanted(telemetry.HandlerDone):
                    _tell(telemetry.HandlerDone(run.event, name, run.seconds))
            case Skipped(reason):
                _tell(telemetry.HandlerSkipped(run.event, name, reason))
            case Retry(after, text):
                _tell(telemetry.DeliverySetAside(run.event, name, after, text.partition("\n")[0]))
            case Dead(text):
                _tell(telemetry.HandlerDead(run.event, name, text.partition("\n")[0]))
        return outcome


def tell_refused(run: Run) -> None:
    """It was given up and has come to its end after all."""
    _log.info("%s ended after %.1f s, too late to count", escaped(run.handler), run.seconds)


def _tell(record: telemetry.Record) -> None:
    """What is told must not decide what happens: even an error's own text may raise."""
    try:
        telemetry.tell(record)
    except BaseException:  # noqa: BLE001  a listener's or an error's own code
        _log.exception("%s could not be told", type(record).__name__)
