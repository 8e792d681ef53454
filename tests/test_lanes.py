"""Lanes under way: in order, side by side, within their bounds, and past handlers that hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from earnorm import telemetry
from earnorm.batch import Batch
from earnorm.bus import EventBus
from earnorm.clock import SystemClock
from earnorm.delivery import Dead, Delivery, Done, Retry
from earnorm.event import Entry, Event, Origin
from earnorm.lanes import Lanes
from earnorm.places import _LOADING, Places
from earnorm.portal import LoopThread
from earnorm.preload import Load
from earnorm.preparation import Hydrated
from earnorm.runner import Runner
from earnorm.threads import Threads

pytestmark = pytest.mark.expect_failures

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
COLOURS = pytest.mark.parametrize("colour", ["plain", "async"])


def decode(entry: Entry, attempt: int) -> Event:
    return Event(
        entry.name, None, {}, key=entry.key, origin=Origin(position=entry.position, attempt=attempt), _id=entry.id
    )


def delivery(position: int, key: str, name: str = "mail") -> Delivery:
    made = uuid4()
    entry = Entry.of(
        id=made,
        name="order.placed",
        subject="order",
        key=key,
        data=b"{}",
        at=NOON,
        correlation_id=made,
        causation_id=None,
        depth=0,
        position=position,
    )
    return Delivery(subscription=name, entry=entry)


def until(condition) -> None:
    """Spin, with the other threads, until they have got there."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0)


class Records:
    """A database of records that are a new object each time, and how it was asked."""

    def __init__(self) -> None:
        self.written = 0
        self.asked: list[int] = []
        self.alone: list[str] = []
        self.gone: set[str] = set()

    def hydrate(self, entry, event, record=None):
        if record is None:
            self.alone.append(entry.key)
            record = [entry.key]
        return Hydrated(record)

    def together(self, entries):
        self.asked.append(len(entries))
        return [None if entry.key in self.gone else [entry.key] for entry in entries]

    def writes(self):
        return self.written


class Rig:
    """A bus, a runner and its lanes."""

    def __init__(self, *, threads=4, concurrency=4) -> None:
        self.bus = EventBus()
        self.loop = LoopThread()
        self.records = Records()
        self.runner = Runner(self.bus, self.records.hydrate, decode, grace=0.001, ahead=self.records)
        self.lanes = Lanes(self.runner, SystemClock(), threads=threads, concurrency=concurrency, own_loop=self.loop)
        self.ran: list[tuple] = []
        self.told: list[telemetry.Record] = []

    def on(self, function, name="mail", **options):
        self.bus.on("order.*", name=name, **options)(function)

    def note(self, event):
        self.ran.append((event.key, event.position))

    def begin(self, *lanes) -> Batch:
        batch = Batch(lanes)
        self.lanes.begin(batch)
        return batch

    def run(self, *lanes) -> list[list]:
        batch = self.begin(*lanes)
        until(lambda: batch.finished)
        return list(map(list, batch.outcomes))

    def close(self) -> None:
        self.lanes.close()
        self.loop.close()


@pytest.fixture
def rig():
    rig = Rig()
    undo = telemetry.listen(rig.told.append, telemetry.HandlerStuck)
    yield rig
    undo()
    rig.close()


def records(count: int, length: int = 1) -> list[tuple[Delivery, ...]]:
    """Lanes of so many records with so many deliveries each."""
    return [tuple(delivery(step * count + n, f"order:{n}") for step in range(length)) for n in range(count)]


