"""The store suite's second part: settling, and deliveries set aside."""

# ruff: noqa: PT012, SIM300  a block that fails needs its transaction around it; expected == actual

from __future__ import annotations

from dataclasses import replace

import pytest

from earnorm.clock import VirtualClock
from earnorm.errors import LeaseLost
from earnorm.store import DEFAULT_GROUP, Seen, Store
from earnorm.testing._store_verbs import (
    append,
    changed,
    cursor_of,
    deliveries,
    dies,
    enter,
    entry,
    look,
    move,
    plan_of,
    positions,
    read_all,
    set_aside,
    settle,
    settle_everything,
    settlement,
    subscribe,
    take,
)


class SettlingSuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- settling ---

    def test_settling_moves_the_cursors(self, store: Store) -> None:
        subscribe(store, "mail")
        subscribe(store, "search", group="search")
        first, second = take(store), take(store, group="search")
        settle(store, first, advances=(*move(first, 5), *move(second, 3)))
        settle(store, first, advances=move(cursor_of(store), 9))

        assert {("default", "", 0): 9, ("search", "", 0): 3} == positions(store)

    def test_a_cursor_settled_has_no_deaths_behind_it(self, store: Store, clock: VirtualClock) -> None:
        dies(store, clock)
        dies(store, clock)
        lease = take(store)
        assert 2 == lease.deaths
        settle(store, lease)

        assert 0 == cursor_of(store).deaths

    def test_what_handlers_emitted_is_appended_with_their_settle(self, store: Store) -> None:
        settle(store, take(store), emitted=[entry("first"), entry("second")])

        assert ["first", "second"] == [e.name for e in read_all(store)]

    def test_what_handlers_emitted_goes_with_a_refused_settle(self, store: Store) -> None:
        lease = take(store)
        with pytest.raises(LeaseLost):
            settle(store, lease, advances=move(replace(lease, position=1), 5), emitted=[entry("never")])

        assert [] == read_all(store)

    @pytest.mark.parametrize("loss", ["taken over", "given back", "gone", "divided", "another's"])
    def test_a_stale_worker_changes_nothing(self, store: Store, clock: VirtualClock, loss: str) -> None:
        enter(store, "ada")
        lease = take(store, "ada")
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        if loss == "taken over":
            clock.advance(10)
            with store.begin() as t:
                assert t.bury("ada")
            take(store, "bob")
        elif loss == "given back":
            with store.begin() as t:
                t.release([lease])
        elif loss == "gone":
            with store.begin() as t:
                t.leave("ada")
        elif loss == "divided":
            with store.begin() as t:
                t.split(lease, 32)
        else:
            lease = replace(lease, worker="bob")
        before = look(store)

        with pytest.raises(LeaseLost) as caught:
            settle_everything(store, lease)

        assert lease.worker == caught.value.worker
        assert str(lease) == caught.value.lease
        assert before == look(store)

    def test_a_lease_that_ran_out_still_settles_while_nobody_took_over(self, store: Store, clock: VirtualClock) -> None:
        enter(store, "ada")
        lease = take(store, "ada")
        clock.advance(60)
        settle(store, lease, advances=move(lease, 5))

        assert 5 == cursor_of(store).position

    def test_a_cursor_that_stands_elsewhere_refuses_the_whole_batch(self, store: Store) -> None:
        subscribe(store, "mail")
        subscribe(store, "search", group="search")
        lease, other = take(store), take(store, group="search")
        before = look(store)

        for wrong in (replace(lease, position=1), replace(lease, name="unknown"), replace(lease, first=5)):
            with pytest.raises(LeaseLost):
                settle(store, lease, advances=(*move(other, 7), *move(wrong, 9)), set_aside=[set_aside()])

        assert before == look(store)

    def test_a_batch_of_events_that_are_not_where_they_were_read_is_refused(self, store: Store) -> None:
        """A server that takes over after a failure may lack the last commits, and give their positions out again."""
        lease = take(store)
        append(store, "first", "second")
        first, second = read_all(store)
        settle(store, lease, advances=move(lease, first.position), seen=Seen(first.position, first.id))
        lease = replace(lease, position=first.position)
        before = look(store)

        for seen in (Seen(second.position, first.id), Seen(second.position + 1, second.id)):
            with pytest.raises(LeaseLost):
                settle(store, lease, advances=move(lease, second.position), set_aside=[set_aside()], seen=seen)

        assert before == look(store)

    def test_a_refused_batch_leaves_the_rest_of_its_transaction_alone(self, store: Store) -> None:
        lease = take(store)
        with store.begin() as t:
            t.append([entry("before")])
            with pytest.raises(LeaseLost):
                t.settle(settlement(replace(lease, position=1), set_aside=[set_aside()]))
            t.append([entry("after")])

        assert ["before", "after"] == [e.name for e in read_all(store)]
        assert (0, []) == (cursor_of(store).position, deliveries(store))

    def test_a_batch_rolled_back_was_never_settled(self, store: Store) -> None:
        """A store that moved its cursors in place kept them moved."""
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        before = look(store)
        first, second = deliveries(store)
        with pytest.raises(ZeroDivisionError), store.begin() as t:
            t.settle(
                settlement(
                    lease,
                    advances=move(lease, 5),
                    set_aside=[set_aside()],
                    rescheduled=[changed(first, attempt=2)],
                    finished=[second.id],
                ),
            )
            raise ZeroDivisionError

        assert before == look(store)

    # --- who follows ---

    def test_a_window_planned_without_somebody_who_joined_meanwhile_is_refused(self, store: Store) -> None:
        """Its cursor would pass them by."""
        subscribe(store, "mail", "audit")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["audit"])
        plan = plan_of(store)
        lease = take(store)
        append(store, *"abc")
        with store.begin() as t:
            assert t.rejoin("audit")
        before = look(store)

        with pytest.raises(LeaseLost):
            settle(store, lease, advances=move(lease, 3), plans=plan)

        assert before == look(store)
        settle(store, lease, advances=move(lease, 3), plans=plan_of(store))

    def test_one_who_starts_where_the_window_ends_is_not_passed_by(self, store: Store) -> None:
        subscribe(store, "mail")
        plan, lease = plan_of(store), take(store)
        append(store, *"abc")
        subscribe(store, "audit")
        settle(store, lease, advances=move(lease, read_all(store)[-1].position), plans=plan)

        assert read_all(store)[-1].position == cursor_of(store).position

    def test_one_who_parted_meanwhile_moves_along_with_what_it_was_given(self, store: Store) -> None:
        subscribe(store, "mail", "audit")
        plan, lease = plan_of(store), take(store)
        append(store, *"abc")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["audit"])
        settle(store, lease, advances=move(lease, 3), plans=plan)

        assert 3 == cursor_of(store, name="audit").position

    def test_one_who_parted_and_was_worked_by_another_stays_where_that_one_came(self, store: Store) -> None:
        subscribe(store, "mail", "audit")
        plan, lease = plan_of(store), take(store)
        append(store, *"abc")
        with store.begin() as t:
            t.part(DEFAULT_GROUP, ["audit"])
        other = take(store, "bob", name="audit")
        settle(store, other, advances=move(other, 1))
        settle(store, lease, advances=move(lease, 3), plans=plan)

        assert 1 == cursor_of(store, name="audit").position
