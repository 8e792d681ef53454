"""Rows of the tables ⇄ the values of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from msgspec import ValidationError, convert, json

from earnorm._uuid7 import uuid_of
from earnorm.bundle import Bundle
from earnorm.delivery import Attempt, Delivery
from earnorm.emission import IdempotencyKey
from earnorm.event import Entries, Entry
from earnorm.instants import microseconds, to_time
from earnorm.slots import slot_of
from earnorm.store import Cursor, Follower, Group, Presence, Waiting

__all__ = [
    "attempt_row",
    "delivery_row",
    "entry_row",
    "key_row",
    "log_rows",
    "parse_id",
    "presence_row",
    "rescheduling",
    "shared_row",
    "to_attempt",
    "to_cursor",
    "to_delivery",
    "to_entries",
    "to_entry",
    "to_follower",
    "to_groups",
    "to_key",
    "to_presence",
    "to_waiting",
]


def parse_id(text: str) -> bytes:
    """An event id as the tables hold it; what is no id matches no row."""
    try:
        return UUID(text).bytes
    except ValueError:
        return b""


def entry_row(entry: Entry) -> tuple[Any, ...]:
    """The columns of the log but its position."""
    id_, key = entry.raw_id, entry.key
    return (
        id_,
        entry.name,
        entry.subject,
        key,
        entry.data,
        entry.raw_at,
        entry.raw_correlation_id,
        entry.raw_causation_id,
        entry.depth,
        entry.tenant,
        entry.version,
        slot_of(key, id_),
    )


def log_rows(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """The columns of the log but its position; without the last one, their due, if none of them has any."""
    if len(entries) == 1 and entries[0].raw_due is None:
        return [entry_row(entries[0])]
    rows = [entry_row(entry) for entry in entries]
    dues = [entry.raw_due for entry in entries]
    if dues.count(None) == len(dues):
        return rows
    return [(*row, due) for row, due in zip(rows, dues, strict=True)]


def key_row(key: IdempotencyKey) -> tuple[Any, ...]:
    return (*key.place, key.event.bytes, key.digest, microseconds(key.at))


def to_key(row: Any) -> IdempotencyKey:
    tenant, name, text, event, digest, at = row
    return IdempotencyKey(
        tenant=tenant, name=name, text=text, event=uuid_of(int.from_bytes(event)), digest=digest, at=to_time(at)
    )


def shared_row(entries: Entries | Bundle) -> tuple[Any, ...]:
    """What they share, in the order of SHARED_COLUMNS; no correlation id means that each is its own."""
    correlation, cause = entries.correlation_id, entries.causation_id
    return (
        entries.name,
        entries.subject,
        microseconds(entries.at),
        None if correlation is None else correlation.bytes,
        None if cause is None else cause.bytes,
        entries.depth,
        entries.tenant,
        entries.version,
    )


def to_entry(row: Any) -> Entry:
    """Of a position, an id, ENTRY_COLUMNS and a due, or of the first of those (`width`)."""
    position, id_, name, subject, key, data, at, correlation_id, causation_id, *others = row
    depth, tenant, version, due = others or (0, None, 1, None)
    return Entry(
        position=position,
        raw_id=id_,
        name=name,
        subject=subject,
        key=key,
        data=data,
        raw_at=at,
        raw_correlation_id=correlation_id,
        raw_causation_id=causation_id,
        depth=depth,
        tenant=tenant,
        version=version,
        raw_due=due,
    )


def to_entries(rows: Sequence[Any]) -> list[Entry]:
    """`to_entry` of each, in a fraction of the time."""
    try:
        return convert(rows, list[Entry], builtin_types=(bytes,))
    except ValidationError:
        # What we never write, such as text for bytes. Each is taken as it is.
        return [to_entry(row) for row in rows]


def delivery_row(delivery: Delivery) -> tuple[Any, ...]:
    """The columns of a delivery but its id."""
    return (
        delivery.subscription,
        microseconds(delivery.due),
        delivery.attempt,
        delivery.ordered,
        delivery.state,
        delivery.error,
        delivery.fingerprint,
        delivery.entry.position,
        *entry_row(delivery.entry),
        delivery.worker,
        delivery.suspect,
    )


def rescheduling(delivery: Delivery) -> dict[str, Any]:
    return {
        "row": delivery.id,
        "to_attempt": delivery.attempt,
        "to_due": microseconds(delivery.due),
        "to_state": delivery.state,
        "to_error": delivery.error,
        "to_fingerprint": delivery.fingerprint,
        "to_worker": delivery.worker,
        "to_suspect": delivery.suspect,
    }


def to_delivery(row: Any) -> Delivery:
    """Of all columns of its table."""
    id_, subscription, due, attempt, ordered, state, error, fingerprint, *entry, _slot, worker, suspect = row
    return Delivery(
        id=id_,
        subscription=subscription,
        entry=to_entry((*entry, None)),
        chosen=to_time(due),
        attempt=attempt,
        ordered=bool(ordered),
        state=state,
        error=error,
        fingerprint=fingerprint,
        worker=worker,
        suspect=bool(suspect),
    )


def attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    """The columns of an attempt but its id."""
    return (
        attempt.subscription,
        attempt.event.bytes,
        attempt.number,
        attempt.error,
        microseconds(attempt.started),
        round(attempt.seconds * 1_000_000),
        attempt.traceback,
        attempt.fingerprint,
        attempt.version,
        attempt.worker,
    )


def to_attempt(row: Any) -> Attempt:
    """Of all columns of its table but its id."""
    subscription, event, number, error, started, duration, traceback, fingerprint, version, worker = row
    return Attempt(
        subscription=subscription,
        event=uuid_of(int.from_bytes(event)),
        number=number,
        error=error,
        started=to_time(started),
        seconds=duration / 1_000_000,
        traceback=traceback,
        fingerprint=fingerprint,
        version=version,
        worker=worker,
    )


def to_follower(row: Any) -> Follower:
    name, group, start, apart, paused, seen, missed = row
    words: dict[str, Any] = {"apart": bool(apart), "paused": bool(paused), "seen": to_time(seen), "missed": missed}
    return Follower(name=name, group=group, start=start, **words)


def to_cursor(row: Any) -> Cursor:
    group, name, first, last, position, worker, fence, deaths = row
    words: dict[str, Any] = {"position": position, "worker": worker, "fence": fence, "deaths": deaths}
    return Cursor(group=group, name=name, first=first, last=last, **words)


def to_presence(row: Any) -> Presence:
    worker, expires, dedicated, idle, knows = row
    words: dict[str, Any] = {"dedicated": bool(dedicated), "idle": bool(idle), "knows": _known(knows)}
    return Presence(worker=worker, expires=to_time(expires), **words)


@lru_cache(maxsize=64)
def _known(knows: str) -> frozenset[str]:
    """Workers of one version know the same, and are looked at again and again."""
    return json.decode(knows.encode(), type=frozenset[str])


def presence_row(presence: Presence) -> tuple[Any, ...]:
    knows = json.encode(sorted(presence.knows)).decode()
    return presence.worker, microseconds(presence.expires), presence.dedicated, presence.idle, knows


def to_groups(rows: Iterable[Any]) -> dict[str, Group]:
    return {name: Group(name, generation, bool(paused)) for name, generation, paused in rows}


def to_waiting(rows: Iterable[Any]) -> dict[str, Waiting]:
    return {name: Waiting(None if due is None else to_time(due), bool(running)) for name, due, running in rows}
