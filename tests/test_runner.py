"""The runner: one delivery to its outcome."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest

from earnorm import telemetry
from earnorm.backoff import Backoff
from earnorm.bus import EventBus
from earnorm.clock import VirtualClock
from earnorm.delivery import DONE, Dead, Delivery, Done, Retry, Skipped
from earnorm.dispatch import DEPTH_LIMIT
from earnorm.errors import (
    Abort,
    ConnectionLost,
    Discard,
    HandlerTimedOut,
    PayloadError,
    RetryLater,
    StopPropagation,
    UnknownHandler,
)
from earnorm.event import Entry, Event, Origin, current_event, running
from earnorm.runner import Hydrated, Runner
from earnorm.settling import settling_here
from earnorm.stepping import Steps
from earnorm.verdict import error_text

pytestmark = pytest.mark.expect_failures

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def decode(entry: Entry, attempt: int) -> Event:
    if entry.data == b"broken":
        raise PayloadError("", entry.data, "the log's entry is damaged")
    payload = {"total": 3} if entry.data == b"total" else {}
    return Event(
        entry.name, None, payload, key=entry.key, origin=Origin(depth=entry.depth, attempt=attempt), _id=entry.id
    )


class Rig:
    """A bus, a runner on it, and what it told."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.found = Hydrated("the record")
        self.runner = Runner(self.bus, lambda entry, event: self.found, decode, database="main", random=Random(1))
        self.told: list[telemetry.Record] = []

    def on(self, function, **options):
        self.bus.on("order.*", name="mail", **options)(function)

    def delivery(self, *, attempt=1, data=b"total", depth=0, key="order:1", name="order.placed") -> Delivery:
        entry = Entry.of(
            id=uuid4(),
            name=name,
            subject=key.partition(":")[0],
            key=key,
            data=data,
            at=NOON,
            correlation_id=uuid4(),
            causation_id=None,
            depth=depth,
            position=1,
        )
        return Delivery(subscription="mail", entry=entry, attempt=attempt)

    def run(self, **details):
        return run(self.runner, self.delivery(**details))

    def transitions(self) -> list[str]:
        return [type(record).__name__ for record in self.told]


@pytest.fixture
def rig():
    rig = Rig()
    undo = telemetry.listen(rig.told.append)
    yield rig
    undo()


def run(runner, delivery):
    return runner.perform(runner.begin(delivery))


async def arun(runner, delivery):
    return await perform(runner, runner.begin(delivery))


async def perform(runner, run):
    outcome = runner.start(run, Steps())
    return outcome if outcome is not None else await runner.finish(run)


class GaveUp(BaseException):
    """As some libraries end a wait: no Exception, so that nobody catches it by chance."""


# Errors that are no Exception, and say nothing of the process.
BASE = [GaveUp("of itself"), BaseExceptionGroup("several", [GaveUp()]), GeneratorExit()]


def raising(error):
    def handler():
        raise error

    return handler


async def hear():
    """What no-op handlers are."""


