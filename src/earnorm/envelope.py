"""The envelope: an Event as the Entry the log keeps, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

from msgspec import json

from earnorm.codec import (
    Refer,
    Resolve,
    decode,
    decode_identity,
    encode,
    encode_flat,
    encode_record,
    encode_records,
    encode_values,
)
from earnorm.errors import PayloadError
from earnorm.event import NO_CHANGES, Change, Changes, Entry, Event, Origin
from earnorm.instants import microseconds, microseconds_of
from earnorm.strange import Strange

__all__ = [
    "bare_event_of",
    "encode_all_changes",
    "encode_change",
    "encode_payload",
    "entry_of",
    "event_of",
    "fingerprint",
    "identity_of",
    "payload_of",
]

_DAMAGED = "the log's entry is damaged"


def encode_payload(payload: Mapping[str, Any], identity: Sequence[Any], refer: Refer) -> bytes:
    """The data of a custom event. Raises PayloadError for what could not be read back as it was."""
    if (flat := encode_flat(identity, payload)) is not None:
        return flat
    try:
        return encode({"identity": list(identity), "payload": payload}, refer=refer)
    except PayloadError as error:
        raise PayloadError(error.path.removeprefix("payload."), error.value, error.why) from None


def encode_change(
    identity: Sequence[Any],
    payload: Mapping[str, Any],
    changes: Changes,
    refer: Refer,
    hidden: Collection[str] = (),
) -> bytes:
    """The data of a lifecycle event. It never refuses: what cannot be kept is left out, its name in "omitted".

    The name of a hidden (sensitive) or omitted field is kept among the changes, its values are not.
    """
    if not hidden:
        plain = encode_record(identity, payload, changes, refer=refer)
        if plain is not None:
            return plain
    seen = {name: value for name, value in payload.items() if name not in hidden}
    pairs = {name: [change.old, change.new] for name, change in changes.items() if name not in hidden}
    silent = [name for name in changes if name in hidden]
    data: dict[str, Any] = {"identity": list(identity), "payload": seen, "changes": pairs}
    if silent:
        data["hidden"] = silent
    try:
        return encode(data, refer=refer)
    except PayloadError:
        return _encode_what_fits(data, refer)


def encode_all_changes(
    identities: Sequence[Sequence[Any]],
    payloads: Sequence[Mapping[str, Any]],
    changes: Sequence[Changes],
    refer: Refer,
    hidden: frozenset[str] = frozenset(),
) -> list[bytes]:
    """`encode_change` of each of many records."""
    parts = zip(identities, payloads, changes, strict=True)
    if hidden and not all(map(hidden.isdisjoint, changes)):
        return [encode_change(*part, refer, hidden) for part in parts]
    if hidden:
        payloads = [{name: value for name, value in each.items() if name not in hidden} for each in payloads]
    written = encode_records(identities, payloads, changes, refer=refer)
    return [
        encode_change(*part, refer, hidden) if data is None else data for data, part in zip(written, parts, strict=True)
    ]


def _encode_what_fits(data: dict[str, Any], refer: Refer) -> bytes:
    _, unfit = encode_values(data["payload"], refer)
    _, unfit_changes = encode_values(data["changes"], refer)
    omitted = {*unfit, *unfit_changes}
    payload = {name: value for name, value in data["payload"].items() if name not in omitted}
    changes = {name: pair for name, pair in data["changes"].items() if name not in omitted}
    silent = [*data.get("hidden", ()), *sorted(name for name in data["changes"] if name in omitted)]
    kept = {**data, "payload": payload, "changes": changes, "omitted": sorted(omitted), "hidden": silent}
    try:
        return encode(kept, refer=refer)
    except PayloadError:
        # Each value fits, all of them together do not: the names alone stay.
        names = sorted({*data["payload"], *data["changes"]})
        silent = [*data.get("hidden", ()), *sorted(data["changes"])]
        bare = {"identity": data["identity"], "payload": {}, "changes": {}, "omitted": names, "hidden": silent}
        return encode(bare, refer=refer)


def fingerprint(key: str, data: bytes) -> bytes:
    """Of a record and an event's data, whatever the order of its keys: the same for two emits that say the same."""
    canonical = json.encode(json.decode(data), order="sorted")
    return blake2b(key.encode() + b"\0" + canonical, digest_size=16).digest()


