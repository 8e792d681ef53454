"""The store suite: what every store must do, as tests for a backend to inherit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from earnorm.clock import VirtualClock
from earnorm.slots import slot_of
from earnorm.store import Presence, Registration, Store
from earnorm.testing._store_attempts import AttemptSuite
from earnorm.testing._store_deliveries import DeliverySuite
from earnorm.testing._store_keys import KeySuite
from earnorm.testing._store_leases import LeaseSuite
from earnorm.testing._store_settling import SettlingSuite
from earnorm.testing._store_subscriptions import SubscriptionSuite
from earnorm.testing._store_upkeep import UpkeepSuite
from earnorm.testing._store_verbs import (
    FAR,
    NOON,
    WHOLE,
    alike,
    append,
    append_alike,
    append_entries,
    cursor_of_in,
    entry,
    prune,
    read_all,
    read_all_in,
    set_aside,
    settlement,
)
from earnorm.upkeep import Pruned

__all__ = ["StoreSuite"]


class StoreSuite(SubscriptionSuite, LeaseSuite, SettlingSuite, DeliverySuite, AttemptSuite, KeySuite, UpkeepSuite):
    """Inherit it, and give the fixtures below: `store`, and how to join it.

    ```python
    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self, clock):
            return MyStore(clock)
    ```
    """

    @pytest.fixture
    def clock(self) -> VirtualClock:
        """The clock `store` is to tell time by."""
        return VirtualClock(NOON)

    @pytest.fixture
    def store(self, clock: VirtualClock) -> Store:
        """An empty store."""
        raise NotImplementedError("a backend gives its own store")

    @pytest.fixture
    def caller(self, store: Store) -> Callable[[], AbstractContextManager[Any]]:
        """Opens a transaction of a caller's own: its value is what `store.join` takes."""
        raise NotImplementedError("a backend says what can be joined")

    # --- append and read ---

    def test_what_was_appended_is_read_in_order(self, store: Store) -> None:
        append(store, "user.created", "user.updated")
        append(store, "user.deleted")

        read = read_all(store)

        assert [e.name for e in read] == ["user.created", "user.updated", "user.deleted"]
        assert [e.position for e in read] == sorted({e.position for e in read})
        assert read[0].position > 0

    def test_an_entry_comes_back_as_it_went_in(self, store: Store) -> None:
        sent = entry(
            name="café.geöffnet",
            subject="café",
            key="café:Ω \U0001f600 ' \" ; --",
            data=bytes(range(256)),
            at=datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-5))),
            correlation_id=UUID(int=0),
            causation_id=UUID(int=2**128 - 1),
            depth=31,
            tenant="",
            version=7,
        )
        append_entries(store, sent)

        read = read_all(store)

        assert read == [structs.replace(sent, position=read[0].position)]

    @pytest.mark.parametrize("year", [1, 1969, 2026, 9999])
    def test_a_time_keeps_its_microseconds_in_any_year(self, store: Store, year: int) -> None:
        at = datetime(year, 6, 1, 1, 2, 3, 456_789, tzinfo=UTC)
        append_entries(store, entry(at=at))

        assert [at] == [e.at for e in read_all(store)]

    def test_many_are_appended_in_order(self, store: Store) -> None:
        sent = [entry(key=f"user:{number}") for number in range(3_333)]
        append_entries(store, *sent)

        assert [e.key for e in sent] == [e.key for e in read_all(store)]

    def test_appending_nothing_is_nothing(self, store: Store) -> None:
        append_entries(store)
        append_alike(store, alike(0))

        assert read_all(store) == []

    @pytest.mark.parametrize("count", [1, 2, 200, 4_321])
    def test_many_alike_are_appended_as_if_one_by_one(self, store: Store, count: int) -> None:
        sent = alike(count)
        append(store, "before")
        append_alike(store, sent)
        append(store, "after")

        first, *read, last = read_all(store)

        assert ("before", "after") == (first.name, last.name)
        assert [structs.replace(e, position=0) for e in read] == list(sent)
        assert [e.position for e in read] == sorted({e.position for e in read})

    def test_entries_alike_come_back_as_they_went_in(self, store: Store) -> None:
        sent = alike(
            3,
            keys=["café:Ω \U0001f600 ' \" ; --", "\\u0041\n\t{}[],", ""],
            data=[bytes(range(256)), b"", b"\\x00"],
            name="café.geöffnet",
            at=datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-5))),
            correlation_id=UUID(int=0),
            causation_id=UUID(int=2**128 - 1),
            depth=31,
            tenant="",
            version=7,
        )
        append_alike(store, sent)

        assert list(sent) == [structs.replace(e, position=0) for e in read_all(store)]

    def test_read_begins_past_after_ends_with_upto_and_holds_the_limit(self, store: Store) -> None:
        append(store, *"abcdef")
        a, b, c, d, e, f = [e.position for e in read_all(store)]

        with store.begin(readonly=True) as t:
            assert [b, c, d] == [e.position for e in t.read(a, d, FAR)]
            assert [b, c] == [e.position for e in t.read(a, f, 2)]
            assert t.read(e, e, FAR) == []
            assert t.read(f, FAR, FAR) == []
            assert t.read(0, f, 0) == []

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_read_ends_with_the_entry_that_makes_the_room_full(self, store: Store, size: int) -> None:
        append_entries(store, *(entry(name, data=bytes(size)) for name in "abcde"), entry("f"))
        places = [read.position for read in read_all(store)]

        with store.begin(readonly=True) as t:
            read = t.read(0, FAR, FAR, room=2 * size + 1)
            assert [(p, bytes(size)) for p in places[:3]] == [(e.position, e.data) for e in read]
            assert places[:2] == [e.position for e in t.read(0, FAR, FAR, room=2 * size)]
            assert places[1:2] == [e.position for e in t.read(places[0], FAR, FAR, WHOLE, 1)]
            assert places[:1] == [e.position for e in t.read(0, FAR, 1, room=2 * size)]
            assert places == [e.position for e in t.read(0, FAR, FAR, room=6 * size)]
            assert places == [e.position for e in t.read(0, FAR, FAR)]

    def test_a_rollback_leaves_nothing(self, store: Store) -> None:
        append(store, "kept")
        with pytest.raises(ZeroDivisionError), store.begin() as t:
            t.append([entry("lost")])
            t.subscribe([Registration(name="mail")])
            t.enter(Presence(worker="ada", expires=NOON))
            lease = t.take(cursor_of_in(t), "ada")
            assert lease
            t.settle(settlement(lease, set_aside=[set_aside()]))
            raise ZeroDivisionError

        assert ["kept"] == [e.name for e in read_all(store)]
        with store.begin() as t:
            assert ([], {}, [], []) == (t.followers(), t.groups(), t.cursors(), t.workers())
            assert [] == t.deliveries()

    def test_what_a_caller_appends_commits_with_the_caller(
        self, store: Store, caller: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        with caller() as connection:
            store.join(connection).append([entry("kept")])
        with pytest.raises(ZeroDivisionError), caller() as connection:
            store.join(connection).append([entry("lost")])
            raise ZeroDivisionError

        assert ["kept"] == [e.name for e in read_all(store)]

    def test_a_transaction_sees_its_own_writes(self, store: Store) -> None:
        with store.begin() as t:
            t.append([entry("mine")])

            assert ["mine"] == [e.name for e in t.read(0, FAR, FAR)]

    # --- the horizon, and find ---

    def test_the_horizon_of_an_empty_log_is_zero(self, store: Store) -> None:
        with store.begin(readonly=True) as t:
            assert t.horizon() == 0

    def test_the_horizon_is_the_last_position_once_all_have_committed(self, store: Store) -> None:
        append(store, *"abc")

        with store.begin(readonly=True) as t:
            assert t.horizon() == read_all_in(t)[-1].position

    def test_positions_of_a_pruned_log_are_not_given_out_again(self, store: Store) -> None:
        append(store, *"abc")
        with store.begin(readonly=True) as t:
            passed = t.horizon()
        assert prune(store) == Pruned(3, passed)

        with store.begin(readonly=True) as t:
            assert (passed, []) == (t.horizon(), read_all_in(t))
        append(store, "d")
        with store.begin(readonly=True) as t:
            assert ["d"] == [e.name for e in t.read(passed, t.horizon(), FAR)]

    def test_a_range_of_slots_is_read_apart(self, store: Store) -> None:
        sent = [entry(key=f"user:{number}" if number % 4 else "") for number in range(200)]
        append_entries(store, *sent)
        slots = [slot_of(e.key, e.id.bytes) for e in sent]

        with store.begin(readonly=True) as t:
            for ranges in ([(0, 31)], [(5, 5), (40, 63)], [(0, 63)], []):
                inside = [e.id for e, n in zip(sent, slots, strict=True) if any(a <= n <= b for a, b in ranges)]
                assert (inside if ranges else [e.id for e in sent]) == [e.id for e in t.read(0, FAR, FAR, ranges)]
                assert inside[:7] == [e.id for e in t.read(0, FAR, 7, ranges)] or not ranges

    def test_entries_alike_have_their_slots_too(self, store: Store) -> None:
        sent = alike(100, keys=[f"user:{number}" if number % 4 else "" for number in range(100)])
        append_alike(store, sent)
        inside = [e.id for e in sent if slot_of(e.key, e.id.bytes) < 20]

        with store.begin(readonly=True) as t:
            assert inside == [e.id for e in t.read(0, FAR, FAR, [(0, 19)])]

    def test_find_gives_the_first_of_that_record_and_name_past_a_position(self, store: Store) -> None:
        append_entries(
            store,
            entry("user.deleted", "user:1"),
            entry("user.deleted", "user:2"),
            entry("user.created", "user:1"),
            entry("user.deleted", "user:1"),
            entry("user.deleted", "user:1"),
        )
        first, _, _, second, last = read_all(store)

        with store.begin(readonly=True) as t:
            assert t.find("user:1", "user.deleted", 0) == first
            assert t.find("user:1", "user.deleted", first.position) == second
            assert t.find("user:1", "user.deleted", last.position) is None
            assert t.find("user:3", "user.deleted", 0) is None