class TestOutcomes:
    def test_a_handler_that_returns_is_done(self, rig):
        seen = []
        rig.on(lambda order, total, event: seen.append((order, total, event.attempt, event.key)))

        assert Done() == rig.run(attempt=4)
        assert [("the record", 3, 4, "order:1")] == seen
        assert ["HandlerStarted", "HandlerDone"] == rig.transitions()

    def test_a_failure_is_retried_after_a_wait_that_grows(self, rig):
        rig.on(raising(ValueError("boom")))
        first, second = rig.run(), rig.run(attempt=2)

        assert isinstance(first, Retry)
        assert isinstance(second, Retry)
        assert 5 <= first.after <= 5.5
        assert 10 <= second.after <= 11
        assert first.error.startswith("ValueError: boom\n")
        assert ["HandlerStarted", "HandlerFailed", "DeliverySetAside"] == rig.transitions()[:3]

    def test_the_last_attempt_is_dead(self, rig):
        rig.on(raising(ValueError("boom")))

        assert isinstance(rig.run(attempt=15), Retry)
        rig.told.clear()
        assert isinstance(rig.run(attempt=16), Dead)
        assert ["HandlerStarted", "HandlerFailed", "HandlerDead"] == rig.transitions()

    def test_a_discard_is_skipped_with_its_reason(self, rig):
        rig.on(raising(Discard("a test order")))

        assert Skipped("a test order") == rig.run()
        assert ["HandlerStarted", "HandlerSkipped"] == rig.transitions()

    def test_a_handler_chooses_its_own_wait(self, rig):
        rig.on(raising(RetryLater(90)))

        assert Retry(90, "RetryLater: asked to be retried (in 90 s)") == rig.run()
        assert ["HandlerStarted", "DeliverySetAside"] == rig.transitions()

    def test_a_chosen_wait_counts_as_an_attempt_too(self, rig):
        rig.on(raising(RetryLater(90)))

        assert isinstance(rig.run(attempt=16), Dead)

    @pytest.mark.parametrize(
        "asked, given",
        [
            (-1, 0.0),
            (float("nan"), 0.0),
            (float("inf"), 315_360_000.0),
            (timedelta(seconds=-1), 0.0),
            (timedelta.max, 315_360_000.0),
        ],
    )
    def test_no_wait_overflows_the_calendar(self, rig, asked, given):
        rig.on(raising(RetryLater(asked)))
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert given == outcome.after

    def test_a_veto_from_a_save_inside_is_a_failure_like_another(self, rig):
        rig.on(raising(Abort("closed")))

        assert isinstance(rig.run(), Retry)

    @pytest.mark.parametrize("how", ["raise", "call"])
    def test_stopping_propagation_is_an_error_at_once(self, rig, how):
        def stop(event):
            if how == "raise":
                raise StopPropagation
            event.stop_propagation()

        rig.on(stop)
        outcome = rig.run()

        assert isinstance(outcome, Dead)
        assert "means nothing in a durable handler" in outcome.error

    def test_a_condition_that_is_false_skips(self, rig):
        called = []
        rig.on(lambda: called.append(1), when=lambda order, total: total > 100)

        assert Skipped("when") == rig.run()
        assert [] == called

    def test_a_condition_that_raises_is_a_failure(self, rig):
        rig.on(lambda: None, when=lambda event: 1 / 0)

        assert isinstance(rig.run(), Retry)

    def test_a_record_that_is_gone_skips(self, rig):
        rig.found = Hydrated(missing=True)
        rig.on(lambda order: None)

        assert Skipped("missing") == rig.run()

    @pytest.mark.parametrize(
        "details, text",
        [
            ({"data": b"broken"}, "PayloadError: "),
            ({"data": b"none"}, "MissingPayload: "),
            ({"depth": DEPTH_LIMIT + 1}, "EventLoopError: "),
        ],
        ids=["damaged data", "a missing key", "a chain too deep"],
    )
    def test_what_no_attempt_can_mend_is_dead_at_once(self, rig, details, text):
        rig.on(lambda order, total: None)
        outcome = rig.run(**details)

        assert isinstance(outcome, Dead)
        assert outcome.error.startswith(text)

    @pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError(), MemoryError(), RecursionError(), *BASE])
    def test_no_handler_takes_its_thread_with_it(self, rig, error):
        rig.on(raising(error))

        assert isinstance(rig.run(), Retry)

    def test_no_handler_in_a_thread_is_interrupted_from_the_keyboard(self, rig):
        """One that raised it was run again and again, without an end, and never failed."""
        rig.on(raising(KeyboardInterrupt()))
        with ThreadPoolExecutor(1) as threads:
            outcome = threads.submit(rig.run).result()

        assert isinstance(outcome, Retry)

    def test_the_end_of_the_process_goes_through(self, rig):
        rig.on(raising(KeyboardInterrupt()))

        with pytest.raises(KeyboardInterrupt):
            rig.run()

    def test_a_delivery_for_nobody_here_is_refused(self, rig):
        with pytest.raises(UnknownHandler, match="mail"):
            rig.run()

    def test_a_listener_that_asks_a_broken_error_for_its_text_harms_nobody(self, rig):
        class Broken(Exception):
            def __str__(self) -> str:
                raise ValueError("not even this")

        rig.on(raising(Broken()))
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert outcome.error.startswith("Broken: (its text cannot be shown)")

    def test_backoff_comes_from_outside(self, rig):
        rig.on(raising(ValueError()))
        runner = Runner(rig.bus, lambda *_: rig.found, decode, backoff=Backoff(attempts=1))

        assert isinstance(run(runner, rig.delivery()), Dead)


