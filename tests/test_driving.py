"""Driving: lanes of one delivery are swept over, and whatever one of them needs of its own it still gets."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from msgspec import structs

from earnorm import driving, places, telemetry
from earnorm.batch import ALL_DONE, Batch
from earnorm.bus import EventBus
from earnorm.clock import SystemClock
from earnorm.delivery import DONE, Dead, Delivery, Done, Retry, Skipped
from earnorm.event import Entry, Event, Origin, current_event, running
from earnorm.lanes import Lanes
from earnorm.portal import LoopThread
from earnorm.preparation import Hydrated
from earnorm.runner import Runner
from earnorm.settling import settling_here
from earnorm.tenant import current_tenant

pytestmark = pytest.mark.expect_failures

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def entry(position: int, key: str = "") -> Entry:
    made = uuid4()
    about = {"name": "tick.told", "subject": "", "key": key, "data": b"{}", "depth": 0, "position": position}
    return Entry.of(id=made, at=NOON, correlation_id=made, **about)


def decode(entry: Entry, attempt: int) -> Event:
    return Event(entry.name, None, {}, origin=Origin(position=entry.position, attempt=attempt), _id=entry.id)


class Rig:
    """A bus with one handler, which is told how often it was called before, and lanes of one delivery each."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.loop = LoopThread()
        self.runner = Runner(self.bus, lambda entry, event: Hydrated(), decode, grace=0.001)
        self.lanes = Lanes(self.runner, SystemClock(), threads=1, concurrency=4, own_loop=self.loop)
        self.calls = 0

    def on(self, handler, **options) -> None:
        async def hear():
            self.calls += 1
            found = handler(self.calls)
            return await found if asyncio.iscoroutine(found) else found

        self.hear = hear
        self.bus.on("tick.told", name="hear", **options)(hear)

    def begin(self, count: int) -> Batch:
        return self.begin_all([Delivery(subscription="hear", entry=entry(n)) for n in range(1, count + 1)])

    def begin_all(self, deliveries: list[Delivery]) -> Batch:
        return self.begin_lanes(tuple((delivery,) for delivery in deliveries))

    def begin_lanes(self, lanes: tuple[tuple[Delivery, ...], ...]) -> Batch:
        self.batch = Batch(lanes)
        self.lanes.begin(self.batch)
        return self.batch

    def run(self, count: int) -> list:
        batch = self.begin(count)
        until(lambda: batch.finished)
        return batch.outcomes


def until(condition) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0)


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.lanes.close()
    rig.loop.close()


def test_nothing_is_made_for_lanes_that_are_done_at_once(rig, monkeypatch):
    """Their places and tuples of outcomes took as long as their handlers."""

    def refuse(*_given):
        raise AssertionError("a place was made")

    rig.on(lambda _: None)
    monkeypatch.setattr(driving, "_SLICE", 60.0)
    monkeypatch.setattr(driving, "Place", refuse)
    monkeypatch.setattr(places, "Place", refuse)
    outcomes = rig.run(100)

    assert 100 == rig.calls
    assert all(ended is ALL_DONE for ended in outcomes)


def test_each_comes_to_its_own_outcome(rig):
    def hear(call):
        if call == 2:
            raise LookupError("no city")
        if call == 4:
            return Dead("no")
        if call == 6:
            return asyncio.sleep(0)
        return None

    rig.on(hear)
    outcomes = rig.run(7)

    assert [Done, Retry, Done, Dead, Done, Done, Done] == [type(ended[0]) for ended in outcomes]


def test_whoever_listens_is_told_what_each_came_to(rig):
    told = []
    rig.on({1: Skipped("no need"), 2: Dead("no"), 3: Retry(5, "later")}.get)
    undo = telemetry.listen(told.append, telemetry.HandlerSkipped, telemetry.HandlerDead, telemetry.DeliverySetAside)
    rig.run(4)
    undo()

    assert [telemetry.HandlerSkipped, telemetry.HandlerDead, telemetry.DeliverySetAside] == list(map(type, told))


