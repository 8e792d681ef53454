"""The store suite's part on workers: coming, dying, and the cursors that they hold."""

# ruff: noqa: SIM300  a block that fails needs its transaction around it; expected == actual

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from earnorm.clock import VirtualClock
from earnorm.errors import LeaseLost
from earnorm.store import Cursor, Presence, Store
from earnorm.testing._store_verbs import (
    NOON,
    cursor_of,
    dies,
    enter,
    move,
    settle,
    subscribe,
    take,
    try_take,
)


class LeaseSuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- workers ---

    def test_a_worker_is_seen_as_it_entered(self, store: Store) -> None:
        ada = Presence(worker="ada", expires=NOON, knows=frozenset({"mail", "Ω \" '"}), dedicated=True)
        bob = Presence(worker="bob", expires=NOON + timedelta(seconds=3), idle=True)
        with store.begin() as t:
            t.enter(bob)
            t.enter(ada)
        with store.begin() as t:
            assert [ada, bob] == t.workers()
            t.enter(replace(bob, idle=False, knows=frozenset({"mail"})))

        with store.begin(readonly=True) as t:
            assert [ada, replace(bob, idle=False, knows=frozenset({"mail"}))] == t.workers()

    def test_a_heartbeat_keeps_a_worker_alive_and_tells_it_when_it_is_gone(self, store: Store) -> None:
        enter(store, "ada")
        later = NOON + timedelta(minutes=1)
        with store.begin() as t:
            assert t.beat("ada", later)
            assert not t.beat("bob", later)

        with store.begin(readonly=True) as t:
            assert [("ada", later)] == [(w.worker, w.expires) for w in t.workers()]

    def test_nobody_is_buried_alive(self, store: Store, clock: VirtualClock) -> None:
        enter(store, "ada", 10)
        clock.advance(9.999)
        with store.begin() as t:
            assert not t.bury("ada")
            assert not t.bury("nobody")
        clock.advance(0.001)
        with store.begin() as t:
            assert t.bury("ada")
            assert not t.bury("ada")
            assert [] == t.workers()

    def test_one_that_is_known_to_be_dead_is_buried_at_once(self, store: Store) -> None:
        enter(store, "ada")
        with store.begin() as t:
            assert t.bury("ada", dead=True)

    # --- taking and giving back ---

    def test_a_cursor_is_one_worker_s_at_a_time(self, store: Store) -> None:
        taken = take(store, "ada")

        assert ("ada", 1) == (taken.worker, taken.fence)
        assert taken == cursor_of(store)
        assert try_take(store, "bob") is None

    def test_it_is_taken_as_it_stands_under_a_higher_fence(self, store: Store) -> None:
        first = take(store, "ada")
        settle(store, first, advances=move(first, 5))
        with store.begin() as t:
            t.release([cursor_of_ada(first, 5)])
        second = take(store, "bob")

        assert (5, "bob") == (second.position, second.worker)
        assert first.fence < second.fence

    def test_its_holder_may_take_it_anew(self, store: Store) -> None:
        first, second = take(store, "ada"), take(store, "ada")

        assert first.fence < second.fence
        with pytest.raises(LeaseLost):
            settle(store, first)

    def test_what_is_no_longer_so_long_is_not_taken(self, store: Store) -> None:
        subscribe(store, "mail")
        whole = cursor_of(store)
        with store.begin() as t:
            taken = t.take(whole, "ada")
            assert taken
            t.release([t.split(taken, 32)])
            assert t.take(whole, "bob") is None
            assert t.take(replace(whole, first=7), "bob") is None

    def test_giving_back_a_lost_lease_takes_it_from_nobody(self, store: Store) -> None:
        lost = take(store, "ada")
        with store.begin() as t:
            t.leave("ada")
        held = take(store, "bob")
        with store.begin() as t:
            t.release([lost])

        assert held == cursor_of(store)

    def test_a_worker_that_leaves_gives_back_all_it_holds_and_counts_no_death(self, store: Store) -> None:
        subscribe(store, "mail")
        subscribe(store, "search", group="slow")
        enter(store, "ada")
        leases = [take(store, "ada"), take(store, "ada", group="slow")]
        with store.begin() as t:
            t.leave("ada")
            t.leave("nobody")

        with store.begin(readonly=True) as t:
            assert ([], [("", 0), ("", 0)]) == (t.workers(), [(c.worker, c.deaths) for c in t.cursors()])
            assert all(lease.fence < cursor.fence for lease, cursor in zip(leases, t.cursors(), strict=True))

    def test_each_death_of_a_holder_is_counted(self, store: Store, clock: VirtualClock) -> None:
        dies(store, clock, "ada")
        dies(store, clock, "bob")

        assert (2, "") == (cursor_of(store).deaths, cursor_of(store).worker)

    # --- dividing and joining ---

    def test_a_part_of_a_cursor_is_given_back(self, store: Store) -> None:
        whole = take(store, "ada")
        settle(store, whole, advances=move(whole, 5))
        with store.begin() as t:
            kept = t.split(whole, 40)

        with store.begin() as t:
            ours, free = t.cursors()
            assert (kept, (0, 39)) == (ours, ours.slots)
            assert ((40, 63), 5, "") == (free.slots, free.position, free.worker)
            assert free.fence >= kept.fence > whole.fence
            assert t.take(free, "bob") is not None

    def test_only_its_holder_divides_it(self, store: Store) -> None:
        held = take(store, "ada")
        for stale in (replace(held, fence=0), replace(held, worker="bob"), replace(held, first=3)):
            with pytest.raises(LeaseLost), store.begin() as t:
                t.split(stale, 32)

        assert held == cursor_of(store)

    def test_two_that_meet_and_stand_alike_are_made_one(self, store: Store) -> None:
        whole = take(store, "ada")
        with store.begin() as t:
            lower = t.split(whole, 40)
            upper = t.take(t.cursors()[1], "ada")
            assert upper
            merged = t.merge(lower, upper)

        with store.begin(readonly=True) as t:
            assert [merged] == t.cursors()
            assert (whole.slots, "ada") == (merged.slots, merged.worker)
            assert merged.fence > max(lower.fence, upper.fence)

    def test_two_that_stand_apart_or_are_not_both_held_are_not_made_one(self, store: Store) -> None:
        whole = take(store, "ada")
        with store.begin() as t:
            lower = t.split(whole, 40)
            free = t.cursors()[1]
        with pytest.raises(LeaseLost), store.begin() as t:
            t.merge(lower, replace(free, worker="ada"))
        with store.begin() as t:
            upper = t.take(free, "ada")
        assert upper
        with pytest.raises(LeaseLost), store.begin() as t:
            t.merge(upper, lower)
        settle(store, upper, advances=move(upper, 3))
        with pytest.raises(LeaseLost), store.begin() as t:
            t.merge(lower, replace(upper, position=3))


def cursor_of_ada(taken: Cursor, position: int) -> Cursor:
    return replace(taken, position=position)
