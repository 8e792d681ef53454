"""The store suite's third part: idempotency keys, and entries that are emitted for later."""

# ruff: noqa: SIM300  expected == actual

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import structs

from earnorm.emission import IdempotencyKey
from earnorm.store import Store
from earnorm.testing._store_verbs import (
    NOON,
    append_entries,
    deliveries,
    entry,
    read_all,
    set_aside,
    settle,
    take,
)

LATER = NOON + timedelta(hours=1, microseconds=1)


def key(
    text: str = "r1", name: str = "user.paid", tenant: str = "", at: datetime = NOON, **words: Any
) -> IdempotencyKey:
    """An idempotency key that an event asks for."""
    given: dict[str, Any] = {"event": uuid4(), "digest": b"\x00\xff", **words}
    return IdempotencyKey(tenant=tenant, name=name, text=text, at=at, **given)


def reserve(store: Store, *keys: IdempotencyKey) -> dict[UUID, IdempotencyKey]:
    with store.begin() as t:
        return t.reserve(keys)


def reserved(store: Store, asked: IdempotencyKey) -> IdempotencyKey | None:
    with store.begin(readonly=True) as t:
        return t.reserved(*asked.place)


class KeySuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    # --- idempotency keys ---

    def test_a_key_is_taken_once(self, store: Store) -> None:
        first, second = key(), key(digest=b"other", at=LATER)

        assert reserve(store, first) == {}
        assert reserve(store, second) == {second.event: first}
        assert first == reserved(store, second)

    def test_a_key_is_of_one_tenant_and_one_event_name(self, store: Store) -> None:
        apart = [key(), key(name="user.left"), key(tenant="acme"), key("r2")]

        assert reserve(store, *apart) == {}
        assert apart == [reserved(store, one) for one in apart]

    def test_of_one_key_twice_at_once_the_earlier_event_has_it(self, store: Store) -> None:
        early, late = key(event=UUID(int=1)), key(event=UUID(int=2))

        assert {late.event: early} == reserve(store, late, early)

    def test_many_keys_are_taken_at_once(self, store: Store) -> None:
        first = [key(f"r{number}") for number in range(1_234)]
        again = [key(f"r{number}") for number in range(1_000, 2_000)]
        reserve(store, *first)

        taken = reserve(store, *again)

        assert 234 == len(taken)
        assert taken[again[233].event] == first[1_233]

    def test_reserving_nothing_is_nothing(self, store: Store) -> None:
        assert reserve(store) == {}
        assert reserved(store, key()) is None

    def test_a_key_goes_with_its_transaction(self, store: Store) -> None:
        taken = key()
        with suppress(ZeroDivisionError), store.begin() as t:
            t.reserve([taken])
            raise ZeroDivisionError

        assert reserved(store, taken) is None

    def test_keys_are_taken_in_the_transaction_that_is_joined(
        self, store: Store, caller: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        taken = key()
        with caller() as connection:
            store.join(connection).reserve([taken])

        assert taken == reserved(store, taken)

    def test_old_keys_are_forgotten_the_oldest_first(self, store: Store) -> None:
        ages = [key(f"r{hours}", at=NOON + timedelta(hours=hours)) for hours in (3, 1, 2)]
        reserve(store, *ages)

        with store.begin() as t:
            assert 1 == t.forget_keys(NOON + timedelta(hours=3), limit=1)
        assert [True, False, True] == [reserved(store, one) is not None for one in ages]
        with store.begin() as t:
            assert 1 == t.forget_keys(NOON + timedelta(hours=3), limit=100)
        assert [True, False, False] == [reserved(store, one) is not None for one in ages]

    def test_a_key_is_kept_while_its_event_waits_for_its_time(self, store: Store) -> None:
        """A reminder planned for longer than the retention was planned a second time."""
        lease, waiting, dead = take(store), set_aside(), set_aside(key="user:2", state="dead")
        settle(store, lease, set_aside=[waiting, dead])
        keys = [key("waiting", event=waiting.entry.id), key("dead", event=dead.entry.id)]
        reserve(store, *keys)

        with store.begin() as t:
            assert 1 == t.forget_keys(NOON + timedelta(hours=3), limit=100)
        assert [True, False] == [reserved(store, one) is not None for one in keys]

    def test_what_a_handler_emitted_under_a_taken_key_is_left_out(self, store: Store) -> None:
        lease = take(store)
        first, again = entry("user.paid"), entry("user.paid")
        settle(store, lease, emitted=[entry("user.seen"), first], keys=[key(event=first.id)])
        settle(store, lease, emitted=[again], keys=[key(event=again.id)])

        assert ["user.seen", "user.paid"] == [e.name for e in read_all(store)]

    def test_one_that_says_something_else_is_told(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        lease = take(store)
        first, same, other = (entry("user.paid") for _ in range(3))
        settle(store, lease, emitted=[first], keys=[key(event=first.id)])
        settle(store, lease, emitted=[same], keys=[key(event=same.id)])
        assert not caplog.records
        settle(store, lease, emitted=[other], keys=[key(event=other.id, digest=b"another")])

        (told,) = caplog.messages
        assert told.startswith(f"user.paid: the key 'r1' belongs to event {first.id}")
        assert [first.id] == [e.id for e in read_all(store)]

    # --- later ---

    def test_an_entry_keeps_its_due(self, store: Store) -> None:
        sent = [entry("user.asked", due=LATER), entry("user.seen")]
        append_entries(store, *sent)

        assert [LATER, None] == [e.due for e in read_all(store)]

    def test_set_aside_it_has_a_due_of_its_own(self, store: Store) -> None:
        aside = set_aside(entry=entry("user.asked", due=LATER, position=1), due=NOON)
        settle(store, take(store), set_aside=[aside])

        (found,) = deliveries(store)
        assert (NOON, None) == (found.due, found.entry.due)

    def test_an_entry_is_found_by_its_event(self, store: Store) -> None:
        sent = entry("user.asked", due=LATER)
        append_entries(store, entry(), sent, entry())

        with store.begin(readonly=True) as t:
            found = t.get(sent.id)
            assert found is not None
            assert structs.replace(sent, position=found.position) == found
            assert t.get(uuid4()) is None