class TestOrder:
    @COLOURS
    def test_a_lane_runs_in_order_and_each_lane_to_its_end(self, rig, colour):
        async def amail(event):
            if event.position % 3 == 0:
                await asyncio.sleep(0)
            rig.note(event)

        rig.on(amail if colour == "async" else rig.note)

        assert [[Done()] * 5] * 20 == rig.run(*records(20, 5))
        for n in range(20):
            seen = [position for key, position in rig.ran if key == f"order:{n}"]
            assert (5, sorted(seen)) == (len(seen), seen)

    @COLOURS
    def test_behind_a_retry_a_lane_stops(self, rig, colour):
        def mail(event):
            raise ValueError(event.position)

        async def amail(event):
            await asyncio.sleep(0)
            raise ValueError(event.position)

        rig.on(amail if colour == "async" else mail)

        assert [1, 1] == [len(outcomes) for outcomes in rig.run(*records(2, 3))]

    @COLOURS
    def test_behind_a_dead_letter_it_goes_on(self, rig, colour):
        def mail(event):
            return Dead("no")

        async def amail(event):
            return Dead("no")

        rig.on(amail if colour == "async" else mail)

        assert [[Dead("no")] * 3] == rig.run(*records(1, 3))


class TestTasks:
    def test_a_handler_that_waits_keeps_its_task_and_no_other_has_it(self, rig):
        tasks: dict[int, list] = {}

        async def mail(event):
            mine = tasks.setdefault(event.position, [])
            mine.append(asyncio.current_task())
            await asyncio.sleep(0)
            mine.append(asyncio.current_task())

        rig.on(mail)
        rig.run(*records(3, 3))

        assert all(before is after for before, after in tasks.values())
        assert 9 == len({id(task) for task, _ in tasks.values()})

    @pytest.mark.parametrize("waits", [True, False])
    def test_no_handler_sees_what_another_one_left_in_its_context(self, rig, waits):
        word = contextvars.ContextVar("word", default="none")
        seen = []

        async def mail(event):
            seen.append(word.get())
            word.set("mine")
            if waits:
                await asyncio.sleep(0)
            seen.append(word.get())

        rig.on(mail)
        rig.run(*records(5, 2))

        assert ["mine", "none"] == sorted(set(seen))
        assert 10 == seen.count("mine")

    def test_handlers_that_never_wait_leave_the_loop_to_others_now_and_then(self, rig):
        turns, stop = [], threading.Event()

        async def mail():
            until_then = time.perf_counter() + 0.001
            while time.perf_counter() < until_then:
                pass

        async def beside():
            while not stop.is_set():
                turns.append(1)
                await asyncio.sleep(0)

        rig.on(mail)
        future = rig.loop.submit(beside())
        until(lambda: turns)
        before = len(turns)
        rig.run(*records(50))
        stop.set()
        future.result(20)

        assert len(turns) - before >= 5

    def test_never_more_run_at_once_than_may(self, rig):
        state = {"inside": 0, "most": 0}

        async def mail(event):
            state["inside"] += 1
            state["most"] = max(state.values())
            for _ in range(event.position % 5):
                await asyncio.sleep(0)
            state["inside"] -= 1

        rig.on(mail)
        rig.run(*records(60, 2))

        assert 4 == state["most"]


class TestConcurrency:
    @COLOURS
    def test_a_handler_runs_side_by_side_as_often_as_it_says(self, rig, colour):
        state = {"inside": 0, "most": 0}
        lock = threading.Lock()

        def enter():
            with lock:
                state["inside"] += 1
                state["most"] = max(state["most"], state["inside"])

        def leave():
            with lock:
                state["inside"] -= 1

        def mail(event):
            enter()
            time.sleep(0)
            leave()

        async def amail(event):
            enter()
            await asyncio.sleep(0)
            leave()

        rig.on(amail if colour == "async" else mail, concurrency=2)
        outcomes = rig.run(*records(30, 2))

        assert [[Done()] * 2] * 30 == outcomes
        assert 1 <= state["most"] <= 2

    @COLOURS
    def test_the_others_do_not_wait_for_it(self, rig, colour):
        go_on, others = threading.Event(), []

        def slow(event):
            go_on.wait(20)

        async def aslow(event):
            while not go_on.is_set():
                await asyncio.sleep(0)

        rig.on(aslow if colour == "async" else slow, "slow", concurrency=1)
        rig.on(lambda event: others.append(1), "quick")
        batch = rig.begin(
            *[(delivery(n, f"order:{n}", "slow"),) for n in range(5)],
            *[(delivery(n, f"order:{n}", "quick"),) for n in range(5)],
        )
        until(lambda: len(others) == 5)
        go_on.set()
        until(lambda: batch.finished)

        assert [(Done(),)] * 10 == batch.outcomes

    @COLOURS
    def test_it_holds_over_batches(self, rig, colour):
        running, go_on = [], threading.Event()

        def mail(event):
            running.append(event.position)
            go_on.wait(20)

        async def amail(event):
            running.append(event.position)
            while not go_on.is_set():
                await asyncio.sleep(0)

        rig.on(amail if colour == "async" else mail, concurrency=1)
        first = rig.begin((delivery(1, "order:1"),))
        until(lambda: running == [1])
        second = rig.begin((delivery(2, "order:2"),))
        third = rig.begin((delivery(3, "order:3"),))
        third.close()
        go_on.set()
        until(lambda: first.finished and second.finished and third.finished)

        assert [[(Done(),)], [(Done(),)], [()]] == [first.outcomes, second.outcomes, third.outcomes]