def test_one_that_stops_its_event_is_told_that_this_means_nothing(rig):
    rig.on(lambda call: current_event().stop_propagation() if call == 2 else None)
    outcomes = rig.run(3)

    assert [Done, Dead, Done] == [type(ended[0]) for ended in outcomes]


def test_what_one_emits_is_settled_with_it(rig):
    emitted = entry(0)
    rig.on(lambda call: settling_here("").add(emitted) if call == 2 else None)

    assert [(DONE,), (Done((emitted,)),), (DONE,)] == rig.run(3)


def test_each_is_asked_for_its_own_event(rig):
    seen = []
    rig.on(lambda call: seen.append((call, current_event().position, running().event.position)))
    rig.run(3)

    assert [(n, n, n) for n in (1, 2, 3)] == seen


def test_a_task_that_outlives_its_handler_keeps_the_handler_s_event(rig):
    tasks, seen = [], []

    async def later(call):
        await asyncio.sleep(0)
        seen.append((call, current_event().position, settling_here("")))

    def hear(call):
        tasks.append(asyncio.get_running_loop().create_task(later(call)))

    rig.on(hear)
    rig.run(5)
    until(lambda: len(seen) == 5)

    assert [(n, n, None) for n in range(1, 6)] == sorted(seen, key=lambda one: one[0])


def test_a_context_that_was_copied_and_changed_is_still_the_handler_s(rig):
    """That somebody keeps a context cannot be seen by what refers to it: the changed copy shares parts with it."""
    word, copies = contextvars.ContextVar("word", default="none"), []

    def hear(call):
        assert word.get() == "none"
        copies.append(contextvars.copy_context())
        copies[-1].run(word.set, call)
        word.set("mine")

    rig.on(hear)
    assert [ALL_DONE] * 3 == rig.run(3)

    assert [1, 2, 3] == [copy.run(lambda: current_event().position) for copy in copies]


def test_what_a_handler_leaves_in_its_context_is_seen_by_no_other(rig):
    left, seen = contextvars.ContextVar("left", default=0), []

    def hear(call):
        seen.append(left.get())
        if call % 2:
            left.set(call)

    rig.on(hear)
    rig.run(6)

    assert [0] * 6 == seen


def test_what_a_failed_handler_left_in_its_context_is_seen_by_no_other(rig):
    left, seen = contextvars.ContextVar("left", default=0), []

    def hear(call):
        seen.append(left.get())
        left.set(call)
        raise LookupError("no city")

    rig.on(hear)
    rig.run(3)

    assert [0] * 3 == seen


def test_a_tenant_is_acted_for_by_its_own_handler_alone(rig):
    seen = []
    rig.on(lambda _: seen.append(current_tenant()))
    tenants = [None, "acme", None, "acme", "zeta", None]
    entries = [structs.replace(entry(n), tenant=tenant) for n, tenant in enumerate(tenants, 1)]
    batch = rig.begin_all([Delivery(subscription="hear", entry=one) for one in entries])
    until(lambda: batch.finished)

    assert tenants == seen
    assert all(ended is ALL_DONE for ended in batch.outcomes)


def test_two_handlers_of_one_event_are_called_by_turns(rig):
    seen = []

    async def other() -> None:
        seen.append("other")

    rig.on(lambda _: seen.append("hear"))
    rig.bus.on("tick.told", name="other")(other)
    each = [Delivery(subscription=name, entry=entry(n)) for n in range(1, 4) for name in ("hear", "other")]
    batch = rig.begin_all(each)
    until(lambda: batch.finished)

    assert ["hear", "other"] * 3 == seen


def lanes_of(*sizes: int) -> tuple[tuple[Delivery, ...], ...]:
    """Lanes of so many deliveries each."""
    numbers = itertools.count(1)
    return tuple(
        tuple(Delivery(subscription="hear", entry=entry(next(numbers), f"order:{lane}")) for _ in range(size))
        for lane, size in enumerate(sizes)
    )


def run_lanes(rig, *sizes: int) -> list:
    batch = rig.begin_lanes(lanes_of(*sizes))
    until(lambda: batch.finished)
    return batch.outcomes


