"""The store suite's second part: settling, and deliveries set aside."""

# ruff: noqa: PT012, SIM300  a block that fails needs its transaction around it; expected == actual

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from earnorm.clock import VirtualClock
from earnorm.delivery import Delivery
from earnorm.errors import LeaseLost
from earnorm.store import Advance, Seen, Settlement, Store
from earnorm.testing._store_verbs import (
    NOON,
    append,
    blocked,
    changed,
    claim,
    deliveries,
    due,
    entry,
    look,
    open_,
    read_all,
    set_aside,
    settle,
    settle_everything,
    subscribe,
)


class DeliverySuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- settling ---

    def test_settling_moves_the_cursors(self, store: Store) -> None:
        lease = claim(store)
        subscribe(store, "mail", "audit", "search")
        settle(store, lease, advances={"mail": Advance(0, 5), "audit": Advance(0, 5), "search": Advance(0, 3)})
        settle(store, lease, advances={"mail": Advance(5, 9)})

        with store.begin() as t:
            assert t.cursors() == {"mail": 9, "audit": 5, "search": 3}

    def test_what_handlers_emitted_is_appended_with_their_settle(self, store: Store) -> None:
        lease = claim(store)
        subscribe(store, "mail")
        settle(store, lease, advances={"mail": Advance(0, 5)}, emitted=[entry("first"), entry("second")])

        assert ["first", "second"] == [e.name for e in read_all(store)]

    def test_what_handlers_emitted_goes_with_a_refused_settle(self, store: Store) -> None:
        lease = claim(store)
        subscribe(store, "mail")
        with pytest.raises(LeaseLost):
            settle(store, lease, advances={"mail": Advance(1, 5)}, emitted=[entry("never")])

        assert [] == read_all(store)

    @pytest.mark.parametrize("loss", ["taken over", "given back"])
    def test_a_stale_worker_changes_nothing(self, store: Store, clock: VirtualClock, loss: str) -> None:
        lease = claim(store, "ada", 10)
        subscribe(store, "mail")
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        before = look(store)
        if loss == "taken over":
            clock.advance(10)
            claim(store, "bob", 10)
        else:
            with store.begin() as t:
                t.release(lease)

        with pytest.raises(LeaseLost) as caught:
            settle_everything(store, lease)

        assert (caught.value.worker, caught.value.fence) == ("ada", lease.fence)
        assert before == look(store)

    def test_a_lease_that_ran_out_still_settles_while_nobody_took_over(self, store: Store, clock: VirtualClock) -> None:
        lease = claim(store, "ada", 10)
        subscribe(store, "mail")
        clock.advance(60)
        settle(store, lease, advances={"mail": Advance(0, 5)})

        with store.begin() as t:
            assert t.cursors() == {"mail": 5}

    @pytest.mark.parametrize("wrong", [{"mail": Advance(1, 5)}, {"unknown": Advance(0, 5)}])
    def test_a_cursor_that_stands_elsewhere_refuses_the_whole_batch(
        self, store: Store, wrong: dict[str, Advance]
    ) -> None:
        lease = claim(store)
        subscribe(store, "mail", "audit", "search")
        before = look(store)

        advances = {"search": Advance(0, 5), "audit": Advance(0, 7), **wrong}
        with pytest.raises(LeaseLost):
            settle(store, lease, advances=advances, set_aside=[set_aside()])

        assert before == look(store)

    def test_a_batch_of_events_that_are_not_where_they_were_read_is_refused(self, store: Store) -> None:
        """A server that takes over after a failure may lack the last commits, and give their positions out again."""
        lease = claim(store)
        subscribe(store, "mail")
        append(store, "first", "second")
        first, second = read_all(store)
        settle(store, lease, advances={"mail": Advance(0, first.position)}, seen=Seen(first.position, first.id))
        before = look(store)

        for seen in (Seen(second.position, first.id), Seen(second.position + 1, second.id)):
            with pytest.raises(LeaseLost):
                settle(
                    store,
                    lease,
                    advances={"mail": Advance(first.position, second.position)},
                    set_aside=[set_aside()],
                    seen=seen,
                )

        assert before == look(store)
        assert first.position == before[0]["mail"]

    def test_a_refused_batch_leaves_the_rest_of_its_transaction_alone(self, store: Store) -> None:
        lease = claim(store)
        subscribe(store, "mail")
        with store.begin() as t:
            t.append([entry("before")])
            with pytest.raises(LeaseLost):
                t.settle(lease, Settlement(advances={"mail": Advance(1, 5)}, set_aside=[set_aside()]))
            t.append([entry("after")])

        assert ["before", "after"] == [e.name for e in read_all(store)]
        with store.begin() as t:
            assert ({"mail": 0}, []) == (t.cursors(), t.deliveries())

    def test_a_batch_rolled_back_was_never_settled(self, store: Store) -> None:
        """A store that moved its cursors in place kept them moved."""
        lease = claim(store)
        subscribe(store, "mail")
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        before = look(store)
        first, second = deliveries(store)
        with pytest.raises(ZeroDivisionError), store.begin() as t:
            t.settle(
                lease,
                Settlement(
                    advances={"mail": Advance(0, 5)},
                    set_aside=[set_aside()],
                    rescheduled=[changed(first, attempt=2)],
                    finished=[second.id],
                ),
            )
            raise ZeroDivisionError

        assert before == look(store)

    def test_a_delivery_set_aside_comes_back_as_it_went_in(self, store: Store) -> None:
        kept = Delivery(
            subscription="app.handlers.mäil",
            entry=entry(key="café:Ω", data=b"\x00\xff", causation_id=uuid4(), depth=2, tenant="t", position=12),
            due=NOON + timedelta(days=90, microseconds=1),
            attempt=3,
            ordered=False,
            state="dead",
            error="Traceback …\nValueError: 'Ω'",
        )
        settle(store, claim(store), set_aside=[kept])

        (found,) = deliveries(store)

        assert found.id > 0
        assert (kept.entry, kept.due, kept.error) == (found.entry, found.due, found.error)
        assert ("app.handlers.mäil", 3, False, "dead") == (
            found.subscription,
            found.attempt,
            found.ordered,
            found.state,
        )

    def test_deliveries_are_set_aside_in_the_order_given(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside(key=f"user:{number}") for number in range(500)])
        settle(store, lease, set_aside=[set_aside(key="user:last")])

        found = deliveries(store)

        assert [*(f"user:{number}" for number in range(500)), "user:last"] == [d.entry.key for d in found]
        assert [d.id for d in found] == sorted({d.id for d in found})

    def test_a_delivery_rescheduled_keeps_its_place_and_its_entry(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside(), set_aside("audit")])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[changed(first, attempt=2, due=NOON + timedelta(hours=1), error="timed out")])

        found, other = deliveries(store)

        assert (first.id, 2, "open", "timed out") == (found.id, found.attempt, found.state, found.error)
        assert (first.entry, NOON + timedelta(hours=1)) == (found.entry, found.due)
        assert second == other

    def test_a_delivery_that_is_over_is_gone(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside(key=f"user:{number}") for number in range(3)])
        first, second, third = deliveries(store)
        settle(store, lease, finished=[first.id, third.id])

        assert [second] == deliveries(store)

    def test_a_delivery_removed_meanwhile_is_passed_over(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside()])
        (gone,) = deliveries(store)
        settle(store, lease, finished=[gone.id])
        settle(store, lease, finished=[gone.id], rescheduled=[changed(gone, attempt=2)], set_aside=[set_aside("audit")])

        assert ["audit"] == [d.subscription for d in deliveries(store)]
        assert gone.id not in [d.id for d in deliveries(store)]

    def test_deliveries_are_found_by_their_event(self, store: Store) -> None:
        one, other = entry(position=1), entry(position=2)
        settle(
            store,
            claim(store),
            set_aside=[set_aside("mail", entry=one), set_aside("mail", entry=other), set_aside("audit", entry=one)],
        )

        with store.begin(readonly=True) as t:
            assert ["mail", "audit"] == [d.subscription for d in t.deliveries(str(one.id))]
            assert t.deliveries(str(uuid4())) == []
            assert t.deliveries("no id at all") == []

    # --- what may run ---

    def test_a_delivery_is_due_from_its_time_on(self, store: Store, clock: VirtualClock) -> None:
        settle(store, claim(store), set_aside=[set_aside(due=NOON + timedelta(seconds=5))])
        clock.advance(4.999)
        assert due(store) == []
        clock.advance(0.001)

        assert len(due(store)) == 1

    def test_the_longest_due_comes_first(self, store: Store, clock: VirtualClock) -> None:
        times = [3, 1, 2, 1]
        settle(
            store,
            claim(store),
            set_aside=[
                set_aside(key=f"user:{number}", due=NOON + timedelta(seconds=seconds))
                for number, seconds in enumerate(times)
            ],
        )
        clock.advance(10)

        assert ["user:1", "user:3", "user:2", "user:0"] == [d.entry.key for d in due(store)]
        assert ["user:1", "user:3"] == [d.entry.key for d in due(store, limit=2)]

    def test_only_the_lowest_of_a_record_is_due(self, store: Store) -> None:
        lease = claim(store)
        settle(
            store,
            lease,
            set_aside=[
                set_aside("mail", "user:1"),
                set_aside("mail", "user:1"),
                set_aside("mail", "user:2"),
                set_aside("audit", "user:1"),
            ],
        )
        first, second, other, audit = deliveries(store)

        assert [first, other, audit] == due(store)
        settle(store, lease, finished=[first.id])
        assert [second, other, audit] == due(store)

    def test_a_later_one_waits_even_when_the_lowest_is_due_after_it(self, store: Store, clock: VirtualClock) -> None:
        later = NOON + timedelta(seconds=60)
        settle(store, claim(store), set_aside=[set_aside(due=later), set_aside(due=NOON)])

        assert due(store) == []
        assert open_(store) == (2, later)
        clock.advance(60)
        assert [deliveries(store)[0]] == due(store)

    def test_a_dead_delivery_holds_nobody_up(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[changed(first, state="dead", error="gave up")])

        assert [second] == due(store)
        assert open_(store) == (1, NOON)
        settle(store, lease, finished=[second.id])
        assert blocked(store, ("mail", "user:1")) == set()
        assert open_(store) == (0, None)
        assert ["gave up"] == [d.error for d in deliveries(store)]

    def test_a_dead_letter_opened_again_comes_before_later_ones(self, store: Store) -> None:
        lease = claim(store)
        settle(store, lease, set_aside=[set_aside(state="dead"), set_aside()])
        dead, _ = deliveries(store)
        settle(store, lease, rescheduled=[changed(dead, state="open")])

        assert [dead.id] == [d.id for d in due(store)]

    def test_deliveries_without_order_neither_wait_nor_hold_up(self, store: Store) -> None:
        later = NOON + timedelta(days=1)
        settle(
            store,
            claim(store),
            set_aside=[
                set_aside(ordered=False, due=later),
                set_aside(ordered=True),
                set_aside(ordered=False),
                set_aside(ordered=True),
            ],
        )
        _, first, free, _ = deliveries(store)

        assert [first, free] == due(store)

    def test_a_record_is_blocked_while_an_ordered_delivery_of_it_is_open(self, store: Store) -> None:
        lease = claim(store)
        settle(
            store,
            lease,
            set_aside=[
                set_aside("mail", "user:1", due=NOON + timedelta(days=1)),
                set_aside("mail", "user:1"),
                set_aside("audit", "user:2"),
                set_aside("audit", "user:3", ordered=False),
                set_aside("audit", "user:4", state="dead"),
            ],
        )
        pairs = [(name, f"user:{number}") for name in ("mail", "audit") for number in range(6)]

        assert {("mail", "user:1"), ("audit", "user:2")} == blocked(store, *pairs, *pairs)
        assert blocked(store, ("mail", "user:2")) == set()
        assert blocked(store) == set()

    def test_thousands_of_records_are_asked_for_at_once(self, store: Store) -> None:
        settle(store, claim(store), set_aside=[set_aside(key=f"user:{number}") for number in range(0, 999, 333)])
        pairs = [("mail", f"user:{number}") for number in range(2_500)]

        assert {("mail", "user:0"), ("mail", "user:333"), ("mail", "user:666")} == blocked(store, *pairs)

    def test_open_tells_how_many_and_when_the_next_may_run(self, store: Store) -> None:
        assert open_(store) == (0, None)
        soon, later = NOON + timedelta(seconds=1), NOON + timedelta(seconds=9)
        settle(store, claim(store), set_aside=[set_aside(due=later), set_aside(due=NOON), set_aside("audit", due=soon)])

        assert open_(store) == (3, soon)