class TestStuck:
    @COLOURS
    def test_one_that_cannot_be_stopped_is_reported_and_left_behind(self, rig, colour):
        go_on, ended = threading.Event(), threading.Event()

        def mail():
            go_on.wait(20)
            ended.set()

        async def amail():
            while not go_on.is_set():
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    continue
            ended.set()

        async def aquick():
            pass

        rig.on(amail if colour == "async" else mail, timeout="50ms", retry=False)
        rig.on(aquick if colour == "async" else lambda: None, "quick")
        quick = [tuple(delivery(n, f"order:{n}", "quick") for _ in range(2)) for n in (1, 2)]
        outcomes = rig.run(*records(1, 2), *quick)
        go_on.set()
        assert ended.wait(20)

        assert [Dead, Dead] == [type(outcome) for outcome in outcomes[0]]
        assert [[Done()] * 2] * 2 == outcomes[1:]
        stuck = rig.told[0]
        assert ("mail", "order:0") == (stuck.handler, stuck.event.key)
        assert stuck.seconds >= 0.05
        assert ("go_on.wait(20)" if colour == "plain" else "await asyncio.sleep(0.001)") in stuck.stack
        assert stuck.stack.splitlines()[-1].strip() in outcomes[0][0].attempt.traceback

    @COLOURS
    def test_with_every_place_taken_by_such_the_others_still_run(self, colour):
        rig = Rig(threads=1, concurrency=1)
        go_on = threading.Event()

        def mail():
            go_on.wait(20)

        async def aquick():
            pass

        async def amail():
            while not go_on.is_set():
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    continue

        rig.on(amail if colour == "async" else mail, timeout="10ms", concurrency=1)
        rig.on(aquick if colour == "async" else lambda: None, "quick")
        outcomes = rig.run(*records(3), *[(delivery(n, f"order:{n}", "quick"),) for n in range(3)])
        go_on.set()
        rig.close()

        assert [Retry] * 3 + [Done] * 3 == [type(outcome) for (outcome,) in outcomes]


class TestThreads:
    def test_a_thread_that_was_given_up_takes_no_other_job_and_another_takes_its_place(self):
        pool, go_on, threads = Threads(1), threading.Event(), []

        def hang():
            threads.append(threading.current_thread())
            go_on.wait(20)

        hanging = pool.submit(hang)
        until(lambda: threads)
        waiting = pool.submit(threading.current_thread)
        pool.give_up(threads[0].ident)

        assert waiting.result(20) is not threads[0]
        go_on.set()
        hanging.result(20)
        threads[0].join(20)
        assert not threads[0].is_alive()
        pool.shutdown()