class TestReturning:
    @pytest.mark.parametrize(
        "value, outcome",
        [
            (Done(), Done()),
            (Skipped("a test order"), Skipped("a test order")),
            (Retry("5m", "no paper"), Retry(300, "RetryLater: no paper (in 300 s)")),
            (Retry(90), Retry(90, "RetryLater: asked to be retried (in 90 s)")),
            (Dead("no such printer"), Dead("no such printer")),
        ],
    )
    @pytest.mark.parametrize("colour", ["plain", "async"])
    async def test_an_outcome_that_a_handler_returns_is_its_outcome(self, rig, value, outcome, colour):
        def mail():
            return value

        async def amail():
            return value

        rig.on(amail if colour == "async" else mail)

        assert outcome == await arun(rig.runner, rig.delivery())

    @pytest.mark.parametrize("value", [None, 7, "dead", Retry, False])
    def test_whatever_else_it_returns_is_nobody_s_business(self, rig, value):
        rig.on(lambda: value)

        assert Done() == rig.run()

    def test_a_retry_that_it_returns_counts_as_an_attempt(self, rig):
        rig.on(lambda: Retry("5m"))

        assert isinstance(rig.run(attempt=15), Retry)
        assert isinstance(rig.run(attempt=16), Dead)

    @pytest.mark.parametrize("outcome", [Dead, Skipped])
    def test_a_reason_may_be_an_error(self, rig, outcome):
        """`return Dead(error)` was an attempt that failed of an AttributeError, and was made again for a day."""
        rig.on(lambda: outcome(ValueError("no such printer")))

        assert outcome("no such printer") == rig.run()

    def test_a_reason_forges_no_line(self, rig):
        rig.on(lambda: Dead("a\nb"))

        assert Dead("a\\nb") == rig.run()

    def test_a_wait_that_is_none_is_a_failure_of_the_handler(self, rig):
        rig.on(lambda: Retry("soon"))
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert outcome.error.startswith("InvalidDuration: 'soon' is no duration")