def entry_of(event: Event, data: bytes, due: datetime | None = None) -> Entry:
    # Read once: each of the event's own words for these is a call, and every commit makes an entry.
    id_, origin = event.id.bytes, event.origin
    first, cause = origin.correlation_id, origin.causation_id
    return Entry(
        raw_id=id_,
        name=event.name,
        subject=event.key.partition(":")[0],
        key=event.key,
        data=data,
        raw_at=microseconds_of(event._seconds),
        raw_correlation_id=id_ if first is None else first.bytes,
        raw_causation_id=None if cause is None else cause.bytes,
        depth=origin.depth,
        tenant=origin.tenant,
        version=origin.version,
        raw_due=None if due is None else microseconds(due),
    )


def event_of(
    entry: Entry,
    *,
    attempt: int = 1,
    database: str = "",
    resolve: Resolve | None = None,
    strange: Strange | None = None,
) -> Event:
    """The event as handlers see it, without its subject; `resolve` loads models that its payload refers to.

    `strange` makes of its model's stored values what its attributes have. Raises PayloadError for data that cannot be
    read.
    """
    data = _read(entry, resolve)
    changes: Changes = NO_CHANGES
    if "changes" in data or "hidden" in data:
        try:
            changes = {name: Change(*pair) for name, pair in _part(data, "changes").items()}
            changes |= {name: Change(None, None) for name in data.get("hidden", ())}
        except TypeError:
            raise PayloadError("changes", data, f"{_DAMAGED}: expected pairs of an old and a new value") from None
    payload = _payload(data)
    if strange is not None:
        payload, changes = strange.native_values(payload), strange.native_changes(changes)
    return Event(
        entry.name,
        None,
        payload,
        changes,
        entry.key,
        _origin_of(entry, attempt, database),
        _id=entry.id,
        _at=entry.raw_at / 1e6,
    )


def payload_of(entry: Entry, resolve: Resolve | None = None) -> Mapping[str, Any]:
    """`event_of(entry).payload`, without the event. Raises PayloadError."""
    return _payload(_read(entry, resolve))


def _read(entry: Entry, resolve: Resolve | None) -> dict[str, Any]:
    return decode(entry.data) if resolve is None else decode(entry.data, resolve=resolve)


def _payload(data: dict[str, Any]) -> Mapping[str, Any]:
    payload = data.get("payload")
    return payload if type(payload) is dict else _part(data, "payload")


def bare_event_of(entry: Entry, *, attempt: int = 1, database: str = "") -> Event:
    """The event as far as it can be known without its data, which may be damaged."""
    origin = _origin_of(entry, attempt, database)
    return Event(entry.name, key=entry.key, origin=origin, _id=entry.id, _at=entry.raw_at / 1e6)


def _origin_of(entry: Entry, attempt: int, database: str) -> Origin:
    return Origin(
        causation_id=entry.causation_id,
        correlation_id=entry.correlation_id,
        depth=entry.depth,
        database=database,
        tenant=entry.tenant,
        version=entry.version,
        position=entry.position,
        attempt=attempt,
    )


def identity_of(entry: Entry) -> tuple[Any, ...]:
    """The primary key's values, with their types."""
    identity = decode_identity(entry.data)
    if not isinstance(identity, Sequence) or isinstance(identity, str):
        raise PayloadError("identity", identity, f"{_DAMAGED}: expected an array")
    return tuple(identity)


def _part(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name, {})
    if not isinstance(part, dict):
        raise PayloadError(name, part, f"{_DAMAGED}: expected an object")
    return part
