"""The worker: leases, passes, draining, stopping, and what it does when the store fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.bus import EventBus
from earnorm.clock import SystemClock, VirtualClock
from earnorm.delivery import Delivery
from earnorm.errors import ConnectionLost, Discard, UnknownHandler
from earnorm.event import Entry, Event, Origin
from earnorm.runner import Hydrated, Runner
from earnorm.store import Presence, Registration
from earnorm.tenure import Tenure
from earnorm.threads import Threads
from earnorm.worker import Worker

pytestmark = pytest.mark.expect_failures

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NONE = {"done": 0, "retry": 0, "dead": 0, "skipped": 0}


def until(condition) -> None:
    """Spin, with the other threads, until they have got there."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0)


def decode(entry: Entry, attempt: int) -> Event:
    return Event(
        entry.name, None, {}, key=entry.key, origin=Origin(position=entry.position, attempt=attempt), _id=entry.id
    )


class FailingStore:
    """A store that can be switched off, altogether or for settling alone."""

    def __init__(self, store) -> None:
        self.store = store
        self.down = False
        self.settles = True
        self.tries = 0

    @property
    def divides(self):
        return self.store.divides

    @contextmanager
    def begin(self, *, readonly=False):
        self.tries += 1
        if self.down:
            raise OSError("the database is locked")
        with self.store.begin(readonly=readonly) as transaction:
            if not self.settles:
                transaction.settle = self.refuse
            yield transaction

    def refuse(self, *_):
        raise OSError("the disk is full")


class Rig:
    """A log in memory, a bus, and the workers of this test."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.bus = EventBus()
        self.memory = MemoryStore(clock)
        self.store = FailingStore(self.memory)
        self.ran: list[tuple] = []
        self.workers: list[Worker] = []

    def on(self, function=None, name="mail", events="**", **options):
        self.bus.on(events, name=name, **options)(function or (lambda event: self.note(name, event)))

    def note(self, name: str, event: Event) -> None:
        self.ran.append((name, event.key, event.position))

    def worker(self, **options) -> Worker:
        runner = Runner(self.bus, lambda entry, event: Hydrated(entry.key), decode)
        worker = Worker(self.bus, self.store, runner, clock=self.clock, **options)
        worker.refresh()
        self.workers.append(worker)
        return worker

    def let_pass(self, seconds: float) -> None:
        """Some time, if a worker waits for it: while it is at something, the clock would run away from it."""
        if self.clock.waiting:
            self.clock.advance(seconds)

    def append(self, *keys: str, name="order.placed") -> None:
        with self.memory.begin() as transaction:
            transaction.append([self.entry(key, name) for key in keys])

    def entry(self, key: str, name: str) -> Entry:
        return Entry.of(
            id=uuid4(),
            name=name,
            subject=key.partition(":")[0],
            key=key,
            data=b"",
            at=NOON,
            correlation_id=uuid4(),
            causation_id=None,
            depth=0,
        )

    def cursors(self) -> dict[str, int]:
        """How far each subscription has come, by its name."""
        with self.memory.begin() as transaction:
            stands = {}
            for row in transaction.cursors():
                stands[row.group, row.name] = min(row.position, stands.get((row.group, row.name), row.position))
            return {f.name: max(f.start, stands[f.group, f.cursor]) for f in transaction.followers()}

    def kept(self) -> list[tuple[str, int, int, str]]:
        with self.memory.begin() as transaction:
            return [(d.subscription, d.entry.position, d.attempt, d.state) for d in transaction.deliveries()]

    def expiry(self) -> float:
        """When the worker is no longer taken to be alive, in seconds from noon."""
        (worker,) = self.memory._state.workers.values()
        return (worker.expires - NOON).total_seconds()

    def claim(self, worker: str, seconds: float = 10):
        """Another worker takes all that is free; what it got."""
        with self.memory.begin() as transaction:
            knows = frozenset(f.name for f in transaction.followers()) | {"more"}
            expires = transaction.now() + timedelta(seconds=seconds)
            transaction.enter(Presence(worker=worker, expires=expires, knows=knows, dedicated=True))
            return [taken for row in transaction.cursors() if (taken := transaction.take(row, worker))]

    def holders(self) -> set[str]:
        with self.memory.begin() as transaction:
            return {row.worker for row in transaction.cursors()}


@pytest.fixture
def rig():
    made = Rig(VirtualClock(NOON))
    yield made
    for worker in made.workers:
        worker.stop(0)


@pytest.fixture
def live():
    """With the machine's own clock, for workers that run in their thread."""
    made = Rig(SystemClock())
    yield made
    for worker in made.workers:
        worker.stop(0)


class Flaky:
    """A handler that fails for the records it is told to."""

    def __init__(self, rig, *failing: str) -> None:
        self.rig = rig
        self.failing = set(failing)

    def __call__(self, event: Event) -> None:
        self.rig.note("mail", event)
        if event.key in self.failing:
            raise ValueError("boom")


