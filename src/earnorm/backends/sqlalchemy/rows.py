"""Rows of the tables ⇄ the values of the contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, SafeUUID

from earnorm.delivery import Attempt, Delivery
from earnorm.event import Entries, Entry

__all__ = [
    "attempt_row",
    "delivery_row",
    "entry_row",
    "microseconds",
    "parse_id",
    "rescheduling",
    "shared_row",
    "to_attempt",
    "to_delivery",
    "to_entry",
    "to_id",
    "to_time",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# A UUID refuses setattr; its slots do not.
_set_int = vars(UUID)["int"].__set__
_set_safe = vars(UUID)["is_safe"].__set__


def microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def to_time(at: int) -> datetime:
    # Not fromtimestamp: a float of seconds is exact to the microsecond for some centuries only.
    return _EPOCH + timedelta(0, 0, at)


def to_id(sixteen: bytes) -> UUID:
    """`UUID(bytes=sixteen)` without its many questions: 0.25 µs, not 0.85, two or three times an entry read."""
    new = UUID.__new__(UUID)
    _set_int(new, int.from_bytes(sixteen, "big"))
    _set_safe(new, SafeUUID.unknown)
    return new


def parse_id(text: str) -> bytes:
    """An event id as the tables hold it; what is no id matches no row."""
    try:
        return UUID(text).bytes
    except ValueError:
        return b""


def entry_row(entry: Entry) -> tuple[Any, ...]:
    """The columns of the log but its position."""
    cause = entry.causation_id
    return (
        entry.id.bytes,
        entry.name,
        entry.subject,
        entry.key,
        entry.data,
        microseconds(entry.at),
        entry.correlation_id.bytes,
        None if cause is None else cause.bytes,
        entry.depth,
        entry.tenant,
        entry.version,
    )


def shared_row(entries: Entries) -> tuple[Any, ...]:
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
    """Of a position, an id and ENTRY_COLUMNS."""
    position, id_, name, subject, key, data, at, correlation_id, causation_id, depth, tenant, version = row
    event_id = to_id(id_)
    return Entry(
        id=event_id,
        name=name,
        subject=subject,
        key=key,
        data=data,
        at=to_time(at),
        # The first event of a chain, as most are, correlates with itself.
        correlation_id=event_id if correlation_id == id_ else to_id(correlation_id),
        causation_id=None if causation_id is None else to_id(causation_id),
        depth=depth,
        tenant=tenant,
        version=version,
        position=position,
    )


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
    )


def rescheduling(delivery: Delivery) -> dict[str, Any]:
    return {
        "row": delivery.id,
        "to_attempt": delivery.attempt,
        "to_due": microseconds(delivery.due),
        "to_state": delivery.state,
        "to_error": delivery.error,
        "to_fingerprint": delivery.fingerprint,
    }


def to_delivery(row: Any) -> Delivery:
    """Of all columns of its table."""
    id_, subscription, due, attempt, ordered, state, error, fingerprint, *entry = row
    return Delivery(
        id=id_,
        subscription=subscription,
        entry=to_entry(entry),
        due=to_time(due),
        attempt=attempt,
        ordered=bool(ordered),
        state=state,
        error=error,
        fingerprint=fingerprint,
    )


def attempt_row(attempt: Attempt, worker: str) -> tuple[Any, ...]:
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
        worker,
    )


def to_attempt(row: Any) -> Attempt:
    """Of all columns of its table but its id."""
    subscription, event, number, error, started, duration, traceback, fingerprint, version, worker = row
    return Attempt(
        subscription=subscription,
        event=to_id(event),
        number=number,
        error=error,
        started=to_time(started),
        seconds=duration / 1_000_000,
        traceback=traceback,
        fingerprint=fingerprint,
        version=version,
        worker=worker,
    )
