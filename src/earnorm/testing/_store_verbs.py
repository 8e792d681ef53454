"""The verbs of a store, each in a transaction of its own, and things to store: what the store suite speaks in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from earnorm.delivery import Attempt, Delivery
from earnorm.event import Entries, Entry
from earnorm.store import Advance, Lease, Settlement, Store

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FAR = 1_000_000


def entry(name: str = "user.updated", key: str = "user:1", **fields: Any) -> Entry:
    """An entry to append, the first of its chain."""
    made = uuid4()
    subject = key.partition(":")[0]
    words: dict[str, Any] = {"id": made, "subject": subject, "data": b"{}", "at": NOON, "correlation_id": made}
    words |= {"causation_id": None, "depth": 0, "name": name, "key": key, **fields}
    return Entry(**words)


def alike(count: int, **fields: Any) -> Entries:
    """Entries that differ in id, key and data alone, each the first of its chain."""
    numbers = range(count)
    words: dict[str, Any] = {"name": "user.updated", "subject": "user", "at": NOON}
    words |= {"ids": [uuid4().bytes for _ in numbers], "keys": [f"user:{n}" for n in numbers]}
    words |= {"data": [b'{"n": %d}' % n for n in numbers], **fields}
    return Entries(**words)


def set_aside(subscription: str = "mail", key: str = "user:1", due: datetime = NOON, **fields: Any) -> Delivery:
    """A delivery to be set aside."""
    words: dict[str, Any] = {"subscription": subscription, "entry": entry(key=key, position=1), "due": due, **fields}
    return Delivery(**words)


def attempt(delivery: Delivery, number: int, **fields: Any) -> Attempt:
    """A failed attempt of a delivery."""
    words: dict[str, Any] = {"subscription": delivery.subscription, "event": delivery.entry.id, "number": number}
    words |= {"error": "ValueError: no", "started": NOON, "seconds": 1.5, **fields}
    return Attempt(**words)


def append(store: Store, *names: str) -> None:
    append_entries(store, *(entry(name) for name in names))


def append_entries(store: Store, *entries: Entry) -> None:
    with store.begin() as t:
        t.append(entries)


def append_alike(store: Store, entries: Entries) -> None:
    with store.begin() as t:
        t.append_many(entries)


def read_all(store: Store) -> list[Entry]:
    with store.begin(readonly=True) as t:
        return read_all_in(t)


def read_all_in(t: Any) -> list[Entry]:
    found: list[Entry] = t.read(0, FAR, FAR)
    return found


def subscribe(store: Store, *names: str) -> None:
    with store.begin() as t:
        t.subscribe(names)


def claim(store: Store, worker: str = "ada", seconds: float = 10) -> Lease:
    with store.begin() as t:
        lease = t.claim(worker, seconds)
    assert lease is not None
    return lease


def settle(store: Store, lease: Lease, **parts: Any) -> None:
    with store.begin() as t:
        t.settle(lease, Settlement(**parts))


def settle_everything(store: Store, lease: Lease) -> None:
    """Try each thing a settlement can hold."""
    first, second = deliveries(store)
    settle(
        store,
        lease,
        advances={"mail": Advance(0, 5)},
        set_aside=[set_aside("audit")],
        rescheduled=[changed(first, attempt=2)],
        finished=[second.id],
    )


def deliveries(store: Store) -> list[Delivery]:
    with store.begin(readonly=True) as t:
        return t.deliveries()


def attempts(store: Store, delivery: int) -> list[Attempt]:
    with store.begin(readonly=True) as t:
        return t.attempts(delivery)


def due(store: Store, limit: int = FAR) -> list[Delivery]:
    with store.begin(readonly=True) as t:
        return t.due(limit)


def blocked(store: Store, *pairs: tuple[str, str]) -> set[tuple[str, str]]:
    with store.begin(readonly=True) as t:
        return t.blocked(pairs)


def open_(store: Store) -> tuple[int, datetime | None]:
    with store.begin(readonly=True) as t:
        return t.open()


def look(store: Store) -> tuple[dict[str, int], list[Delivery]]:
    """All that a settlement could have changed."""
    with store.begin(readonly=True) as t:
        return t.cursors(), t.deliveries()


def changed(
    delivery: Delivery,
    *,
    attempt: int = 1,
    due: datetime = NOON,
    state: Literal["open", "dead"] = "open",
    error: str = "",
) -> Delivery:
    """A delivery as a worker would hand it back."""
    return Delivery(
        subscription=delivery.subscription,
        entry=delivery.entry,
        due=due,
        attempt=attempt,
        ordered=delivery.ordered,
        state=state,
        error=error,
        id=delivery.id,
    )