class TestDelivering:
    def test_every_subscription_hears_every_event_once(self, rig):
        rig.on(name="mail")
        rig.on(name="audit")
        worker = rig.worker()
        rig.append("order:1", "", "order:2")

        assert {**NONE, "done": 6} == worker.drain()
        assert {(n, p): 1 for n in ("mail", "audit") for p in (1, 2, 3)} == Counter((n, p) for n, _, p in rig.ran)
        assert NONE == worker.drain()

    def test_what_nobody_hears_moves_the_cursor_too(self, rig):
        rig.on(events="invoice.*")
        worker = rig.worker()
        rig.append("order:1")
        worker.run_once()

        assert {"mail": 1} == rig.cursors()

    def test_events_of_a_record_run_in_order_while_records_run_side_by_side(self, rig):
        keys = [f"order:{n % 5}" for n in range(400)]
        rig.on()
        worker = rig.worker(batch=64)
        rig.append(*keys)

        assert 400 == worker.drain()["done"]
        for key in set(keys):
            seen = [position for _, ran, position in rig.ran if ran == key]
            assert sorted(seen) == seen

    def test_it_asks_whether_anything_is_left_before_it_begins_and_once_it_has_read_to_the_end(self, rig, monkeypatch):
        rig.on()
        worker, asked = rig.worker(batch=3), []
        contends = worker._agenda.contends
        monkeypatch.setattr(worker._agenda, "contends", lambda: asked.append(len(rig.ran)) or contends())

        rig.append(*(f"order:{number}" for number in range(30)))

        worker.drain()

        assert [0, 30] == asked

    def test_two_records_are_handled_at_the_same_time(self, rig):
        both = threading.Barrier(2, timeout=20)
        rig.on(lambda order: both.wait())
        worker = rig.worker(threads=2)
        rig.append("order:1", "order:2")

        assert 2 == worker.drain()["done"]

    def test_a_new_subscription_starts_at_the_horizon(self, rig):
        rig.on(name="mail")
        worker = rig.worker()
        rig.append("order:1")
        rig.on(name="audit")
        worker.refresh()
        rig.append("order:2")
        worker.drain()

        assert [("audit", 2), ("mail", 1), ("mail", 2)] == sorted((name, position) for name, _, position in rig.ran)

    def test_refreshing_costs_nothing_when_nothing_is_new(self, rig):
        rig.on()
        worker = rig.worker()
        tries = rig.store.tries
        worker.refresh()

        assert tries == rig.store.tries

    def test_a_batch_is_as_long_as_it_may_be(self, rig):
        rig.on()
        worker = rig.worker(batch=10)
        rig.append(*[""] * 25)

        assert [10, 10, 5, 0] == [worker.run_once().done for _ in range(4)]

    def test_without_handlers_there_is_nothing_to_do(self, rig):
        worker = rig.worker()
        rig.append("order:1")

        assert NONE == worker.drain()

    def test_a_handler_sees_nothing_of_who_drains(self, rig):
        mine = contextvars.ContextVar("mine", default="nobody's")
        seen = []
        rig.on(lambda order: (seen.append(mine.get()), mine.set("a handler's")))
        worker = rig.worker(threads=1)
        rig.append("order:1", "order:1", "order:2")
        mine.set("the drainer's")
        worker.drain()

        assert ["nobody's"] * 3 == seen


class TestFailures:
    def test_a_failure_is_retried_and_then_done(self, rig):
        flaky = Flaky(rig, "order:1")
        rig.on(flaky)
        worker = rig.worker()
        rig.append("order:1")

        assert {**NONE, "retry": 1} == worker.drain()
        assert [("mail", 1, 2, "open")] == rig.kept()
        flaky.failing.clear()
        rig.clock.advance(6)
        assert {**NONE, "done": 1} == worker.drain()
        assert [] == rig.kept()

    def test_behind_a_failure_the_record_waits_and_others_go_on(self, rig):
        flaky = Flaky(rig, "order:1")
        rig.on(flaky)
        worker = rig.worker()
        rig.append("order:1", "order:2", "order:1")
        worker.drain()
        rig.append("order:1", "order:2")
        worker.drain()

        assert [("order:1", 1), ("order:2", 2), ("order:2", 5)] == sorted((key, p) for _, key, p in rig.ran)
        flaky.failing.clear()
        rig.ran.clear()
        rig.clock.advance(6)
        assert {**NONE, "done": 3} == worker.drain()
        assert [1, 3, 4] == [position for _, _, position in rig.ran]

    def test_an_unordered_handler_waits_for_nothing(self, rig):
        rig.on(Flaky(rig, "order:1"), ordered=False)
        worker = rig.worker()
        rig.append("order:1")
        worker.drain()
        rig.append("order:1")

        assert {**NONE, "retry": 1} == worker.drain()
        assert 2 == len(rig.ran)

    def test_after_sixteen_attempts_it_is_a_dead_letter(self, rig):
        rig.on(Flaky(rig, "order:1"))
        worker = rig.worker()
        rig.append("order:1")
        ended = Counter()
        for _ in range(16):
            ended.update(worker.drain())
            rig.clock.advance(25_000)

        assert {**NONE, "retry": 15, "dead": 1} == ended
        assert [("mail", 1, 16, "dead")] == rig.kept()
        assert NONE == worker.drain()

    def test_a_dead_letter_does_not_block_its_record(self, rig):
        def mail(event):
            rig.note("mail", event)
            if event.position == 1:
                event.stop_propagation()

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1", "order:1")

        assert {**NONE, "dead": 1, "done": 1} == worker.drain()
        rig.append("order:1")
        assert {**NONE, "done": 1} == worker.drain()

    def test_counts_are_by_outcome(self, rig):
        def mail(event):
            if event.key == "order:1":
                raise Discard("not now")
            Flaky(rig, "order:2")(event)

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1", "order:2", "order:3", "order:4")

        assert {"done": 2, "retry": 1, "dead": 0, "skipped": 1} == worker.run_once().as_dict()

    def test_a_drain_counts_what_the_thread_did_before_it(self, rig):
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        worker.run_once()

        assert {**NONE, "done": 1} == worker.drain()