class TestRetryOption:
    @pytest.mark.parametrize("retry, last", [(3, 3), (Backoff(attempts=2), 2), (False, 1)])
    def test_a_handler_says_how_often_it_is_tried(self, rig, retry, last):
        rig.on(raising(ValueError()), retry=retry)

        assert all(isinstance(rig.run(attempt=attempt), Retry) for attempt in range(1, last))
        assert isinstance(rig.run(attempt=last), Dead)

    def test_and_how_patiently(self, rig):
        rig.on(raising(ValueError()), retry=Backoff(first="1m", jitter=0))
        outcome = rig.run(attempt=2)

        assert isinstance(outcome, Retry)
        assert 120 == outcome.after

    def test_by_the_class_of_the_error(self, rig):
        rules = {TimeoutError: Backoff(attempts=3, first=1, jitter=0), ValueError: False}
        outcomes = []
        for error in (TimeoutError(), ValueError(), KeyError()):
            rig.bus = EventBus()
            rig.runner = Runner(rig.bus, lambda *_: rig.found, decode, random=Random(1))
            rig.on(raising(error), retry=rules)
            outcomes.append(rig.run())

        assert [Retry, Dead, Retry] == [type(outcome) for outcome in outcomes]
        assert (1, True) == (outcomes[0].after, outcomes[2].after >= 5)

    def test_what_no_attempt_would_mend_is_tried_again_where_the_handler_says_so(self, rig):
        """It was dead at once, and what the handler said of it was left unheard."""
        rig.on(raising(PayloadError("total", 1, "no stock yet")), retry={PayloadError: Backoff(first=7, jitter=0)})
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert 7 == outcome.after

    @pytest.mark.parametrize("rules", [5, {Exception: 5}, {KeyError: 5}])
    def test_and_not_where_it_speaks_of_other_errors(self, rig, rules):
        rig.on(raising(PayloadError("total", 1, "no stock yet")), retry=rules)

        assert isinstance(rig.run(), Dead)

    @pytest.mark.parametrize("asked, after", [("5m", 300), (timedelta(hours=1), 3_600), (7, 7)])
    def test_a_wait_that_a_handler_chooses_may_be_any_duration(self, rig, asked, after):
        rig.on(raising(RetryLater(asked)))
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert after == outcome.after

    def test_a_chosen_wait_that_is_none_waits_as_ever_and_says_so(self, rig):
        rig.on(raising(RetryLater("soon")))
        outcome = rig.run()

        assert isinstance(outcome, Retry)
        assert 5 <= outcome.after <= 5.5
        assert "'soon' is no duration" in outcome.error


class TestAttempts:
    def test_a_failed_attempt_is_remembered(self, rig):
        clock = VirtualClock(NOON)
        rig.runner = Runner(rig.bus, lambda *_: rig.found, decode, clock=clock, version="2026.1")
        rig.on(raising(ValueError("order 7 is closed")))
        delivery = rig.delivery(attempt=3)
        made = run(rig.runner, delivery).attempt

        assert ("mail", delivery.entry.id, 3) == (made.subscription, made.event, made.number)
        assert ("ValueError: order 7 is closed", "2026.1", "") == (made.error, made.version, made.worker)
        assert "raise error" in made.traceback
        assert NOON - timedelta(seconds=made.seconds) == made.started
        assert 12 == len(made.fingerprint)

    def test_the_last_one_too(self, rig):
        rig.on(raising(ValueError("boom")))

        assert 16 == rig.run(attempt=16).attempt.number

    def test_one_that_did_not_fail_is_not(self, rig):
        rig.on(raising(Discard("a test order")))

        assert Skipped("a test order") == rig.run()


class TestNames:
    def test_one_that_is_recorded_while_another_thread_looks_at_the_handlers_is_known(self, rig, monkeypatch):
        """The other thread went by the names of before, until the next handler came."""
        rig.on(lambda event: None)
        durable = rig.bus.registry.durable

        def meanwhile():
            monkeypatch.undo()
            rig.runner.record({"mail": "old_mail"})
            return durable()

        monkeypatch.setattr(rig.bus.registry, "durable", meanwhile)
        rig.runner.handler("mail")

        assert rig.runner.handler("old_mail") is not None


