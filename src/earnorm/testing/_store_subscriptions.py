"""The store suite's part on subscriptions: recording them, and which cursor each follows."""

# ruff: noqa: SIM300  a block that fails needs its transaction around it; expected == actual

from __future__ import annotations

from datetime import timedelta

import pytest

from earnorm.clock import VirtualClock
from earnorm.errors import LeaseLost, NameTakenTwice, SubscriptionShared
from earnorm.slots import LAST_SLOT
from earnorm.store import DEFAULT_GROUP, Cursor, Follower, Group, Plan, Registration, Since, Store, Transaction
from earnorm.testing._store_verbs import (
    NOON,
    append,
    append_entries,
    cursor_of,
    deliveries,
    entry,
    move,
    positions,
    read_all,
    set_aside,
    settle,
    subscribe,
    take,
)


class SubscriptionSuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- recording ---

    def test_a_subscription_starts_at_the_horizon(self, store: Store) -> None:
        append(store, *"abc")
        with store.begin() as t:
            recorded = t.subscribe([Registration(name="mail"), Registration(name="audit")])
            horizon = t.horizon()

        with store.begin(readonly=True) as t:
            assert {"mail": "mail", "audit": "audit"} == recorded
            assert [("audit", horizon), ("mail", horizon)] == [(f.name, f.start) for f in t.followers()]
            assert [Cursor(group="default", last=LAST_SLOT, position=horizon)] == t.cursors()
            assert ["default"] == list(t.groups())

    def test_a_subscription_is_recorded_once_and_seen_each_time(self, store: Store, clock: VirtualClock) -> None:
        subscribe(store, "mail", "mail")
        append(store, *"abc")
        clock.advance(60)
        subscribe(store, "mail", "audit")
        subscribe(store)
        end = read_all(store)[-1].position

        with store.begin(readonly=True) as t:
            seen = NOON + timedelta(seconds=60)
            mail = Follower(name="mail", group="default", start=0, seen=seen)
            assert [Follower(name="audit", group="default", start=end, seen=seen), mail] == t.followers()
            assert [0] == [c.position for c in t.cursors()]

    def test_recording_what_is_recorded_changes_no_group(self, store: Store) -> None:
        subscribe(store, "mail")
        before = groups(store)
        subscribe(store, "mail")

        assert before == groups(store)
        subscribe(store, "audit")
        assert before != groups(store)

    def test_each_group_has_a_cursor(self, store: Store) -> None:
        append(store, *"abc")
        subscribe(store, "mail")
        append(store, *"abc")
        subscribe(store, "search", group="slow")

        first, last = read_all(store)[2].position, read_all(store)[-1].position
        assert {("default", "", 0): first, ("slow", "", 0): last} == positions(store)

    # --- since ---

    def test_one_that_starts_earlier_than_its_group_has_a_cursor_of_its_own(self, store: Store) -> None:
        append(store, *"abc")
        subscribe(store, "mail")
        subscribe(store, "audit", since="beginning")

        assert 0 == cursor_of(store, name="audit").position
        with store.begin(readonly=True) as t:
            assert [("audit", 0, True), ("mail", 3, False)] == [(f.name, f.start, f.apart) for f in t.followers()]

    def test_the_first_of_a_group_takes_its_cursor_along(self, store: Store) -> None:
        append(store, *"abc")
        subscribe(store, "audit", since="beginning")

        assert {("default", "", 0): 0} == positions(store)

    def test_one_may_start_at_a_time_or_at_a_position(self, store: Store) -> None:
        append_entries(store, *(entry(at=NOON + timedelta(seconds=n)) for n in range(5)))
        third = read_all(store)[2]
        starts: dict[str, Since] = {
            "at its time": third.at,
            "between": third.at - timedelta(microseconds=1),
            "at its position": third.position,
            "at nought": 0,
            "in future": NOON + timedelta(days=1),
            "far": 1_000_000,
        }
        for name, since in starts.items():
            subscribe(store, name, since=since)

        before, end = read_all(store)[1].position, read_all(store)[-1].position
        with store.begin(readonly=True) as t:
            assert {
                "at its time": before,
                "between": before,
                "at its position": before,
                "at nought": 0,
                "in future": end,
                "far": end,
            } == {f.name: f.start for f in t.followers()}

    def test_where_it_starts_is_asked_once(self, store: Store) -> None:
        append(store, *"abc")
        subscribe(store, "mail")
        subscribe(store, "mail", since="beginning")

        assert {("default", "", 0): 3} == positions(store)

    # --- former names ---

    def test_a_new_name_goes_on_where_the_old_one_was(self, store: Store) -> None:
        subscribe(store, "old")
        append(store, *"abc")

        assert {"new": "old"} == subscribed(store, Registration(name="new", formerly=("older", "old")))
        assert ["old"] == names(store)

    def test_both_names_work_side_by_side_and_after_a_rollback(self, store: Store) -> None:
        subscribe(store, "old")
        subscribed(store, Registration(name="new", formerly=("old",)))

        assert {"old": "old"} == subscribed(store, Registration(name="old"))
        assert {"new": "old"} == subscribed(store, Registration(name="new"))
        assert {"newest": "old"} == subscribed(store, Registration(name="newest", formerly=("new", "old")))
        assert ["old"] == names(store)

    def test_where_the_new_name_was_first_the_old_one_is_an_alias(self, store: Store) -> None:
        assert {"new": "new"} == subscribed(store, Registration(name="new", formerly=("old",)))
        assert {"old": "new"} == subscribed(store, Registration(name="old"))
        assert ["new"] == names(store)

    def test_two_that_are_recorded_are_not_made_one(self, store: Store) -> None:
        subscribe(store, "old", "new")
        with pytest.raises(NameTakenTwice, match="retire 'old'"):
            subscribed(store, Registration(name="new", formerly=("old",)))

    @pytest.mark.parametrize("recorded", [[], ["old"]])
    def test_two_handlers_are_not_one_subscription(self, store: Store, recorded: list[str]) -> None:
        """Whichever came later was given each event twice, and the other one was never called."""
        subscribe(store, *recorded)
        append(store, *"abc")
        with pytest.raises(SubscriptionShared, match="'one' and 'two' are one subscription, recorded as"):
            subscribed(store, Registration(name="one", formerly=("old",)), Registration(name="two", formerly=("old",)))
        assert recorded == names(store)

    def test_a_name_that_is_in_use_by_its_successor_is_not_given_to_another(self, store: Store) -> None:
        subscribe(store, "old")
        with pytest.raises(SubscriptionShared, match="'new' and 'old'"):
            subscribed(store, Registration(name="new", formerly=("old",)), Registration(name="old"))

    # --- groups ---

    def test_a_group_that_changed_is_changed_where_it_stands(self, store: Store) -> None:
        append(store, *"abc")
        subscribe(store, "mail", "audit")
        lease = take(store)
        append(store, *"abc")
        settle(store, lease, advances=move(lease, 5))
        subscribe(store, "mail", group="slow")

        assert {("default", "", 0): 5, ("slow", "", 0): 6, ("slow", "mail", 0): 5} == positions(store)
        with store.begin(readonly=True) as t:
            assert [("audit", "default"), ("mail", "slow")] == [(f.name, f.group) for f in t.followers()]

    def test_pausing_is_written_down_and_seen_by_the_group_s_generation(self, store: Store) -> None:
        subscribe(store, "mail")
        before = groups(store)["default"]
        with store.begin() as t:
            assert t.pause("mail", paused=True)
            assert not t.pause("nobody", paused=True)
            assert t.pause_group("default", paused=True)
            assert not t.pause_group("nowhere", paused=True)

        with store.begin(readonly=True) as t:
            assert [True] == [f.paused for f in t.followers()]
            assert t.groups()["default"].paused
            assert before.generation < t.groups()["default"].generation
        with store.begin() as t:
            assert t.pause("mail", paused=False)
            assert t.pause_group("default", paused=False)
        with store.begin(readonly=True) as t:
            assert ([False], False) == ([f.paused for f in t.followers()], t.groups()["default"].paused)

    def test_a_pause_goes_by_any_of_the_names(self, store: Store) -> None:
        subscribe(store, "old")
        subscribed(store, Registration(name="new", formerly=("old",)))
        with store.begin() as t:
            assert t.pause("new", paused=True)

        with store.begin(readonly=True) as t:
            assert [("old", True)] == [(f.name, f.paused) for f in t.followers()]

    # --- parting and joining again ---

    def test_one_that_parts_has_a_cursor_where_the_shared_one_stands(self, store: Store) -> None:
        subscribe(store, "mail")
        append(store, *"abcde")
        subscribe(store, "audit")
        lease = take(store)
        with store.begin() as t:
            lower = t.split(lease, 40)
        settle(store, lower, advances=move(lower, 3))
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["mail", "audit", "mail", "nobody"])
            t.part("nowhere", ["mail"])

        assert {
            ("default", "", 0): 3,
            ("default", "", 40): 0,
            ("default", "audit", 0): 5,
            ("default", "audit", 40): 5,
            ("default", "mail", 0): 3,
            ("default", "mail", 40): 0,
        } == positions(store)

    def test_parting_again_changes_nothing(self, store: Store) -> None:
        subscribe(store, "mail")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["mail"])
        before = groups(store)
        lease = take(store, name="mail")
        settle(store, lease, advances=move(lease, 7))
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["mail"])

        assert (before, 7) == (groups(store), cursor_of(store, name="mail").position)

    def test_one_that_has_caught_up_joins_where_it_stands(self, store: Store) -> None:
        subscribe(store, "mail", "audit")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["audit"])
            assert not t.rejoin("mail")
            assert not t.rejoin("nobody")
        own, shared = take(store, name="audit"), take(store)
        settle(store, shared, advances=move(shared, 3))
        with store.begin() as t:
            assert not t.rejoin("audit")
        settle(store, own, advances=move(own, 4))
        with store.begin() as t:
            assert t.rejoin("audit")

        assert {("default", "", 0): 3} == positions(store)
        with store.begin(readonly=True) as t:
            assert [("audit", 4, False)] == [(f.name, f.start, f.apart) for f in t.followers()][:1]

    def test_one_whose_parts_stand_apart_does_not_join(self, store: Store) -> None:
        subscribe(store, "mail")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["mail"])
        with store.begin() as t:
            own = t.split(take_in(t, "mail"), 9)
        settle(store, own, advances=move(own, 4))
        with store.begin() as t:
            assert not t.rejoin("mail")

    # --- retiring ---

    def test_one_that_is_retired_leaves_its_dead_letters_alone(self, store: Store) -> None:
        subscribe(store, "old", "audit")
        subscribed(store, Registration(name="mail", formerly=("old",)))
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["old"])
        rows = [set_aside("old"), set_aside("old", "user:2"), set_aside("old", "user:3", state="dead")]
        settle(store, take(store), set_aside=[*rows, set_aside("audit")])
        with store.begin() as t:
            assert t.retire("nobody") is None
            assert 2 == t.retire("mail")

        assert ["audit"] == names(store)
        assert [("old", "dead"), ("audit", "open")] == [(d.subscription, d.state) for d in deliveries(store)]
        assert {("default", "", 0): 0} == positions(store)
        assert {"mail": "mail"} == subscribed(store, Registration(name="mail"))

    @pytest.mark.parametrize("anew", [False, True])
    def test_what_one_that_was_retired_had_been_given_is_not_set_aside(self, store: Store, anew: bool) -> None:  # noqa: FBT001  pytest gives it by name
        """Its delivery would be nobody's; or, where it is recorded anew, one that it was told to begin after."""
        subscribe(store, "mail", "audit")
        append(store, "a")
        event = read_all(store)[-1]
        cursor, plan = take(store), Plan(groups(store)[DEFAULT_GROUP].generation, frozenset({"mail", "audit"}))
        with store.begin() as t:
            t.retire("mail")
        if anew:
            subscribe(store, "mail")
        with pytest.raises(LeaseLost):
            settle(
                store,
                cursor,
                advances=move(cursor, event.position),
                plans={DEFAULT_GROUP: plan},
                set_aside=[set_aside("mail", entry=event)],
            )

        assert [] == deliveries(store)


def groups(store: Store) -> dict[str, Group]:
    with store.begin(readonly=True) as t:
        return t.groups()


def names(store: Store) -> list[str]:
    with store.begin(readonly=True) as t:
        return [follower.name for follower in t.followers()]


def subscribed(store: Store, *registrations: Registration) -> dict[str, str]:
    with store.begin() as t:
        return t.subscribe(registrations)


def take_in(t: Transaction, name: str) -> Cursor:
    taken = t.take(next(c for c in t.cursors() if c.name == name), "ada")
    assert taken is not None
    return taken