class TestUnknownHandlers:
    def test_a_subscription_of_another_process_is_left_alone(self, rig):
        rig.on()
        worker = rig.worker()
        with rig.memory.begin() as transaction:
            transaction.subscribe([Registration(name="theirs")])
        rig.append("order:1")

        assert {**NONE, "done": 1} == worker.drain()
        assert {"mail": 1, "theirs": 0} == rig.cursors()

    def test_deliveries_set_aside_for_others_stay_however_many_stand_in_front(self, rig):
        flaky = Flaky(rig, *(f"order:{n}" for n in range(20)))
        rig.on(flaky, name="theirs")
        other = rig.worker()
        rig.append(*(f"order:{n}" for n in range(20)))
        other.drain()
        rig.bus.off(flaky)
        mail = Flaky(rig, "order:20")
        rig.on(mail)
        worker = rig.worker(batch=3)
        rig.append("order:20")
        worker.drain()
        mail.failing.clear()
        rig.clock.advance(6)

        assert {**NONE, "done": 1} == worker.drain()
        assert [("theirs", position, 2, "open") for position in range(1, 21)] == rig.kept()

    def test_a_handler_removed_while_its_event_is_on_the_way_is_no_attempt(self, rig):
        def mail(event):
            rig.note("mail", event)
            rig.bus.off(mail)

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1", "order:1")

        assert {**NONE, "done": 1} == worker.run_once().as_dict()
        assert {"mail": 1} == rig.cursors()
        with pytest.raises(UnknownHandler):
            worker._runner.begin(_delivery(rig))


def _delivery(rig):
    return Delivery(subscription="mail", entry=rig.entry("order:1", "order.placed"))