class TestAskedFor:
    """What no argument asks for is neither decoded nor loaded."""

    @pytest.mark.parametrize(
        "function, needs",
        [
            (lambda: None, []),
            (lambda *, total: None, ["payload"]),
            (lambda *, total=0, **others: None, ["payload"]),
            (lambda order: None, ["record"]),
            (lambda order, total: None, ["data", "record"]),
            (lambda event: None, ["data", "record"]),
        ],
    )
    def test_by_a_handler(self, function, needs):
        bus = EventBus()
        bus.on("order.*", name="mail")(function)
        found = []
        runner = Runner(
            bus,
            lambda entry, event: found.append("record") or Hydrated("it"),
            lambda entry, attempt: found.append("data") or decode(entry, attempt),
            payloads=lambda entry: found.append("payload") or decode(entry, 1).payload,
        )

        assert Done() == run(runner, Rig().delivery())
        assert needs == found

    def test_an_event_that_is_asked_for_in_passing_has_the_record_as_well(self, rig):
        seen = []
        rig.on(lambda order: seen.append((order, current_event().subject, current_event().payload)))

        assert Done() == rig.run()
        assert [("the record", "the record", {"total": 3})] == seen

    def test_where_an_attempt_is_over_nothing_waits_to_be_settled(self, rig):
        rig.on(hear)
        run = rig.runner.begin(rig.delivery())
        run.close()

        assert not run.settling.is_open
        assert not run.settling.add(rig.delivery().entry)

    def test_a_handler_is_called_without_an_object_between(self, rig):
        """Fewer functions of ours than before for each delivery: 31 went by, of which a third were for nobody."""
        rig.bus.on("order.*", name="mail")(hear)
        runner, delivery, called = Runner(rig.bus, lambda entry, event: rig.found, decode), rig.delivery(), []
        steps = Steps()
        quiet = telemetry._stepping
        telemetry._stepping = False
        try:
            runner.start(runner.begin(delivery), steps)
            sys.setprofile(lambda frame, event, _: event == "call" and called.append(frame.f_code.co_qualname))
            assert DONE is runner.start(runner.begin(delivery), steps)
        finally:
            sys.setprofile(None)
            telemetry._stepping = quiet

        assert len(called) <= 11, called


class TestContext:
    def test_what_a_handler_emits_knows_its_cause(self, rig):
        caught = []

        def relay():
            now = running()
            caught.append((now.handler, str(now.event)))
            rig.bus.emit("invoice.written")

        rig.on(relay)
        delivery = rig.delivery()
        with rig.bus.capture("invoice.*") as emitted:
            run(rig.runner, delivery)

        assert [("mail", "order.placed")] == caught
        assert [(delivery.entry.id, "mail", 1)] == [(e.causation_id, e.emitter, e.depth) for e in emitted]
        assert current_event() is None

    def test_created_tells_a_creation(self, rig):
        seen = []
        rig.on(lambda order, created: seen.append(created))
        rig.run(name="order.created")
        rig.run(name="order.updated")

        assert [True, False] == seen

    def test_a_dead_letter_that_could_not_be_decoded_is_told_by_its_words(self, rig):
        rig.on(lambda order: None)
        rig.run(data=b"broken", attempt=2)
        event = rig.told[-1].event

        assert ("order.placed", "order:1", 2, "main") == (event.name, event.key, event.attempt, event.database)


class TestAsync:
    async def test_an_async_handler_is_awaited(self, rig):
        seen = []

        async def mail(order, total):
            await asyncio.sleep(0)
            seen.append((order, total, str(current_event())))

        rig.on(mail)

        assert Done() == await arun(rig.runner, rig.delivery())
        assert [("the record", 3, "order.placed")] == seen

    async def test_its_record_is_loaded_in_a_thread(self, rig):
        threads = []

        async def mail(order):
            threads.append(threading.current_thread())

        def hydrate(entry, event):
            threads.append(threading.current_thread())
            return Hydrated()

        rig.on(mail)
        await arun(Runner(rig.bus, hydrate, decode), rig.delivery())

        assert threads[0] is not threading.current_thread()
        assert threads[1] is threading.current_thread()

    def test_it_also_runs_from_plain_code(self, rig):
        seen = []

        async def mail():
            seen.append(1)

        rig.on(mail)

        assert Done() == rig.run()
        assert [1] == seen

    async def test_its_failures_are_outcomes(self, rig):
        async def mail():
            raise ValueError("boom")

        rig.on(mail)

        assert isinstance(await arun(rig.runner, rig.delivery()), Retry)

    async def test_a_cancelled_error_of_its_own_is_a_failure(self, rig):
        async def mail():
            raise asyncio.CancelledError

        rig.on(mail)

        assert isinstance(await arun(rig.runner, rig.delivery(key="")), Retry)

    @pytest.mark.parametrize("waits", [False, True])
    @pytest.mark.parametrize("error", BASE)
    async def test_no_handler_takes_its_loop_with_it(self, rig, error, waits):
        """Its task ended with it, and the event was handled again and again, without an end."""

        async def mail():
            if waits:
                await asyncio.sleep(0)
            raise error

        rig.on(mail)

        assert isinstance(await arun(rig.runner, rig.delivery(key="")), Retry)

    def test_being_left_by_its_loop_is_no_attempt(self, rig):
        async def mail():
            await asyncio.sleep(0)

        rig.on(mail)
        left = arun(rig.runner, rig.delivery(key=""))
        left.send(None)
        left.close()

        assert ["HandlerStarted"] == rig.transitions()

    async def test_being_cancelled_is_no_attempt(self, rig):
        begun = asyncio.Event()

        async def mail():
            begun.set()
            await asyncio.Event().wait()

        rig.on(mail)
        task = asyncio.create_task(arun(rig.runner, rig.delivery()))
        await begun.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert ["HandlerStarted"] == rig.transitions()


