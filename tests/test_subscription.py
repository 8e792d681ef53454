"""Subscriptions: windows, their lanes, and what outcomes come to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from msgspec import structs

from earnorm.batch import ALL_DONE
from earnorm.bus import EventBus
from earnorm.counts import Counts
from earnorm.delivery import Attempt, Dead, Delivery, Done, Retry, Skipped
from earnorm.errors import PayloadError
from earnorm.event import Change, Entry, Event
from earnorm.fold import fold, passed
from earnorm.front import Front
from earnorm.instants import microseconds
from earnorm.later import in_lanes
from earnorm.registry import ModelInfo
from earnorm.slots import slot_of
from earnorm.store import Cursor, Follower, Settlement
from earnorm.subscription import Audience, Subscription
from earnorm.window import Window, plan

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)
SHARED, OWN = (Cursor(group="default", name=name, worker="ada", fence=1) for name in ("", "audit"))
MAIL, AUDIT = Subscription("mail"), Subscription("audit")
LOOSE = Subscription("loose", ordered=False)


def entry(position: int, key: str = "", name: str = "order.placed") -> Entry:
    return Entry.of(
        id=uuid4(),
        name=name,
        subject=key.partition(":")[0],
        key=key,
        data=b"{}",
        at=NOON,
        correlation_id=uuid4(),
        causation_id=None,
        depth=0,
        position=position,
    )


def entries(*keys: str) -> list[Entry]:
    return [entry(position, key) for position, key in enumerate(keys, start=1)]


def attempt(number: int) -> Attempt:
    return Attempt(
        subscription="mail",
        event=uuid4(),
        number=number,
        error="no",
        fingerprint=f"f{number}",
        started=NOON,
        seconds=1,
        worker="ada",
    )


def follower(name: str, start: int = 0, *, apart: bool = False) -> Follower:
    return Follower(name=name, group="default", start=start, apart=apart, seen=NOON)


def by_name(*followers: Follower) -> dict[str, Follower]:
    return {follower.name: follower for follower in followers}


class Hearing:
    """Whoever hears every entry, each time anew."""

    def __init__(self, subscriptions) -> None:
        self._subscriptions = subscriptions

    def by_name(self, entry):
        return None

    def hearing(self, entry):
        return self._subscriptions


def window(keys, *subscriptions, starts=None, end=None) -> Window:
    starts = {s.name: 0 for s in subscriptions} if starts is None else starts
    front = Front([SHARED], by_name(*(follower(name, start) for name, start in starts.items())))
    return plan(entries(*keys), end or len(keys), front, Hearing(subscriptions))


def folded(made: Window, outcomes) -> Settlement:
    return fold(made, outcomes, LATER, "ada", {})


def moves(settlement: Settlement) -> dict[str, int]:
    """Where the cursors that move go, by their names."""
    return {a.cursor.name: a.position for a in settlement.advances if a.position > a.cursor.position}


def positions(lanes) -> list[list[int]]:
    return [[delivery.entry.position for delivery in lane] for lane in lanes]


def aside(settlement: Settlement) -> list[tuple[str, int, int, str]]:
    return [(d.subscription, d.entry.position, d.attempt, d.state) for d in settlement.set_aside]


class TestLater:
    def later(self, *dues) -> Window:
        made = [
            structs.replace(e, raw_due=due and microseconds(due))
            for e, due in zip(entries(*["order:1"] * len(dues)), dues, strict=True)
        ]
        return plan(made, len(dues), Front([SHARED], by_name(follower("mail", 0))), Hearing([MAIL]))

    def test_what_is_for_later_is_set_aside_at_once_and_holds_up_nobody(self):
        made = self.later(LATER, None)
        settlement = fold(made, [[Done()]], NOON, "ada", {})

        assert [[2]] == positions(made.lanes)
        assert [("mail", 1, LATER, False)] == [
            (d.subscription, d.entry.position, d.due, d.ordered) for d in settlement.set_aside
        ]
        assert {"": 2} == moves(settlement)
        assert passed(made, [[Done()]], "ada", {}) is None

    def test_what_is_due_when_it_is_read_goes_the_same_way(self):
        made = self.later(NOON - timedelta(days=1))
        (aside,) = fold(made, [], NOON, "ada", {}).set_aside

        assert (NOON - timedelta(days=1), False) == (aside.due, aside.ordered)

    def waited(self, number, key, name="mail", ordered=False):
        return Delivery(subscription=name, entry=entry(number, key), chosen=NOON, ordered=ordered, id=number)

    def test_that_of_one_record_shares_a_lane_when_it_is_due(self):
        waited = self.waited
        due = [
            waited(1, "order:1"),
            waited(2, "order:1"),
            waited(3, "order:2"),
            waited(4, ""),
            waited(5, ""),
            waited(6, "order:1", "loose"),
            waited(7, "order:1", "loose"),
            waited(8, "order:1", ordered=True),
        ]
        lanes = in_lanes(due, lambda name: name == "mail")

        assert [[1, 2, 8], [3], [4], [5], [6], [7]] == positions(lanes)

    def test_it_comes_behind_what_its_record_has_in_the_log(self):
        loose = Subscription("loose", ordered=False)
        due = [(self.waited(7, "order:1"), self.waited(8, "order:1")), (self.waited(9, "order:3"),)]
        due.append((self.waited(10, "order:1", "loose"),))
        made = window(["order:1", "order:2"], MAIL, loose).redeliver(due)

        assert [[9], [10], [1, 7, 8], [1], [2], [2]] == positions(made.lanes)
        settlement = folded(made, [[Done()] * len(lane) for lane in made.lanes])
        assert [9, 10, 7, 8] == settlement.finished
        assert {"": 2} == moves(settlement)
        assert passed(made, [[Done()] * len(lane) for lane in made.lanes], "ada", {}) is None

    def test_alone_in_its_lane_it_is_finished_by_its_row(self):
        made = window(["order:1"], MAIL).redeliver([(self.waited(7, "order:2"),)])

        assert passed(made, [ALL_DONE, ALL_DONE], "ada", {}) is None

    def test_a_lane_that_was_stopped_after_its_first_is_not_passed(self):
        made = window(["order:1", "order:1", "order:2"], MAIL)

        assert passed(made, [ALL_DONE, ALL_DONE], "ada", {}) is None
        assert passed(made, [ALL_DONE * 2, ALL_DONE], "ada", {}) is not None

    def test_behind_one_that_fails_it_stays_due(self):
        made = window(["order:1"], MAIL).redeliver([(self.waited(7, "order:1"),)])
        settlement = folded(made, [[Retry(5.0, "down")]])

        assert [1] == [d.entry.position for d in settlement.set_aside]
        assert [(7, 1, NOON)] == [(d.id, d.attempt, d.due) for d in settlement.rescheduled]


class TestLanes:
    def test_events_of_one_record_share_a_lane(self):
        assert [[1, 3], [2]] == positions(window(["order:1", "order:2", "order:1"], MAIL).lanes)

    def test_events_without_a_record_each_have_their_own(self):
        made = window(["", ""], MAIL)

        assert [[1], [2]] == positions(made.lanes)
        assert [False, False] == [lane[0].ordered for lane in made.lanes]

    def test_an_unordered_subscription_has_a_lane_for_each_event(self):
        made = window(["order:1", "order:1"], LOOSE)

        assert [[1], [2]] == positions(made.lanes)
        assert [] == made.pairs

    def test_subscriptions_start_in_the_order_they_hear(self):
        made = window(["order:1", "order:2"], AUDIT, MAIL)

        assert ["audit", "mail", "audit", "mail"] == [lane[0].subscription for lane in made.lanes]

    def test_what_a_subscription_has_passed_is_not_given_to_it(self):
        made = window(["order:1", "order:2"], MAIL, AUDIT, starts={"mail": 1, "audit": 0})

        assert {"mail": [2], "audit": [1, 2]} == {
            name: [lane[0].entry.position for lane in made.lanes if lane[0].subscription == name]
            for name in ("mail", "audit")
        }

    def test_a_subscription_that_is_not_recorded_gets_nothing(self):
        assert () == window(["order:1"], MAIL, starts={}).lanes

    def test_a_window_nobody_moves_in_is_empty(self):
        assert Window().is_empty
        assert plan([], 7, Front([replace(SHARED, position=7)], {}), Hearing((MAIL,))).is_empty
        assert not plan([], 7, Front([replace(SHARED, position=6)], {}), Hearing((MAIL,))).is_empty


class TestDelays:
    def delayed(self, *ats, key="order:1", ordered=True):
        made = [structs.replace(entry(n, key), raw_at=microseconds(at)) for n, at in enumerate(ats, start=1)]
        subscription = Subscription("mail", ordered=ordered, delay=60)
        return plan(made, len(made), Front([SHARED], by_name(follower("mail"))), Hearing([subscription]))

    def test_a_handler_with_a_delay_is_given_an_event_when_it_is_that_old(self):
        window = self.delayed(NOON)
        settlement = fold(window, [], NOON, "ada", {})

        assert ((), [LATER]) == (window.lanes, [d.due for d in settlement.set_aside])
        assert ([("mail", 1, 1, "open")], {"": 1}) == (aside(settlement), moves(settlement))

    def test_one_that_is_old_already_is_due_at_once_in_its_place(self):
        window = self.delayed(NOON, NOON - timedelta(hours=1))

        assert ((), [1, 2]) == (window.lanes, [d.entry.position for d in window.behind])
        assert [True, True] == [d.ordered for d in window.behind]

    def test_its_time_is_kept_however_late_the_batch_is_settled(self):
        late = NOON + timedelta(minutes=30)

        assert [LATER] == [d.due for d in fold(self.delayed(NOON), [], late, "ada", {}).set_aside]

    @pytest.mark.parametrize("details", [{"key": ""}, {"ordered": False}])
    def test_those_without_a_record_or_an_order_wait_for_nobody(self, details):
        assert [False] == [d.ordered for d in self.delayed(NOON, **details).behind]


class TestFolding:
    def test_all_cursors_advance_to_the_end_but_those_past_it(self):
        ahead = replace(OWN, name="ahead", position=9)
        front = Front(
            [replace(SHARED, position=1), OWN, ahead], by_name(follower("mail"), follower("audit", apart=True))
        )
        made = plan(entries("order:1", "order:2"), 5, front, Hearing((MAIL,)))
        settlement = folded(made, [[Done()]])

        assert {"": 5, "audit": 5} == moves(settlement)
        assert [] == aside(settlement)
        assert settlement.advances == passed(made, [[Done()]], "ada", {}).advances

    def test_a_window_of_which_something_is_kept_is_not_simply_passed(self):
        made = window(["order:1"], MAIL)
        for outcomes in ([[Retry(5, "")]], [[]], [[Dead("")]], [[Done((entry(1),))]]):
            assert passed(made, outcomes, "ada", {}) is None
        assert passed(made.hold_back({("mail", "order:1")}), [], "ada", {}) is None

    def test_what_is_done_or_skipped_leaves_nothing_behind(self):
        settlement = folded(window(["order:1", "order:2"], MAIL), [[Done()], [Skipped("when")]])

        assert [] == aside(settlement)

    def test_a_failure_is_set_aside_with_its_next_attempt(self):
        made = window(["order:1"], MAIL)
        (kept,) = folded(made, [[Retry(5, "boom")]]).set_aside

        assert (2, LATER + timedelta(seconds=5), "boom", "open") == (kept.attempt, kept.due, kept.error, kept.state)

    def test_behind_a_failure_later_events_of_the_record_wait_without_an_attempt(self):
        made = window(["order:1", "order:2", "order:1", "order:1"], MAIL)
        settlement = folded(made, [[Retry(5, "boom")], [Done()]])

        assert [("mail", 1, 2, "open"), ("mail", 3, 1, "open"), ("mail", 4, 1, "open")] == aside(settlement)
        assert {"": 4} == moves(settlement)
        assert [LATER, LATER] == [delivery.due for delivery in settlement.set_aside[1:]]

    def test_a_dead_letter_is_kept_and_blocks_nobody(self):
        made = window(["order:1", "order:1"], MAIL)

        assert [("mail", 1, 1, "dead")] == aside(folded(made, [[Dead("boom"), Done()]]))

    def test_behind_what_is_set_aside_already_nothing_runs(self):
        made = window(["order:1", "order:2", "order:1"], MAIL).hold_back({("mail", "order:1")})

        assert [[2]] == positions(made.lanes)
        assert [("mail", 1, 1, "open"), ("mail", 3, 1, "open")] == aside(folded(made, [[Done()]]))

    def test_another_subscription_is_not_held_back(self):
        made = window(["order:1"], MAIL, AUDIT).hold_back({("mail", "order:1")})

        assert ["audit"] == [lane[0].subscription for lane in made.lanes]

    def test_failed_attempts_go_with_their_deliveries(self):
        made = [attempt(1), attempt(2), attempt(3)]
        found = window(["order:1", "order:2", "order:3"], MAIL)
        again = Delivery(subscription="mail", entry=entry(9, "order:9"), chosen=NOON, id=7)
        outcomes = [[Retry(5, "no", made[0])], [Dead("no", made[1])], [Retry(5, "no", made[2])], [Done()]]
        settlement = folded(found.redeliver([(again,)]), outcomes)

        assert made == sorted(settlement.attempts, key=lambda one: one.number)
        assert ["f1"] == [d.fingerprint for d in settlement.rescheduled]
        assert ["f2", "f3"] == [d.fingerprint for d in settlement.set_aside]


class TestStopping:
    def test_what_was_not_begun_stays_in_the_log(self):
        front = Front([SHARED, OWN], by_name(follower("mail"), follower("audit", apart=True)))
        made = plan(entries("order:1", "order:2", "order:3"), 9, front, Hearing((MAIL, AUDIT)))
        settlement = folded(made, [[Done()], [Done()], [], [Done()], [], [Done()]])

        assert {"": 1, "audit": 9} == moves(settlement)
        assert [] == aside(settlement)

    def test_a_cursor_stops_before_what_one_of_its_subscriptions_did_not_begin(self):
        made = window(["order:1", "order:2", "order:3"], MAIL, AUDIT, end=9)
        settlement = folded(made, [[Done()], [Done()], [], [Done()], [], []])

        assert {"": 2} == moves(settlement)
        assert [("mail", 2, 1, "open")] == aside(settlement)

    def test_before_what_has_ended_it_is_set_aside_uncounted(self):
        made = window(["order:1", "order:2", "order:1", "order:3"], MAIL)
        settlement = folded(made, [[], [Done()], []])

        assert {"": 2} == moves(settlement)
        assert [("mail", 1, 1, "open")] == aside(settlement)

    def test_a_first_delivery_not_begun_moves_nothing(self):
        settlement = folded(window(["order:1"], MAIL), [[]])

        assert ([], [], [], []) == (
            settlement.advances,
            settlement.set_aside,
            settlement.rescheduled,
            settlement.finished,
        )

    def test_what_waits_beyond_the_cursor_is_read_again_rather_than_kept_twice(self):
        made = window(["order:2", "order:1"], MAIL).hold_back({("mail", "order:1")})

        assert [] == aside(folded(made, [[]]))


class TestRedelivery:
    def due(self, **details) -> Delivery:
        return Delivery(subscription="mail", entry=entry(1, "order:1"), chosen=NOON, attempt=3, id=7, **details)

    def folded(self, *outcomes) -> Settlement:
        made = plan([], 0, Front([SHARED], by_name(follower("mail"))), Hearing(()))
        return folded(made.redeliver([(self.due(),)]), [list(outcomes)])

    def test_it_is_settled_under_the_lease_of_its_slot(self):
        lower, upper = replace(SHARED, last=31), replace(SHARED, first=32)
        made = plan([], 0, Front([lower, upper], by_name(follower("mail"))), Hearing(())).redeliver([(self.due(),)])
        held = lower if slot_of("order:1", b"") < 32 else upper

        assert [(held, 0)] == [(a.cursor, a.position) for a in folded(made, [[Done()]]).advances]

    def test_it_runs_before_what_is_new(self):
        made = window(["order:2"], MAIL).redeliver([(self.due(),)])

        assert [7, 0] == [lane[0].id for lane in made.lanes]

    @pytest.mark.parametrize("outcome", [Done(), Skipped("missing")])
    def test_what_is_over_is_finished(self, outcome):
        settlement = self.folded(outcome)

        assert ([7], []) == (settlement.finished, settlement.rescheduled)

    def test_what_fails_again_is_rescheduled(self):
        (again,) = self.folded(Retry(20, "boom")).rescheduled

        assert (7, 4, LATER + timedelta(seconds=20), "open") == (again.id, again.attempt, again.due, again.state)

    def test_what_is_given_up_stays_as_a_dead_letter(self):
        (again,) = self.folded(Dead("boom")).rescheduled

        assert (7, 3, "dead", "boom") == (again.id, again.attempt, again.state, again.error)

    def test_what_was_not_begun_stays_as_it_is(self):
        settlement = self.folded()

        assert ([], [], []) == (settlement.finished, settlement.rescheduled, settlement.set_aside)


def test_counts_are_by_outcome_and_can_be_added_up():
    counts = Counts.of([Done(), Done(), Retry(1, ""), Dead(""), Skipped("when")])

    assert {"done": 2, "retry": 1, "dead": 1, "skipped": 1} == counts.as_dict()
    assert Counts(done=3, retry=1, dead=1, skipped=1) == counts + Counts(done=1)
    assert Counts(done=2) == counts - Counts(retry=1, dead=1, skipped=1)


def test_counts_of_lanes_are_those_of_their_deliveries():
    assert Counts(done=2) == Counts.of_lanes([ALL_DONE, ALL_DONE])
    assert Counts(done=3, retry=1) == Counts.of_lanes([ALL_DONE, (), (Done(), Done(), Retry(1, ""))])


class User:
    """A model of these tests."""


class TestAudience:
    @pytest.fixture
    def bus(self):
        return EventBus()

    @pytest.fixture
    def changed(self):
        return {"status": Change("new", "paid")}

    @pytest.fixture
    def audience(self, bus, changed):
        return Audience(bus, lambda entry, attempt: Event(entry.name, changes=changed))

    def hear(self, bus, name: str, *events, **options) -> None:
        bus.on(*events, name=name, **options)(lambda: None)

    def names(self, audience, name: str, key: str = "") -> list[str]:
        return [subscription.name for subscription in audience.hearing(entry(1, key, name))]

    def test_durable_handlers_are_its_names(self, bus, audience):
        self.hear(bus, "mail", "order.placed")
        self.hear(bus, "now", "order.placed", delivery="transaction")

        assert {"mail"} == audience.names
        assert ["mail"] == self.names(audience, "order.placed")

    def test_a_higher_priority_comes_first(self, bus, audience):
        self.hear(bus, "mail", "order.placed")
        self.hear(bus, "audit", "**", priority=5)

        assert ["audit", "mail"] == self.names(audience, "order.placed")

    def test_a_handler_defined_later_is_heard_of(self, bus, audience):
        assert [] == self.names(audience, "order.placed")
        self.hear(bus, "mail", "order.placed", ordered=False)

        assert (Subscription("mail", ordered=False),) == audience.hearing(entry(1, name="order.placed"))

    def test_names_made_up_as_one_goes_are_not_all_remembered(self, bus, audience):
        """A worker grew with each name that it read."""
        self.hear(bus, "mail", "job.*")

        for number in range(3000):
            assert ["mail"] == self.names(audience, f"job.{number}")
        assert len(audience._heard) <= 1024

    @pytest.mark.parametrize("known", [True, False], ids=["a known model", "a model not imported"])
    def test_an_update_is_heard_by_the_views_of_what_it_changed(self, bus, audience, known):
        if known:
            bus.registry.add_model(ModelInfo(User, "user", ("status", "name")))
        self.hear(bus, "any", "user.*")
        self.hear(bus, "saved", "user.saved")
        self.hear(bus, "status", "user.status_changed")
        self.hear(bus, "name", "user.name.changed")

        assert {"any", "saved", "status"} == set(self.names(audience, "user.updated", "user:1"))
        assert {"any", "saved"} == set(self.names(audience, "user.created", "user:1"))
        assert {"any"} == set(self.names(audience, "user.deleted", "user:1"))
        assert {"any"} == set(self.names(audience, "user.login", "user:1"))

    def test_damaged_data_reaches_every_view_so_that_it_is_seen(self, bus):
        def damaged(entry, attempt):
            raise PayloadError("", b"{", "the log's entry is damaged")

        bus.registry.add_model(ModelInfo(User, "user", ("status", "name")))
        self.hear(bus, "status", "user.status_changed")
        self.hear(bus, "name", "user.name.changed")

        assert {"status", "name"} == set(self.names(Audience(bus, damaged), "user.updated", "user:1"))