class TestLeases:
    def test_while_another_process_holds_the_lease_nothing_runs(self, rig):
        rig.on()
        worker = rig.worker()
        rig.claim("another", 10)
        rig.append("order:1")

        assert NONE == worker.run_once().as_dict()
        rig.clock.advance(10)
        assert 1 == worker.run_once().done

    def test_a_lease_that_was_given_back_is_taken_at_once(self, rig):
        rig.on()
        worker = rig.worker()
        rig.claim("another", 10)
        rig.append("order:1")
        worker.run_once()
        with rig.memory.begin() as transaction:
            transaction.leave("another")
        rig.clock.advance(1)

        assert 1 == worker.run_once().done

    def test_a_drain_waits_for_another_process_until_its_time_is_up(self, rig):
        rig.on()
        worker = rig.worker()
        rig.claim("another", 60)
        rig.append("order:1")
        counts = []
        thread = threading.Thread(target=lambda: counts.append(worker.drain(5)))
        thread.start()
        while thread.is_alive():
            until(lambda: rig.clock.waiting or not thread.is_alive())
            rig.clock.advance(1)
        thread.join()

        assert [NONE] == counts

    def test_a_drain_ends_when_another_process_has_done_it(self, rig):
        rig.on()
        worker, other = rig.worker(), rig.worker()
        rig.append("order:1")
        rig.on(lambda order: None, name="late")
        other.refresh()
        other.run_once()
        rig.append("order:2")
        thread = threading.Thread(target=worker.drain)
        thread.start()
        until(lambda: rig.clock.waiting)
        other.run_once()
        rig.clock.advance(1)
        thread.join(20)

        assert not thread.is_alive()
        assert {"mail": 2, "late": 2} == rig.cursors()

    def test_a_lease_lost_meanwhile_changes_nothing_and_work_goes_on(self, rig):
        def mail(event):
            rig.note("mail", event)
            if len(rig.ran) == 1:
                rig.clock.advance(60)
                with rig.memory.begin() as transaction:
                    transaction.bury(worker._tenure.worker)
                rig.claim("another", 10)

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1")

        assert NONE == worker.run_once().as_dict()
        assert ({"mail": 0}, []) == (rig.cursors(), rig.kept())
        rig.clock.advance(10)
        assert {**NONE, "done": 1} == worker.drain()

    def test_a_worker_stays_alive_while_a_long_handler_runs(self, rig):
        done = threading.Event()
        rig.on(lambda order: done.wait(20))
        worker = rig.worker(lease=9)
        rig.append("order:1")
        thread = threading.Thread(target=worker.run_once)
        thread.start()
        until(lambda: rig.clock.waiting)
        rig.clock.advance(3)
        until(lambda: rig.expiry() == 12)
        done.set()
        thread.join(20)

        assert {"mail": 1} == rig.cursors()

    def test_a_drain_without_a_thread_gives_the_lease_back(self, rig):
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        worker.drain()

        assert rig.holders() == {""}

    def test_an_idle_thread_among_others_gives_the_lease_back(self, rig):
        rig.on()
        other, worker = rig.worker(), rig.worker()
        worker.start()
        rig.append("order:1")
        worker.wake()
        until(lambda: rig.ran)
        other.run_once()
        until(lambda: rig.let_pass(0.1) or rig.holders() == {""})

        assert rig.clock.monotonic() < 10

    def test_an_idle_thread_that_is_alone_keeps_the_lease_for_the_next_event_as_long_as_one_may_come(self, rig):
        rig.on()
        worker = rig.worker()
        worker.start()
        rig.append("order:1")
        worker.wake()
        until(lambda: rig.ran)
        while rig.clock.monotonic() < 25:
            until(lambda: rig.clock.waiting)
            rig.clock.advance(0.1)

        # Kept up: else it would have run out by now, and be anybody's.
        rig.worker().run_once()
        assert {worker._tenure.worker} == rig.holders()
        until(lambda: rig.let_pass(0.1) or rig.holders() == {""})

    def test_the_silence_of_a_thread_that_is_alone_begins_anew_with_each_event(self, rig):
        """It was counted from the start: once that was half a minute ago, every pause gave the lease back."""
        rig.on()
        worker = rig.worker()
        worker.start()
        until(lambda: rig.clock.waiting)
        rig.clock.advance(40)
        rig.append("order:1")
        worker.wake()
        until(lambda: rig.ran)
        began = rig.clock.monotonic()
        while rig.clock.monotonic() < began + 25:
            until(lambda: rig.clock.waiting)
            rig.clock.advance(0.1)

        assert {worker._tenure.worker} == rig.holders()


class Slow:
    """A handler that takes its time for the records it is told to, in a thread of its own."""

    def __init__(self, rig, *slow: str) -> None:
        self.rig = rig
        self.slow = set(slow)
        self.go_on = threading.Event()

    def __call__(self, event: Event) -> None:
        self.rig.note("mail", event)
        if event.key in self.slow:
            self.go_on.wait(20)


def turn(rig, worker) -> None:
    """One turn, in which time passes for as long as it takes."""
    thread = threading.Thread(target=worker.run_once)
    thread.start()
    while thread.is_alive():
        if rig.clock.waiting:
            rig.clock.advance(1)
        time.sleep(0)
    thread.join()