class TestTimeouts:
    async def test_an_async_handler_is_cancelled_when_its_time_is_over(self, rig):
        ended = []

        async def mail():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        rig.on(mail, timeout=0.01)
        outcome = await arun(rig.runner, rig.delivery())

        assert isinstance(outcome, Retry)
        assert outcome.error.startswith("HandlerTimedOut: mail was not done after its timeout of 0.01 s")
        assert "await asyncio.Event().wait()" in outcome.error
        assert ["cancelled"] == ended
        assert ["HandlerStarted", "HandlerFailed", "DeliverySetAside"] == rig.transitions()
        assert 0 == asyncio.current_task().cancelling()

    @pytest.mark.parametrize("how", ["returns", "raises"])
    async def test_one_that_swallows_the_cancellation_is_timed_out_all_the_same(self, rig, how):
        async def mail():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise ValueError("boom") from None

        rig.on(mail, timeout="10ms", retry=2)

        assert isinstance(await arun(rig.runner, rig.delivery()), Retry)
        last = await arun(rig.runner, rig.delivery(attempt=2))
        assert isinstance(last, Dead)
        assert last.error.startswith("HandlerTimedOut: ")

    async def test_its_own_timeouts_are_its_own_business(self, rig):
        seen = []

        async def mail():
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("mine")

        rig.on(mail, timeout=60)

        assert Done() == await arun(rig.runner, rig.delivery())
        assert ["mine"] == seen

    async def test_shutting_down_while_it_is_cancelled_is_no_attempt(self, rig):
        cancelled = asyncio.Event()

        async def mail():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                await asyncio.Event().wait()

        rig.on(mail, timeout="10ms")
        task = asyncio.create_task(arun(rig.runner, rig.delivery()))
        await cancelled.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_one_that_is_deaf_to_it_is_given_up_and_what_it_does_counts_for_nothing(self, rig):
        outcomes, let_go, refused = [], asyncio.Event(), []

        async def mail():
            while not let_go.is_set():
                with suppress(asyncio.CancelledError):
                    await let_go.wait()
            try:
                settling_here("main")
            except HandlerTimedOut as error:
                refused.append(error.handler)

        rig.on(mail, timeout="1ms")
        rig.runner = Runner(rig.bus, lambda *_: rig.found, decode, database="main", grace=0.001)
        run = rig.runner.begin(rig.delivery())
        given_up = asyncio.Event()
        run.on_given_up = lambda outcome: (outcomes.append(outcome), given_up.set())
        task = asyncio.create_task(perform(rig.runner, run))
        await given_up.wait()
        let_go.set()

        assert None is await task
        assert [Retry] == [type(outcome) for outcome in outcomes]
        assert ["mail"] == refused
        assert ["HandlerStarted", "HandlerStuck", "HandlerFailed", "DeliverySetAside"] == rig.transitions()
        assert "await let_go.wait()" in rig.told[1].stack
        assert "await let_go.wait()" in outcomes[0].error

    def test_a_plain_handler_that_took_too_long_is_timed_out_though_it_ended(self, rig):
        ran = []
        rig.on(lambda: ran.append(1), timeout=1e-9)

        assert isinstance(rig.run(), Retry)
        assert [1] == ran

    def test_a_time_out_may_have_its_own_rule(self, rig):
        rig.on(lambda: None, timeout=1e-9, retry={TimeoutError: False})

        assert isinstance(rig.run(), Dead)

    def test_one_in_time_is_done(self, rig):
        rig.on(lambda: None, timeout="1h")

        assert Done() == rig.run()


