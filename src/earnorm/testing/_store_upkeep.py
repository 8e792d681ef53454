"""The store suite's upkeep: dead letters, the pruning of the log, and how it stands."""

# ruff: noqa: SIM300  expected == actual

from __future__ import annotations

from datetime import timedelta

from earnorm.clock import VirtualClock
from earnorm.delivery import Delivery
from earnorm.slots import slot_of
from earnorm.store import DEFAULT_GROUP, SHARED, Cursor, Store, Transaction, Waiting
from earnorm.testing._store_verbs import (
    FAR,
    NOON,
    append_entries,
    attempt,
    attempts,
    cursor_of,
    cursor_of_in,
    deliveries,
    due,
    enter,
    entry,
    move,
    prune,
    read_all,
    set_aside,
    settle,
    subscribe,
    take,
    waiting,
)
from earnorm.upkeep import ALL, Behind, Pruned, Selection, Tally

HOUR = timedelta(hours=1)


class UpkeepSuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- dead letters ---

    def test_dead_letters_are_those_that_are_dead_in_the_order_they_were_set_aside(self, store: Store) -> None:
        open_one, *dead = bury(store, set_aside(), died("mail"), died("audit"), died("mail"))

        assert dead == find(store, ALL)
        assert dead[1:2] == find(store, ALL, limit=1, after=dead[0].id)
        assert open_one.id not in {row.id for row in find(store, ALL)}

    def test_dead_letters_are_chosen_by_all_that_is_said_of_them(self, store: Store) -> None:
        paid, sent = entry("order.paid", position=1), entry("order.sent", position=2)
        mail, audit, late, other = bury(
            store,
            died("mail", entry=paid, error="ValueError: no address"),
            died("audit", entry=paid, error="KeyError: 'total'", fingerprint="f00d"),
            died("mail", entry=sent, error="ValueError: no city", due=NOON + HOUR),
            died("mail", entry=sent, error="100 % of _ went\nwrong", due=NOON),
        )

        assert [mail, audit] == find(store, Selection(event="order.paid"))
        assert [late, other] == find(store, Selection(event=str(sent.id)))
        assert [audit] == find(store, Selection(handler="audit"))
        assert [mail, late] == find(store, Selection(error="ValueError"))
        assert [audit] == find(store, Selection(error="f00d"))
        assert [] == find(store, Selection(error="f00"))
        assert [] == find(store, Selection(error="valueerror"))
        assert [other] == find(store, Selection(error="0 % of _"))
        assert [] == find(store, Selection(error="0%_"))
        assert [late] == find(store, Selection(since=NOON + HOUR))
        assert [mail, other] == find(store, Selection(ids=(other.id, mail.id, 4_711)))
        assert [mail] == find(store, Selection(ids=(mail.id, audit.id), handler="mail", event="order.paid", error="no"))
        assert [] == find(store, Selection(ids=()))

    def test_dead_letters_are_counted(self, store: Store) -> None:
        bury(store, set_aside(), died("mail"), died("audit"), died("mail"))

        with store.begin(readonly=True) as t:
            assert (3, 2, 0) == (
                t.count_dead(ALL),
                t.count_dead(Selection(handler="mail")),
                t.count_dead(Selection(ids=())),
            )

    def test_a_dead_letter_opened_again_is_due_now_for_one_more_attempt(
        self, store: Store, clock: VirtualClock
    ) -> None:
        first, second = bury(store, died("mail", attempt=16, error="gave up"), died("audit"))
        clock.advance(60)
        with store.begin() as t:
            assert [first.id] == t.reopen([first.id])

        (again,) = due(store)

        assert (first.id, 17, "open", "") == (again.id, again.attempt, again.state, again.error)
        assert (NOON + timedelta(seconds=60), first.entry) == (again.due, again.entry)
        assert [second] == find(store, ALL)

    def test_a_dead_letter_opened_again_is_waited_for_by_later_ones_of_its_record(self, store: Store) -> None:
        dead, _ = bury(store, died(), set_aside())
        with store.begin() as t:
            t.reopen([dead.id])

        assert [dead.id] == [row.id for row in due(store)]

    def test_a_dead_letter_that_is_discarded_is_gone(self, store: Store) -> None:
        first, second, third = bury(store, died(), died(), died())
        with store.begin() as t:
            assert [first.id, third.id] == t.discard([third.id, first.id, first.id, 4_711])

        assert [second] == deliveries(store)

    def test_attempts_are_kept_with_a_letter_opened_again_and_go_with_one_discarded(self, store: Store) -> None:
        kept, gone = died("mail"), died("audit")
        settle(store, take(store), set_aside=[kept, gone], attempts=[attempt(kept, 1), attempt(gone, 1)])
        first, second = deliveries(store)
        with store.begin() as t:
            t.reopen([first.id])
            t.discard([second.id])

        assert [attempt(kept, 1)] == attempts(store, first.id)
        settle(store, cursor_of(store), set_aside=[gone])
        assert [] == attempts(store, deliveries(store)[-1].id)

    def test_what_is_not_dead_is_neither_opened_again_nor_discarded(self, store: Store) -> None:
        (row,) = bury(store, set_aside(due=NOON + HOUR))
        with store.begin() as t:
            assert [] == t.reopen([row.id])
            assert [] == t.discard([row.id])
            assert [] == t.discard([])

        assert [row] == deliveries(store)
        assert {"mail": Waiting(NOON + HOUR)} == waiting(store)

    # --- pruning ---

    def test_what_every_subscription_has_passed_and_is_older_is_removed(self, store: Store) -> None:
        subscribe(store, "mail")
        subscribe(store, "audit", group="others")
        _, second, third, _ = fill(store, 4)
        go(store, second)
        go(store, third, group="others")

        assert Pruned(2, second) == prune(store)
        assert ["user:3", "user:4"] == keys(store)
        assert Pruned(0, 0) == prune(store)

    def test_what_a_subscription_has_yet_to_pass_stays_however_old(self, store: Store) -> None:
        subscribe(store, "mail")
        subscribe(store, "audit", group="others")
        *_, last = fill(store, 3)
        go(store, last)

        assert Pruned(0, 0) == prune(store, before=NOON + timedelta(days=10_000))
        assert 3 == len(keys(store))

    def test_what_is_passed_in_some_slots_stays(self, store: Store) -> None:
        subscribe(store, "mail")
        first, *_, last = fill(store, 3)
        with store.begin() as t:
            kept = t.split(take_in(t, "ada"), 32)
        settle(store, kept, advances=move(kept, last))
        with store.begin() as t:
            other = t.take(next(c for c in t.cursors() if c.first == 32), "ada")
        assert other is not None
        settle(store, other, advances=move(other, first))

        assert Pruned(1, first) == prune(store)

    def test_a_subscription_with_a_cursor_of_its_own_is_waited_for_at_that(self, store: Store) -> None:
        subscribe(store, "mail", "audit")
        _, second, last = fill(store, 3)
        with store.begin() as t:
            t.part("default", ["audit"])
        go(store, last)
        go(store, second, name="audit")

        assert Pruned(2, second) == prune(store)

    def test_a_group_that_nobody_is_in_any_more_is_not_waited_for(self, store: Store) -> None:
        subscribe(store, "mail")
        *_, last = fill(store, 3)
        with store.begin() as t:
            t.retire("mail")

        assert Pruned(3, last) == prune(store)

    def test_who_was_not_seen_for_long_is_not_waited_for_and_what_it_missed_is_noted(
        self, store: Store, clock: VirtualClock
    ) -> None:
        subscribe(store, "mail")
        subscribe(store, "gone", group="others")
        first, second, last = fill(store, 3)
        go(store, first, group="others")
        go(store, last)
        clock.advance(60)
        subscribe(store, "mail")
        late = NOON + timedelta(seconds=30)

        assert Pruned(1, first) == prune(store, limit=1, unseen=NOON)
        assert {"gone": 0, "mail": 0} == missed(store)
        assert Pruned(2, last) == prune(store, unseen=late, dry=True)
        assert {"gone": 0, "mail": 0} == missed(store)
        assert Pruned(1, second) == prune(store, limit=1, unseen=late)
        assert Pruned(1, last) == prune(store, limit=1, unseen=late)
        assert {"gone": 2, "mail": 0} == missed(store)

    def test_who_is_known_to_a_worker_is_waited_for_however_long_it_was_not_seen(
        self, store: Store, clock: VirtualClock
    ) -> None:
        subscribe(store, "mail")
        *_, last = fill(store, 2)
        enter(store, "ada", 100, knows=frozenset({"mail"}))
        clock.advance(99)
        late = NOON + timedelta(seconds=30)
        assert Pruned(0, 0) == prune(store, unseen=late)

        clock.advance(1)
        assert Pruned(2, last) == prune(store, unseen=late)

    def test_what_is_younger_stays_even_below_older_ones(self, store: Store) -> None:
        """The clocks of two hosts need not agree."""
        append_entries(store, *(entry(key=f"user:{n}", at=NOON + n * HOUR) for n in (1, 5, 2, 6)))
        last = read_all(store)[-1].position

        assert Pruned(2, last) == prune(store, before=NOON + 3 * HOUR)
        assert ["user:5", "user:6"] == keys(store)
        assert Pruned(0, last) == prune(store, before=NOON + 5 * HOUR)

    def test_a_log_that_nobody_follows_is_pruned_by_age_alone(self, store: Store) -> None:
        *_, last = fill(store, 3)

        assert Pruned(3, last) == prune(store)

    def test_a_limit_makes_batches_each_from_where_the_last_one_ended(self, store: Store) -> None:
        positions = fill(store, 5)

        one = prune(store, limit=2)
        two = prune(store, limit=2, after=one.position)
        three = prune(store, limit=2, after=two.position)

        assert [Pruned(2, positions[1]), Pruned(2, positions[3]), Pruned(1, positions[4])] == [one, two, three]
        assert Pruned(0, positions[4]) == prune(store, limit=2, after=three.position)

    def test_a_dry_run_counts_and_removes_nothing(self, store: Store) -> None:
        positions = fill(store, 3)
        with store.begin(readonly=True) as t:
            assert Pruned(2, positions[1]) == t.prune(NOON + HOUR, 2, unseen=NOON, dry=True)

        assert 3 == len(keys(store))

    def test_deliveries_keep_their_events_when_the_log_is_pruned(self, store: Store) -> None:
        rows = bury(store, set_aside(), died("audit"))
        *_, last = fill(store, 2)
        go(store, last)

        assert Pruned(2, last) == prune(store)
        assert rows == deliveries(store)

    # --- how it stands ---

    def test_what_is_behind_is_counted_up_to_a_limit_and_its_first_is_dated(self, store: Store) -> None:
        append_entries(store, *(entry(key=f"user:{n}", at=NOON + n * HOUR) for n in (2, 1, 3)))
        first, _, last = (found.position for found in read_all(store))

        with store.begin(readonly=True) as t:
            assert t.behind(0, last, FAR) == Behind(3, NOON + 2 * HOUR)
            assert t.behind(first, last, FAR) == Behind(2, NOON + HOUR)
            assert t.behind(0, last, 2) == Behind(2, NOON + 2 * HOUR)
            assert t.behind(0, first, FAR) == Behind(1, NOON + 2 * HOUR)
            assert t.behind(last, last, FAR) == Behind()

    def test_what_is_behind_is_counted_in_ranges_of_slots(self, store: Store) -> None:
        fill(store, 40)
        inside = [e for e in read_all(store) if slot_of(e.key, e.id.bytes) in (*range(10), *range(50, 64))]

        with store.begin(readonly=True) as t:
            assert len(inside) == t.behind(0, FAR, FAR, [(0, 9), (50, 63)]).count

    def test_deliveries_set_aside_are_counted_by_subscription(self, store: Store) -> None:
        bury(store, set_aside("mail"), set_aside("mail"), died("mail"), died("audit"))

        with store.begin(readonly=True) as t:
            assert {"audit": Tally(0, 1), "mail": Tally(2, 1)} == t.tally()

    def test_nothing_stalls_where_nobody_writes(self, store: Store) -> None:
        append_entries(store, entry())

        with store.begin(readonly=True) as t:
            assert t.stall() is None