class TestStragglers:
    @pytest.fixture
    def slow(self, rig):
        handler = Slow(rig, "order:2")
        rig.on(handler)
        yield handler
        handler.go_on.set()

    def running(self, rig):
        with rig.memory.begin() as transaction:
            return [(d.entry.position, d.attempt, bool(d.worker)) for d in transaction.deliveries()]

    def ended(self, rig, worker):
        until(lambda: worker._turns.stragglers.ended())
        worker.run_once()

    def test_one_slow_handler_does_not_fill_the_window(self, rig, slow):
        worker = rig.worker()
        rig.append("order:1", "order:2", "order:3")
        turn(rig, worker)
        assert ({"mail": 3}, [(2, 1, True)]) == (rig.cursors(), self.running(rig))
        rig.append("order:4")
        worker.run_once()
        assert {"mail": 4} == rig.cursors()
        slow.go_on.set()
        self.ended(rig, worker)

        assert [] == rig.kept()
        assert {**NONE, "done": 4} == worker.drain()

    def test_later_events_of_its_record_wait_for_it(self, rig, slow):
        worker = rig.worker()
        rig.append("order:2", "order:2")
        turn(rig, worker)
        rig.append("order:2", "order:1")
        worker.run_once()
        assert [(1, 1, True), (2, 1, False), (3, 1, False)] == self.running(rig)
        slow.go_on.set()
        self.ended(rig, worker)
        worker.drain()

        assert [1, 2, 3] == [position for _, key, position in rig.ran if key == "order:2"]
        assert [] == rig.kept()

    def test_its_failure_is_an_attempt(self, rig):
        go_on = threading.Event()

        def mail(event):
            go_on.wait(20)
            raise ValueError("boom")

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1")
        turn(rig, worker)
        go_on.set()
        self.ended(rig, worker)

        assert [(1, 2, False)] == self.running(rig)

    def test_while_its_worker_lives_nobody_else_runs_it_and_when_that_has_died_another_does(self, rig, slow):
        worker, other = rig.worker(), rig.worker()
        rig.append("order:2")
        turn(rig, worker)
        other.run_once()
        assert 1 == len(rig.ran)
        rig.clock.advance(10)
        slow.slow.clear()
        other.run_once()
        other.run_once()
        assert (2, []) == (len(rig.ran), rig.kept())
        slow.go_on.set()
        self.ended(rig, worker)

        # Who was thought dead comes too late.
        assert 0 == worker._settler.totals.done

    def test_a_drain_waits_for_it(self, rig, slow):
        worker = rig.worker()
        rig.append("order:2")
        turn(rig, worker)
        counts = []
        thread = threading.Thread(target=lambda: counts.append(worker.drain()))
        thread.start()
        slow.go_on.set()
        while thread.is_alive():
            if rig.clock.waiting:
                rig.clock.advance(0.1)
            time.sleep(0)

        assert [{**NONE, "done": 1}] == counts

    def test_a_stop_leaves_it_to_others(self, rig, slow):
        worker = rig.worker()
        rig.append("order:2")
        turn(rig, worker)
        worker.stop(0)

        assert ([(1, 1, False)], {""}) == (self.running(rig), rig.holders())

    def test_no_more_run_on_than_may(self, rig):
        handler = Slow(rig, "order:1", "order:2", "order:3")
        rig.on(handler)
        worker = rig.worker(threads=1, concurrency=1)
        rig.append("order:1")
        turn(rig, worker)
        assert [(1, 1, True)] == self.running(rig)
        handler.go_on.set()
        self.ended(rig, worker)

        assert [] == rig.kept()


class TestAsync:
    def test_async_handlers_run_side_by_side(self, rig):
        state = {"inside": 0, "most": 0}

        async def mail(order):
            state["inside"] += 1
            state["most"] = max(state.values())
            while state["most"] < 3:
                await asyncio.sleep(0)
            state["inside"] -= 1

        rig.on(mail)
        worker = rig.worker()
        rig.append("order:1", "order:2", "order:3")

        assert {**NONE, "done": 3} == worker.drain()

    def test_no_more_than_allowed_run_at_once(self, rig):
        state = {"inside": 0, "most": 0}
        full = asyncio.Event()

        async def mail(order):
            state["inside"] += 1
            state["most"] = max(state.values())
            if state["inside"] == 4:
                full.set()
            await full.wait()
            await asyncio.sleep(0)
            state["inside"] -= 1

        rig.on(mail)
        worker = rig.worker(concurrency=4)
        rig.append(*[f"order:{n}" for n in range(50)])
        worker.drain()

        assert 4 == state["most"]

    def test_they_keep_the_order_of_a_record(self, rig):
        async def mail(event):
            for _ in range(event.position % 3):
                await asyncio.sleep(0)
            rig.note("mail", event)

        rig.on(mail)
        worker = rig.worker()
        rig.append(*[f"order:{n % 3}" for n in range(60)])
        worker.drain()

        for key in ("order:0", "order:1", "order:2"):
            seen = [position for _, ran, position in rig.ran if ran == key]
            assert (20, sorted(seen)) == (len(seen), seen)

    async def test_they_run_on_the_loop_of_the_application(self, live):
        loops = []

        async def mail(order):
            loops.append(asyncio.get_running_loop())

        live.on(mail)
        worker = live.worker()
        worker.use_loop(asyncio.get_running_loop())
        live.append("order:1")

        assert {**NONE, "done": 1} == await worker.adrain()
        assert [asyncio.get_running_loop()] == loops

    def test_when_that_loop_is_over_they_run_on_one_of_our_own(self, rig):
        loops = []

        async def mail(order):
            loops.append(asyncio.get_running_loop())

        async def hand_over():
            worker.use_loop(asyncio.get_running_loop())

        rig.on(mail)
        worker = rig.worker()
        asyncio.run(hand_over())
        rig.append("order:1")

        assert {**NONE, "done": 1} == worker.drain()
        assert loops[0].is_running()

    async def test_a_cancelled_drain_holds_nothing_up(self, live):
        live.on()
        worker = live.worker()
        live.claim("another", 60)
        live.append("order:1")
        task = asyncio.create_task(worker.adrain(60))
        while not worker._watchers:
            await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        until(lambda: not worker._passing.locked())