class TestErrorText:
    def error(self, message: str) -> Exception:
        try:
            raise ValueError(message)
        except ValueError as error:
            return error

    def test_it_has_type_message_and_the_last_lines(self):
        text = error_text(self.error("boom"))

        assert text.startswith("ValueError: boom\n")
        assert "raise ValueError(message)" in text

    def test_it_is_short_whatever_the_message(self):
        assert 4096 >= len(error_text(self.error("x" * 1_000_000)))

    def test_it_names_what_the_error_came_of(self):
        """Of `raise ... from error` the dead letter had the last error alone."""
        try:
            try:
                raise OSError("no route\nto host")
            except OSError as error:
                raise ValueError("not sent") from error
        except ValueError as error:
            text = error_text(error)

        assert ["ValueError: not sent", "because of OSError: no route\\nto host"] == text.splitlines()[:2]

    def test_it_names_what_a_group_holds(self):
        """Of a task group it said "unhandled errors in a TaskGroup (1 sub-exception)", and no more."""
        group = ExceptionGroup("both", [self.error("boom"), ExceptionGroup("inner", [KeyError("bang")])])
        held = ["in it ValueError: boom", "in it ExceptionGroup: inner (1 sub-exception)", "in it KeyError: 'bang'"]

        assert held == error_text(group).splitlines()[1:4]

    def test_what_is_behind_it_ends_somewhere(self):
        error = self.error("boom")
        error.__cause__ = ValueError("round")
        error.__cause__.__cause__ = error

        assert ["because of ValueError: round"] == error_text(error).splitlines()[1:2]
        assert 4096 >= len(error_text(ExceptionGroup("many", [self.error("x" * 999) for _ in range(99)])))

    def test_its_end_is_kept_whatever_stands_before(self):
        """Long notes pushed out where it was raised."""
        error = self.error("x" * 999)
        error.add_note("y" * 999)

        assert error_text(error).endswith("raise ValueError(message)")

    @pytest.mark.parametrize("notes", [5, [object()], "ab"])
    def test_notes_may_be_anything(self, notes):
        error = self.error("boom")
        error.__notes__ = notes

        assert error_text(error).startswith("ValueError: boom\n")

    def test_no_message_forges_a_line(self):
        assert "ValueError: a\\nb\\x1b[2J\\x00" == error_text(self.error("a\nb\x1b[2J\0")).splitlines()[0]


def test_a_connection_that_breaks_while_a_record_is_loaded_is_no_attempt(rig):
    """It was set aside for five seconds, and counted, as if the handler had failed."""

    def hydrate(entry, event):
        raise ConnectionLost("server closed the connection")

    rig.on(lambda order: None)
    rig.runner = Runner(rig.bus, hydrate, decode)

    with pytest.raises(ConnectionLost):
        rig.run()
    with pytest.raises(ConnectionLost):
        asyncio.run(arun(rig.runner, rig.delivery()))
    assert ["HandlerStarted", "HandlerStarted"] == rig.transitions()