class TestLoadingAhead:
    @COLOURS
    def test_records_are_loaded_together(self, rig, colour):
        seen = []

        async def amail(order):
            seen.append(order)

        rig.on(amail if colour == "async" else lambda order: seen.append(order))
        rig.run(*records(250))

        assert sorted([f"order:{n}"] for n in range(250)) == sorted(seen)
        assert ([], 250, 2) == (rig.records.alone, sum(rig.records.asked), len(rig.records.asked))

    @COLOURS
    def test_each_later_delivery_of_a_lane_loads_again(self, rig, colour):
        seen = []

        async def amail(order):
            seen.append(order)

        rig.on(amail if colour == "async" else lambda order: seen.append(order))
        rig.run(*records(2, 3))

        assert ([], 6) == (rig.records.alone, sum(rig.records.asked))
        assert 6 == len({id(order) for order in seen})

    @COLOURS
    def test_what_is_asked_for_during_a_load_is_loaded_by_the_next(self, rig, colour):
        """Later deliveries of lanes were loaded one by one, half a millisecond each."""
        asked, together = rig.records.asked, rig.records.together

        def slowly(entries):
            if len(asked) == 1:
                until(lambda: len(rig.lanes._preload._next.deliveries) == 9)
            return together(entries)

        async def amail(order):
            pass

        rig.records.together = slowly
        rig.on(amail if colour == "async" else lambda order: None)
        rig.run(*records(10, 2))

        assert ([10, 1, 9], []) == (asked, rig.records.alone)

    def test_many_lanes_that_wait_for_records_keep_no_other_from_running(self, rig):
        begun, go_on, ran = threading.Event(), threading.Event(), []

        def together(entries):
            begun.set()
            go_on.wait(20)
            return [[entry.key] for entry in entries]

        async def mail(order):
            ran.append("mail")

        async def audit():
            ran.append("audit")

        rig.records.together = together
        rig.on(mail)
        rig.on(audit, "audit")
        batch = rig.begin(*records(2), (delivery(9, "order:9", "audit"),))
        assert begun.wait(20)
        until(lambda: ran)
        go_on.set()
        until(lambda: batch.finished)

        assert ["audit", "mail", "mail"] == ran

    def test_nobody_looks_again_and_again_while_as_many_records_as_may_be_are_loaded(self, rig):
        """Task after task was made for the lanes behind them, and kept the loads from the processor."""
        begun, go_on = threading.Event(), threading.Event()

        def together(entries):
            begun.set()
            go_on.wait(20)
            return [[entry.key] for entry in entries]

        async def mail(order):
            pass

        async def turn(times):
            for _ in range(times):
                await asyncio.sleep(0)

        rig.records.together = together
        rig.on(mail)
        batch = rig.begin(*records(600))
        assert begun.wait(20)
        asyncio.run_coroutine_threadsafe(turn(50), rig.loop.loop).result(20)
        tasks = []
        create = rig.loop.loop.create_task
        rig.loop.loop.create_task = lambda *given, **named: tasks.append(1) or create(*given, **named)
        asyncio.run_coroutine_threadsafe(turn(50), rig.loop.loop).result(20)
        del rig.loop.loop.create_task
        go_on.set()
        until(lambda: batch.finished)

        assert len(tasks) <= 1  # the one that counts

    def test_a_lane_is_gone_on_with_for_which_the_last_load_ended_too_early(self, rig, monkeypatch):
        """Its thread left it to those that wait for records; once they had all come and gone, nobody was left."""

        class Queue(deque):
            def appendleft(self, place):
                load.end([])
                super().appendleft(place)

        async def mail(order):
            pass

        def come_back(places, count):
            while (place := places.take()) is not None:
                places.end(place)

        rig.on(mail)
        load, left = Load(), []
        batch = Batch(records(_LOADING + 1))
        entrance = rig.lanes._entrance
        monkeypatch.setattr(entrance.preload, "share", lambda batch, lane, _: load.add(batch.lanes[lane][0]))
        places = Places(batch, range(_LOADING + 1), entrance, resume=come_back, left=left.append)
        places._queue = Queue()
        while (place := places.take()) is not None:
            places.end(place)

        assert _LOADING + 1 == len(left)

    def test_a_handler_that_is_taken_off_amid_a_batch_is_asked_for_no_record(self, rig):
        """Whoever was about to load its record ended of it, and so the batch never did."""
        rig.on(self.mail)
        (lane,) = records(1)
        assert rig.runner.may_load(lane[0])

        known = rig.runner._ways.handler("mail")
        rig.bus.off(self.mail)
        rig.runner.handler = lambda name: known

        assert not rig.runner.may_load(lane[0])

    @staticmethod
    async def mail(order):
        pass

    def test_a_record_that_nobody_asked_for_when_others_were_loaded_is_loaded_by_the_next(self, rig):
        rig.on(self.mail)
        batch = Batch(records(2))
        preload, loads = rig.lanes._preload, rig.runner.loads
        rig.runner.loads = lambda delivery: delivery.entry.key == "order:0" and loads(delivery)
        preload.share(batch, 0, 0)
        rig.runner.loads = loads
        share = preload.share(batch, 1, 0)
        until(lambda: share.load.is_over)

        assert ["order:1"] == share.get().record

    def test_what_is_not_there_is_looked_for_again(self, rig):
        rig.records.gone.add("order:1")
        rig.on(lambda order: None)
        rig.run(*records(3))

        assert ["order:1"] == rig.records.alone

    @COLOURS
    def test_once_this_process_has_written_records_are_loaded_anew(self, rig, colour):
        """Together with others at first; by itself where each handler writes, since no load can be ahead of that."""
        seen, together, hydrate = [], rig.records.together, rig.records.hydrate

        def mail(order):
            seen.append(order[1])
            rig.records.written += 1

        async def amail(order):
            mail(order)

        rig.records.together = lambda entries: [[*found, rig.records.written] for found in together(entries)]
        rig.runner.preparation._hydrate = lambda *of: (
            hydrate(*of) if of[2:] else Hydrated([*hydrate(*of).subject, rig.records.written])
        )
        rig.on(amail if colour == "async" else mail)
        rig.lanes = Lanes(rig.runner, SystemClock(), threads=1, concurrency=1, own_loop=rig.loop)
        rig.run(*records(20))

        assert list(range(20)) == seen
        assert rig.records.alone

    @COLOURS
    def test_what_has_grown_stale_is_loaded_again_together(self, rig, colour):
        """One write, or a machine that stands still, left a hundred records to be loaded one by one."""
        seen = []

        def mail(order):
            if not seen:
                rig.records.written += 1
            seen.append(order)

        async def amail(order):
            mail(order)

        rig.on(amail if colour == "async" else mail)
        rig.lanes = Lanes(rig.runner, SystemClock(), threads=1, concurrency=1, own_loop=rig.loop)
        rig.run(*records(10))

        assert ([], 10, 10 + 9) == (rig.records.alone, len(seen), sum(rig.records.asked))

    def test_a_job_that_fails_leaves_each_to_itself(self, rig):
        def together(entries):
            raise OSError("no")

        rig.records.together = together
        rig.on(lambda order: None)

        assert [[Done()]] * 3 == rig.run(*records(3))
        assert 3 == len(rig.records.alone)

    def test_who_asks_for_no_record_has_none_loaded(self, rig):
        rig.on(lambda: None)
        rig.run(*records(3))

        assert ([], []) == (rig.records.asked, rig.records.alone)

    def test_at_the_end_what_is_being_loaded_is_waited_for(self, rig):
        begun, go_on, ended = threading.Event(), threading.Event(), []

        def together(entries):
            begun.set()
            go_on.wait(20)
            ended.append(len(entries))
            return [None] * len(entries)

        rig.records.together = together
        rig.on(lambda order: None)
        batch = rig.begin(*records(3))
        assert begun.wait(20)
        batch.close()
        closing = threading.Thread(target=rig.lanes.close)
        closing.start()
        go_on.set()
        closing.join(20)

        assert [3] == ended