class TestThread:
    def test_importing_and_making_a_worker_start_no_thread(self, live):
        before = threading.active_count()
        live.worker()

        assert before == threading.active_count()

    def test_a_wake_is_heard_at_once(self, rig):
        rig.on()
        worker = rig.worker()
        worker.start()
        until(lambda: rig.clock.waiting)
        rig.append("order:1")
        worker.wake()
        until(lambda: rig.ran)

        assert 0.0 == rig.clock.monotonic()

    def test_without_a_wake_it_looks_by_itself_and_less_and_less_often(self, rig):
        rig.on()
        worker = rig.worker()
        worker.start()
        tries = []
        for _ in range(40):
            until(lambda: rig.clock.waiting)
            tries.append(rig.store.tries)
            rig.clock.advance(0.1)
        rig.append("order:1")
        rig.clock.advance(1)
        until(lambda: rig.ran)

        assert tries[-1] - tries[20] < tries[10] - tries[0] + 3

    def test_a_retry_runs_when_it_is_due(self, rig):
        flaky = Flaky(rig, "order:1")
        rig.on(flaky)
        worker = rig.worker()
        worker.start()
        rig.append("order:1")
        worker.wake()
        until(lambda: rig.kept() and rig.clock.waiting)
        flaky.failing.clear()
        for _ in range(30):
            until(lambda: rig.clock.waiting)
            rig.clock.advance(0.25)
        until(lambda: not rig.kept())

        assert 2 == len(rig.ran)

    def test_a_drain_from_another_thread_waits_for_it(self, live):
        live.on()
        worker = live.worker()
        worker.start()
        live.append(*[f"order:{n}" for n in range(500)])

        assert {**NONE, "done": 500} == worker.drain()

    def test_what_is_done_is_counted_by_the_time_it_can_be_seen(self, live):
        live.on()
        worker = live.worker()
        worker.start()
        for _ in range(300):
            live.append("order:1")
            worker.wake()

            assert {**NONE, "done": 1} == worker.drain()

    def test_starting_twice_is_one_thread(self, live):
        worker = live.worker()
        worker.start()
        worker.start()

        assert 1 == sum(thread.name == "earnorm-worker" for thread in threading.enumerate())

    def test_it_can_be_started_again_after_a_stop(self, live):
        live.on()
        worker = live.worker()
        worker.start()
        worker.stop()
        live.append("order:1")
        worker.start()

        assert {**NONE, "done": 1} == worker.drain()


class TestStopping:
    def test_it_loses_nothing_and_repeats_nothing(self, live):
        live.on()
        live.append("order:0")
        worker = live.worker(batch=50)
        keys = [f"order:{n % 7}" for n in range(1_000)]
        live.append(*keys)
        while live.cursors() != {"mail": 1_001} or live.kept():
            worker.start()
            so_far = len(live.ran)
            until(lambda: len(live.ran) >= min(1_000, so_far + 30))  # noqa: B023  it is asked here and now
            worker.stop()

        assert list(range(2, 1_002)) == sorted(position for _, _, position in live.ran)

    def test_its_leases_are_given_back_though_what_ran_on_cannot_be_written_down(self, live, monkeypatch):
        """The store fails as the worker ends. The exception ended its thread, and nobody was there to give back."""

        def refuse():
            raise OSError("the disk is full")

        live.on()
        worker = live.worker()
        monkeypatch.setattr(worker._turns, "finish", refuse)
        worker.start()
        live.append("order:1")
        worker.wake()
        until(lambda: live.ran)
        worker.stop()

        with live.memory.begin() as transaction:
            assert [""] == [cursor.worker for cursor in transaction.cursors()]

    def test_it_ends_though_the_store_does_not_answer(self, live, monkeypatch, caplog):
        """A server that is frozen, or whose host is gone without a word. A worker that was to stop never did."""
        monkeypatch.setattr("earnorm.worker._MARGIN", 0.05)
        asked, answer = threading.Event(), threading.Event()

        def turn(until):
            asked.set()
            answer.wait(20)
            return False

        worker = live.worker()
        monkeypatch.setattr(worker._turns, "take", turn)
        worker.start()
        assert asked.wait(20)
        worker.stop(0)
        assert NONE == worker.drain(0)
        worker.stop(0)
        answer.set()

        assert "the store does not answer" in caplog.text

    def test_what_runs_is_finished_and_what_was_not_begun_is_no_attempt(self, live):
        begun, go_on = threading.Event(), threading.Event()

        def mail(event):
            begun.set()
            go_on.wait(20)
            live.note("mail", event)

        live.on(mail)
        worker = live.worker()
        worker.start()
        live.append("order:1", "order:1")
        worker.wake()
        begun.wait(20)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        until(worker._stopping.is_set)
        go_on.set()
        stopping.join(20)

        assert [("mail", "order:1", 1)] == live.ran
        assert ({"mail": 1}, []) == (live.cursors(), live.kept())
        assert live.holders() == {""}

    @pytest.mark.parametrize("colour", ["plain", "async"])
    def test_without_grace_what_runs_is_abandoned_and_no_attempt(self, live, colour):
        begun, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()

        def mail(order):
            begun.set()
            go_on.wait(20)

        async def amail(order):
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        live.on(amail if colour == "async" else mail)
        worker = live.worker()
        worker.start()
        live.append("order:1", "order:1")
        worker.wake()
        begun.wait(20)
        worker.stop(0)
        go_on.set()

        assert ({"mail": 0}, []) == (live.cursors(), live.kept())
        assert colour == "plain" or cancelled.is_set()

    def test_a_drain_that_runs_out_of_time_begins_nothing_more(self, rig):
        def mail(event):
            rig.note("mail", event)
            batch = worker._turns.under_way
            until(lambda: rig.clock.waiting)
            rig.clock.advance(60)
            until(lambda: batch.closed)

        rig.on(mail)
        worker = rig.worker(lease=600)
        rig.append("order:1", "order:1", "order:1")
        worker.drain(30)

        assert 1 == len(rig.ran)
        assert [] == rig.kept()

    def test_a_handler_may_stop_its_own_worker(self, live):
        live.on(lambda order: worker.stop(0))
        worker = live.worker()
        worker.start()
        live.append("order:1")
        worker.wake()
        until(lambda: worker._thread is None)

        assert {"mail": 0} == live.cursors()