def died(subscription: str = "mail", **fields: object) -> Delivery:
    return set_aside(subscription, state="dead", **{"error": "gave up", **fields})  # type: ignore[arg-type]  # fields of a Delivery


def bury(store: Store, *rows: Delivery) -> list[Delivery]:
    settle(store, take(store), set_aside=rows)
    return deliveries(store)


def find(store: Store, selection: Selection, limit: int = FAR, after: int = 0) -> list[Delivery]:
    with store.begin(readonly=True) as t:
        return t.dead(selection, limit, after)


def fill(store: Store, count: int) -> list[int]:
    append_entries(store, *(entry(key=f"user:{number}") for number in range(1, count + 1)))
    return [found.position for found in read_all(store)]


def go(store: Store, position: int, group: str = DEFAULT_GROUP, name: str = SHARED) -> None:
    """Let a cursor pass what stands up to this position."""
    taken = take(store, "ada", group, name)
    settle(store, taken, advances=move(taken, position))


def take_in(t: Transaction, worker: str) -> Cursor:
    taken = t.take(cursor_of_in(t), worker)
    assert taken is not None
    return taken


def missed(store: Store) -> dict[str, int]:
    with store.begin(readonly=True) as t:
        return {follower.name: follower.missed for follower in t.followers()}


def keys(store: Store) -> list[str]:
    return [found.key for found in read_all(store)]