def test_lanes_of_several_deliveries_are_swept_over_as_well(rig, monkeypatch):
    def refuse(*_given):
        raise AssertionError("a place was made")

    seen = []
    rig.on(lambda _: seen.append(current_event().position))
    monkeypatch.setattr(driving, "_SLICE", 60.0)
    monkeypatch.setattr(driving, "Place", refuse)
    monkeypatch.setattr(places, "Place", refuse)

    assert [(DONE,) * size for size in (1, 3, 2, 1)] == run_lanes(rig, 1, 3, 2, 1)
    assert [1, 2, 3, 4, 5, 6, 7] == seen


@pytest.mark.parametrize("call", range(1, 7))
def test_a_lane_waits_for_the_one_of_its_deliveries_that_waits(rig, call):
    seen = []

    async def wait():
        await asyncio.sleep(0)
        seen.append(current_event().position)

    rig.on(lambda now: wait() if now == call else seen.append(current_event().position))

    assert [(DONE,) * 3] * 2 == run_lanes(rig, 3, 3)
    assert [1, 2, 3] == [position for position in seen if position <= 3]
    assert [4, 5, 6] == [position for position in seen if position > 3]


@pytest.mark.parametrize("call", range(1, 4))
def test_a_lane_ends_with_the_one_of_its_deliveries_that_fails(rig, call):
    def hear(now):
        if now == call:
            raise LookupError("no city")

    rig.on(hear)
    first, second = run_lanes(rig, 3, 2)

    assert [Done] * (call - 1) + [Retry] == [type(outcome) for outcome in first]
    assert (DONE, DONE) == second


def test_lanes_go_on_in_the_middle_whatever_one_of_theirs_needs_or_leaves_behind(rig):
    left, seen = contextvars.ContextVar("left", default=0), []

    def hear(call):
        seen.append((current_event().position, current_tenant(), left.get()))
        if call in (2, 6):
            left.set(call)

    rig.on(hear)
    lanes = lanes_of(4, 4)
    of_tenant = [structs.replace(one, entry=structs.replace(one.entry, tenant="acme")) for one in lanes[1]]
    batch = rig.begin_lanes((lanes[0], (lanes[1][0], of_tenant[1], *lanes[1][2:])))
    until(lambda: batch.finished)

    assert [(DONE,) * 4] * 2 == batch.outcomes
    assert [(n, "acme" if n == 6 else None, 0) for n in range(1, 9)] == seen


def test_who_listens_from_the_middle_on_is_told_of_those_that_follow(rig):
    told, undo = [], []

    def hear(call):
        if call == 2:
            undo.append(telemetry.listen(told.append, telemetry.HandlerDone))

    rig.on(hear)
    rig.run(4)
    undo[0]()

    assert [3, 4] == [record.event.position for record in told][-2:]


def test_one_that_takes_itself_off_leaves_the_others_to_be_run_again(rig, caplog):
    rig.on(lambda call: rig.bus.off(rig.hear) if call == 2 else None)

    assert [ALL_DONE, ALL_DONE, (), ()] == rig.run(4)
    assert 2 == len([line for line in caplog.records if "will be made again" in line.message])


def test_once_the_batch_is_closed_none_is_begun(rig):
    rig.on(lambda call: rig.batch.close() if call == 2 else None)

    assert [ALL_DONE, ALL_DONE, (), ()] == rig.run(4)


def test_a_handler_with_a_timeout_is_held_to_it(rig):
    def hear(call):
        return asyncio.sleep(20) if call == 2 else None

    rig.on(hear, timeout=0.01)
    outcomes = rig.run(3)

    assert [Done, Retry, Done] == [type(ended[0]) for ended in outcomes]
    assert outcomes[1][0].error.startswith("HandlerTimedOut")


def test_later_deliveries_of_a_lane_come_before_lanes_that_follow(rig):
    seen = []
    rig.on(lambda _: seen.append(current_event().position))
    lanes = [tuple(Delivery(subscription="hear", entry=entry(10 * n + m, f"a:{n}")) for m in range(3)) for n in (1, 2)]
    batch = Batch(lanes)
    rig.lanes.begin(batch)
    until(lambda: batch.finished)

    assert [10, 11, 12, 20, 21, 22] == seen
    assert [(DONE,) * 3] * 2 == batch.outcomes