class TestFailingStore:
    def test_it_is_logged_once_and_tried_until_it_is_back(self, rig, caplog):
        caplog.set_level(logging.INFO, "earnorm.worker")
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        rig.store.down = True

        assert [NONE] * 3 == [worker.run_once().as_dict() for _ in range(3)]
        rig.store.down = False
        assert 1 == worker.run_once().done
        assert ["WARNING", "INFO"] == [r.levelname for r in caplog.records if r.name == "earnorm.worker"]

    def test_what_was_run_is_settled_when_it_is_back_and_not_run_again(self, rig):
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        rig.store.settles = False
        worker.run_once()
        worker.run_once()
        rig.store.settles = True

        assert 1 == worker.run_once().done
        assert 1 == len(rig.ran)

    def test_the_thread_waits_longer_and_longer_and_lives(self, rig):
        rig.on()
        worker = rig.worker()
        rig.store.down = True
        worker.start()
        for _ in range(50):
            until(lambda: rig.clock.waiting)
            rig.clock.advance(0.1)
        tries = rig.store.tries
        rig.store.down = False
        rig.append("order:1")
        for _ in range(11):
            until(lambda: rig.clock.waiting or rig.ran)
            rig.clock.advance(1)
        until(lambda: rig.ran)

        assert tries < 20

    def test_a_drain_gives_up_when_its_time_is_up(self, rig):
        rig.on()
        worker = rig.worker()
        rig.store.down = True
        thread = threading.Thread(target=worker.drain, args=(5,))
        thread.start()
        while thread.is_alive():
            until(lambda: rig.clock.waiting or not thread.is_alive())
            rig.clock.advance(1)


def in_a_fork(worker, rig, pipe) -> None:
    identity, alone = worker._tenure.worker, worker._thread is None
    rig.append("order:2")
    worker.wake()
    counts = worker.drain()
    worker.stop()
    pipe.send((identity, alone, counts))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_starts_fresh(live):
    live.on()
    worker = live.worker()
    worker.start()
    live.append("order:1")
    assert {**NONE, "done": 1} == worker.drain()
    worker.stop()
    worker.start()
    until(lambda: not worker._passing.locked() and not live.memory._lock.locked())
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=in_a_fork, args=(worker, live, theirs))
    child.start()
    assert ours.poll(30)
    identity, alone, counts = ours.recv()
    child.join(30)

    assert identity != worker._tenure.worker
    assert alone
    assert {**NONE, "done": 1} == counts


SCRIPT = """
import sys, threading
from tests.test_worker import Rig
from earnorm.clock import SystemClock

rig = Rig(SystemClock())
begun = threading.Event()

def mail(event):
    begun.set()
    if sys.argv[1] == "hang":
        threading.Event().wait()
    with __import__("concurrent.futures").futures.ThreadPoolExecutor() as pool:
        pool.submit(threading.main_thread().join, 0.2).result()
    print("handled", flush=True)

rig.on(mail)
worker = rig.worker()
worker.start()
rig.append("order:1")
worker.wake()
begun.wait()
import earnorm.worker
earnorm.worker._GRACE_AT_EXIT = 5.0 if sys.argv[1] == "finish" else 0.0
__import__("atexit").register(lambda: print(rig.cursors(), rig.kept(), flush=True))
"""


