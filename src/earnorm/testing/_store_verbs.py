"""The verbs of a store, each in a transaction of its own, and things to store: what the store suite speaks in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

from msgspec import structs

from earnorm.clock import VirtualClock
from earnorm.delivery import Attempt, Delivery
from earnorm.event import Entries, Entry
from earnorm.slots import LAST_SLOT
from earnorm.store import (
    DEFAULT_GROUP,
    SHARED,
    Advance,
    Cursor,
    Plan,
    Presence,
    Range,
    Registration,
    Settlement,
    Store,
    Waiting,
)
from earnorm.upkeep import Pruned

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FAR = 1_000_000
WHOLE: Sequence[Range] = ((0, LAST_SLOT),)


def entry(name: str = "user.updated", key: str = "user:1", **fields: Any) -> Entry:
    """An entry to append, the first of its chain."""
    made = uuid4()
    subject = key.partition(":")[0]
    words: dict[str, Any] = {"id": made, "subject": subject, "data": b"{}", "at": NOON, "correlation_id": made}
    words |= {"causation_id": None, "depth": 0, "name": name, "key": key, **fields}
    return Entry.of(**words)


def alike(count: int, **fields: Any) -> Entries:
    """Entries that differ in id, key and data alone, each the first of its chain."""
    numbers = range(count)
    words: dict[str, Any] = {"name": "user.updated", "subject": "user", "at": NOON}
    words |= {"ids": [uuid4().bytes for _ in numbers], "keys": [f"user:{n}" for n in numbers]}
    words |= {"data": [b'{"n": %d}' % n for n in numbers], **fields}
    return Entries(**words)


def set_aside(subscription: str = "mail", key: str = "user:1", due: datetime = NOON, **fields: Any) -> Delivery:
    """A delivery to be set aside."""
    words: dict[str, Any] = {"subscription": subscription, "entry": entry(key=key, position=1), "chosen": due, **fields}
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


def subscribe(store: Store, *names: str, group: str = DEFAULT_GROUP, **words: Any) -> None:
    with store.begin() as t:
        t.subscribe([Registration(name=name, group=group, **words) for name in names])


def enter(store: Store, worker: str, seconds: float = 10, **words: Any) -> None:
    with store.begin() as t:
        t.enter(Presence(worker=worker, expires=t.now() + timedelta(seconds=seconds), **words))


def cursor_of(store: Store, group: str = DEFAULT_GROUP, name: str = SHARED) -> Cursor:
    """The first row of a cursor."""
    with store.begin(readonly=True) as t:
        return next(c for c in t.cursors() if (c.group, c.name) == (group, name))


def try_take(store: Store, worker: str = "ada", group: str = DEFAULT_GROUP, name: str = SHARED) -> Cursor | None:
    with store.begin() as t:
        return t.take(cursor_of_in(t, group, name), worker)


def cursor_of_in(t: Any, group: str = DEFAULT_GROUP, name: str = SHARED) -> Cursor:
    found: Cursor = next(c for c in t.cursors() if (c.group, c.name) == (group, name))
    return found


def take(store: Store, worker: str = "ada", group: str = DEFAULT_GROUP, name: str = SHARED) -> Cursor:
    """Lease a cursor, of the subscription "mail" if there is none yet."""
    with store.begin() as t:
        if not t.cursors():
            t.subscribe([Registration(name="mail", group=group)])
        taken = t.take(cursor_of_in(t, group, name), worker)
    assert taken is not None
    return taken


def dies(store: Store, clock: VirtualClock, worker: str = "ada") -> None:
    """A worker holds the shared cursor when it dies, and is buried."""
    enter(store, worker)
    take(store, worker)
    clock.advance(10)
    with store.begin() as t:
        assert t.bury(worker)


def plan_of(store: Store, group: str = DEFAULT_GROUP) -> dict[str, Plan]:
    """Who follows a group's shared cursor now."""
    with store.begin(readonly=True) as t:
        followers = frozenset(f.name for f in t.followers() if f.group == group and not f.apart)
        return {group: Plan(t.groups()[group].generation, followers)}


def stay(cursor: Cursor) -> tuple[Advance, ...]:
    """Settle under a lease whose cursor does not move."""
    return (Advance(cursor, cursor.position),)


def move(cursor: Cursor, position: int) -> tuple[Advance, ...]:
    return (Advance(cursor, position),)


def settle(store: Store, cursor: Cursor, **parts: Any) -> None:
    with store.begin() as t:
        t.settle(settlement(cursor, **parts))


def settlement(cursor: Cursor, **parts: Any) -> Settlement:
    """Under a lease; the cursor stays where nothing else is said."""
    words: dict[str, Any] = {"worker": cursor.worker, "advances": stay(cursor), **parts}
    return Settlement(**words)


def settle_everything(store: Store, lease: Cursor) -> None:
    """Try each thing a settlement can hold."""
    first, second = deliveries(store)
    settle(
        store,
        lease,
        advances=move(lease, lease.position + 5),
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


def due(store: Store, limit: int = FAR, name: str = "mail", slots: Sequence[Range] = WHOLE) -> list[Delivery]:
    with store.begin(readonly=True) as t:
        return t.due(name, slots, limit)


def blocked(store: Store, *pairs: tuple[str, str]) -> set[tuple[str, str]]:
    with store.begin(readonly=True) as t:
        return t.blocked(pairs)


def waiting(store: Store) -> dict[str, Waiting]:
    with store.begin(readonly=True) as t:
        return t.waiting()


def prune(store: Store, before: datetime = NOON + timedelta(days=1), limit: int = FAR, **options: Any) -> Pruned:
    """Without `unseen`, every subscription is waited for."""
    unseen = options.pop("unseen", NOON - timedelta(days=10_000))
    with store.begin() as t:
        pruned = t.prune(before, limit, unseen=unseen, **options)
    assert pruned is not None
    return pruned


def positions(store: Store) -> dict[tuple[str, str, int], int]:
    """Where every cursor stands."""
    with store.begin(readonly=True) as t:
        return {cursor.place: cursor.position for cursor in t.cursors()}


def look(store: Store) -> tuple[list[Cursor], list[Delivery], int]:
    """All that a settlement could have changed."""
    with store.begin(readonly=True) as t:
        return t.cursors(), t.deliveries(), len(read_all_in(t))


def changed(
    delivery: Delivery,
    *,
    attempt: int = 1,
    due: datetime = NOON,
    state: Literal["open", "dead"] = "open",
    error: str = "",
    worker: str = "",
    suspect: bool = False,
) -> Delivery:
    """A delivery as a worker would hand it back."""
    words: dict[str, Any] = {"attempt": attempt, "chosen": due, "state": state, "error": error}
    return structs.replace(delivery, worker=worker, suspect=suspect, **words)
