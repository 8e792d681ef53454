"""The store suite's second part: settling, and deliveries set aside."""

# ruff: noqa: SIM300  a block that fails needs its transaction around it; expected == actual

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from msgspec import structs

from earnorm.clock import VirtualClock
from earnorm.delivery import Delivery
from earnorm.errors import LeaseLost
from earnorm.slots import slot_of
from earnorm.store import Settlement, Store, Waiting
from earnorm.testing._store_verbs import (
    FAR,
    NOON,
    WHOLE,
    blocked,
    changed,
    deliveries,
    due,
    enter,
    entry,
    look,
    read_all,
    set_aside,
    settle,
    take,
    waiting,
)


class DeliverySuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- deliveries ---

    def test_a_delivery_set_aside_comes_back_as_it_went_in(self, store: Store) -> None:
        kept = Delivery(
            subscription="app.handlers.mäil",
            entry=entry(key="café:Ω", data=b"\x00\xff", causation_id=uuid4(), depth=2, tenant="t", position=12),
            chosen=NOON + timedelta(days=90, microseconds=1),
            attempt=3,
            ordered=False,
            state="dead",
            error="Traceback …\nValueError: 'Ω'",
        )
        settle(store, take(store), set_aside=[kept])

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
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(key=f"user:{number}") for number in range(500)])
        settle(store, lease, set_aside=[set_aside(key="user:last")])

        found = deliveries(store)

        assert [*(f"user:{number}" for number in range(500)), "user:last"] == [d.entry.key for d in found]
        assert [d.id for d in found] == sorted({d.id for d in found})

    def test_a_delivery_rescheduled_keeps_its_place_and_its_entry(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(), set_aside("audit")])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[changed(first, attempt=2, due=NOON + timedelta(hours=1), error="timed out")])

        found, other = deliveries(store)

        assert (first.id, 2, "open", "timed out") == (found.id, found.attempt, found.state, found.error)
        assert (first.entry, NOON + timedelta(hours=1)) == (found.entry, found.due)
        assert second == other

    def test_a_delivery_that_is_over_is_gone(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(key=f"user:{number}") for number in range(3)])
        first, second, third = deliveries(store)
        settle(store, lease, finished=[first.id, third.id])

        assert [second] == deliveries(store)

    def test_a_delivery_removed_meanwhile_is_passed_over(self, store: Store) -> None:
        lease = take(store)
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
            take(store),
            set_aside=[set_aside("mail", entry=one), set_aside("mail", entry=other), set_aside("audit", entry=one)],
        )

        with store.begin(readonly=True) as t:
            assert ["mail", "audit"] == [d.subscription for d in t.deliveries(str(one.id))]
            assert t.deliveries(str(uuid4())) == []
            assert t.deliveries("no id at all") == []

    # --- what may run ---

    def test_a_delivery_is_due_from_its_time_on(self, store: Store, clock: VirtualClock) -> None:
        settle(store, take(store), set_aside=[set_aside(due=NOON + timedelta(seconds=5))])
        clock.advance(4.999)
        assert due(store) == []
        clock.advance(0.001)

        assert len(due(store)) == 1

    def test_the_longest_due_comes_first(self, store: Store, clock: VirtualClock) -> None:
        times = [3, 1, 2, 1]
        settle(
            store,
            take(store),
            set_aside=[
                set_aside(key=f"user:{number}", due=NOON + timedelta(seconds=seconds))
                for number, seconds in enumerate(times)
            ],
        )
        clock.advance(10)

        assert ["user:1", "user:3", "user:2", "user:0"] == [d.entry.key for d in due(store)]
        assert ["user:1", "user:3"] == [d.entry.key for d in due(store, limit=2)]

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_due_ends_with_the_delivery_that_makes_the_room_full(self, store: Store, size: int) -> None:
        large = [entry(key=f"user:{number}", data=bytes(size), position=1) for number in range(4)]
        rows = [set_aside(entry=one) for one in large]
        settle(store, take(store), set_aside=rows)

        with store.begin(readonly=True) as t:
            found = t.due("mail", WHOLE, FAR, 2 * size)
            assert [("user:0", bytes(size)), ("user:1", bytes(size))] == [(d.entry.key, d.entry.data) for d in found]
            assert 3 == len(t.due("mail", [(0, 30), (31, 63)], FAR, 2 * size + 1))
            assert 4 == len(t.due("mail", WHOLE, FAR))

    def test_only_the_lowest_of_a_record_is_due(self, store: Store) -> None:
        lease = take(store)
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

        assert ([first, other], [audit]) == (due(store), due(store, name="audit"))
        settle(store, lease, finished=[first.id])
        assert ([second, other], [audit]) == (due(store), due(store, name="audit"))

    def test_a_later_one_waits_even_when_the_lowest_is_due_after_it(self, store: Store, clock: VirtualClock) -> None:
        later = NOON + timedelta(seconds=60)
        settle(store, take(store), set_aside=[set_aside(due=later), set_aside(due=NOON)])

        assert due(store) == []
        assert waiting(store) == {"mail": Waiting(later)}
        clock.advance(60)
        assert [deliveries(store)[0]] == due(store)

    def test_a_dead_delivery_holds_nobody_up(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(), set_aside()])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[changed(first, state="dead", error="gave up")])

        assert [second] == due(store)
        assert waiting(store) == {"mail": Waiting(NOON)}
        settle(store, lease, finished=[second.id])
        assert blocked(store, ("mail", "user:1")) == set()
        assert waiting(store) == {}
        assert ["gave up"] == [d.error for d in deliveries(store)]

    def test_a_dead_letter_opened_again_comes_before_later_ones(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(state="dead"), set_aside()])
        dead, _ = deliveries(store)
        settle(store, lease, rescheduled=[changed(dead, state="open")])

        assert [dead.id] == [d.id for d in due(store)]

    def test_deliveries_without_order_neither_wait_nor_hold_up(self, store: Store) -> None:
        later = NOON + timedelta(days=1)
        settle(
            store,
            take(store),
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
        lease = take(store)
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
        settle(store, take(store), set_aside=[set_aside(key=f"user:{number}") for number in range(0, 999, 333)])
        pairs = [("mail", f"user:{number}") for number in range(2_500)]

        assert {("mail", "user:0"), ("mail", "user:333"), ("mail", "user:666")} == blocked(store, *pairs)

    def test_the_store_says_who_waits_and_when_the_next_may_run(self, store: Store) -> None:
        assert waiting(store) == {}
        soon, later = NOON + timedelta(seconds=1), NOON + timedelta(seconds=9)
        rows = [
            set_aside(due=later),
            set_aside(due=NOON),
            set_aside("audit", due=later),
            set_aside("audit", "user:2", due=soon),
            set_aside("audit", "user:3", due=NOON, state="dead"),
            set_aside("dead", due=NOON, state="dead"),
            set_aside("search", due=NOON, worker="ada"),
        ]
        settle(store, take(store), set_aside=rows)

        assert {"mail": Waiting(later), "audit": Waiting(soon), "search": Waiting(None, running=True)} == waiting(store)

    def test_a_delivery_is_due_in_its_slot_alone(self, store: Store) -> None:
        rows = [set_aside(key=f"user:{number}") for number in range(40)]
        settle(store, take(store), set_aside=rows)
        slots = [slot_of(f"user:{number}", b"") for number in range(40)]

        for ranges in ([(0, 9)], [(10, 31), (40, 63)], [(0, 63)]):
            inside = [f"user:{n}" for n, slot in enumerate(slots) if any(a <= slot <= b for a, b in ranges)]
            assert inside == [d.entry.key for d in due(store, slots=ranges)]

    # --- on their own, and suspects ---

    def test_what_a_worker_runs_on_its_own_is_left_alone_and_waited_for(self, store: Store) -> None:
        settle(store, take(store, "ada"), set_aside=[set_aside(worker="ada"), set_aside(), set_aside(key="user:2")])
        running, _, free = deliveries(store)

        assert [free] == due(store)
        assert {("mail", "user:1"), ("mail", "user:2")} == blocked(store, ("mail", "user:1"), ("mail", "user:2"))
        with store.begin(readonly=True) as t:
            assert ([running], []) == (t.running("ada"), t.running("bob"))

    def test_whoever_runs_it_settles_it_without_a_lease(self, store: Store) -> None:
        settle(store, take(store, "ada"), set_aside=[set_aside(worker="ada"), set_aside()])
        running, behind = deliveries(store)
        with store.begin() as t:
            t.settle(Settlement(worker="ada", finished=[running.id], running=[running.id], emitted=[entry("done")]))

        assert [behind] == due(store)
        assert ["done"] == [e.name for e in read_all(store)]

    @pytest.mark.parametrize("gone", ["leave", "bury"])
    def test_what_it_ran_may_be_run_by_others_once_it_is_gone_and_its_outcome_comes_too_late(
        self, store: Store, gone: str
    ) -> None:
        enter(store, "ada")
        settle(store, take(store, "ada"), set_aside=[set_aside(worker="ada")])
        (running,) = deliveries(store)
        with store.begin() as t:
            if gone == "leave":
                t.leave("ada")
            else:
                t.bury("ada", dead=True)
        before = look(store)

        assert [structs.replace(running, worker="")] == due(store)
        with pytest.raises(LeaseLost), store.begin() as t:
            t.settle(Settlement(worker="ada", finished=[running.id], running=[running.id], emitted=[entry("late")]))
        assert before == look(store)

    def test_nobody_else_finishes_or_reschedules_what_a_worker_runs(self, store: Store) -> None:
        settle(store, take(store, "ada"), set_aside=[set_aside(worker="ada"), set_aside(key="user:2", worker="ada")])
        first, second = before = deliveries(store)
        settle(store, take(store, "ada"), set_aside=[])
        with store.begin() as t:
            t.settle(Settlement(worker="bob", finished=[first.id], rescheduled=[changed(second, attempt=9)]))

        assert before == deliveries(store)

    def test_a_suspect_is_kept_as_one(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(suspect=True), set_aside(key="user:2")])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[changed(first), changed(second, suspect=True, worker="ada")])

        assert [(False, ""), (True, "ada")] == [(d.suspect, d.worker) for d in deliveries(store)]