@pytest.mark.parametrize(
    "way, printed", [("finish", "handled\n{'mail': 1} []\n"), ("hang", "{'mail': 0} []\n")], ids=str
)
def test_at_exit_what_runs_is_finished_before_executors_close_and_what_hangs_holds_nothing_up(way, printed):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, timeout=60, check=True, env=_environment()
    )

    assert (printed, "") == (ended.stdout, ended.stderr)


def _environment():
    return {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}


class TestThreads:
    def test_there_are_never_more_than_allowed(self):
        pool, gate = Threads(3), threading.Event()
        futures = [pool.submit(gate.wait, 20) for _ in range(10)]
        until(lambda: pool._started == 3)
        gate.set()

        assert [True] * 10 == [future.result(20) for future in futures]
        pool.shutdown()

    def test_a_thread_that_is_free_is_used_again(self):
        pool = Threads(3)
        for _ in range(20):
            pool.submit(int).result(20)
            until(lambda: pool._idle == 1)

        assert 1 == pool._started
        pool.shutdown()

    def test_after_a_shutdown_new_threads_take_new_jobs(self):
        pool = Threads(2)
        for _ in range(200):
            assert 0 == pool.submit(int).result(20)
            pool.shutdown()

    def test_what_a_job_raises_is_its_future_s(self):
        pool = Threads(1)

        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result(20)
        pool.shutdown()


class BreakingStages:
    """Stages whose connection breaks the first time. Later ones wait to be let in, and do nothing else."""

    def __init__(self) -> None:
        self.broke = False
        self.gate = threading.Event()

    def perform(self, work):
        if not self.broke:
            self.broke = True
            raise ConnectionLost("the server closed the connection")
        self.gate.wait(20)


class LateStages:
    """Stages that come to their work when they are let."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.left: list[BaseException] = []

    def perform(self, work):
        self.gate.wait(20)
        try:
            work(object())
        except BaseException as error:
            self.left.append(error)
            raise


class TestAConnectionThatBreaksBesideTheTurns:
    """Behind the next one may stand a server that knows less, whoever noticed it."""

    def test_what_a_turn_has_read_before_is_not_settled(self, rig):
        ended = threading.Event()
        rig.on(lambda event: ended.wait(20) and rig.note("mail", event))
        rig.on(lambda event, session: None, name="pay", transactional=True)
        worker = rig.worker(stages=(stages := BreakingStages()))
        rig.append("order:1")
        with worker.watched(ended):
            while not stages.broke:
                worker.run_once()

        assert 0 == rig.cursors()["mail"]
        worker.run_once()
        assert 2 == len(rig.ran)
        assert 1 == rig.cursors()["mail"]
        stages.gate.set()

    def test_what_has_not_come_to_its_work_yet_does_none(self, rig, monkeypatch):
        rig.on(lambda event, session: rig.note("pay", event), name="pay", transactional=True)
        worker = rig.worker(stages=(stages := LateStages()))
        rig.append("order:1")
        while not worker._errands:
            worker.run_once()

        with monkeypatch.context() as patch:
            patch.setattr(rig.store, "begin", self.broken)
            worker.run_once()
        stages.gate.set()
        until(lambda: stages.left)

        assert ["GivenUp"] == [type(error).__name__ for error in stages.left]
        assert [] == rig.ran

    @contextmanager
    def broken(self, *, readonly=False):
        raise ConnectionLost("the server closed the connection")
        yield


class TestLooking:
    def test_a_turn_that_finds_nothing_asks_once(self, rig):
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        worker.run_once()
        before = rig.store.tries
        worker.run_once()

        assert 1 == rig.store.tries - before
        assert not worker._turns.contending

    def test_what_others_leave_lying_is_still_noticed(self, rig):
        rig.on()
        worker = rig.worker()
        rig.claim("other")
        rig.append("order:1")
        worker.run_once()

        assert worker._turns.contending

    def test_the_others_are_looked_at_while_nothing_waits_for_it(self, rig, monkeypatch):
        """At fifty events a second every twelfth one waited for it."""
        rig.on()
        worker = rig.worker()
        rig.append("order:1")
        worker.run_once()
        looks = []
        real = Tenure.look
        monkeypatch.setattr(Tenure, "look", lambda *given, **options: looks.append(1) or real(*given, **options))
        found = []
        for key in ("order:2", "order:3", "order:4"):
            rig.clock.advance(0.2)
            rig.append(key)
            worker.run_once()
            found.append(len(looks))
            worker.run_once()

        assert 4 == len(rig.ran)
        assert [0, 1, 2] == found

    def test_a_share_that_a_turn_without_events_has_found_is_worked_at_once(self, rig):
        rig.on()
        worker = rig.worker()
        taken = rig.claim("other")
        worker.run_once()
        rig.append("order:1")
        with rig.memory.begin() as transaction:
            transaction.release(taken)
            transaction.leave("other")
        rig.clock.advance(0.2)
        worker.run_once()
        worker.run_once()

        assert [("mail", "order:1", 1)] == rig.ran
