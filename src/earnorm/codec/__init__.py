"""The codec: plain data ⇄ JSON bytes, keeping types. It knows no models; they come and go as references.

What JSON has no word for is written as an object with one key that starts with a dollar sign:

    {"$datetime": "2026-01-31T12:00:00+01:00"}   $date $time $decimal $uuid $bytes $int (beyond 64 bits)
    {"$timedelta": [days, seconds, microseconds]}
    {"$enum": ["app.models.Color", "RED", 1]}    class, name, value
    {"$object": ["order.placed", {...}]}         a dataclass, Struct or pydantic model: its name and fields
    {"$ref": ["user", [42]]}                     a model: subject and primary key
    {"$stored": 42}                              a part of a primary key that is no plain data, as its column stores it

A dictionary's own keys that start with "$" get a second one, so every dictionary comes back as it was.
Reading imports nothing by name: of an enum unknown here the value remains, of an object its dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from earnorm.codec._columns import Table, read_column, write_column, written_columns
from earnorm.codec._read import Reader
from earnorm.codec._together import written_together
from earnorm.codec._words import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_LEVELS,
    MAX_RECORD_BYTES,
    Refer,
    Reference,
    Refusal,
    Resolve,
    Stored,
    fields_of,
    is_given_back,
    itself,
    no_model,
    register_enum,
    register_type,
    too_large,
)
from earnorm.codec._write import Writer
from earnorm.errors import PayloadError

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_RECORD_BYTES",
    "Refer",
    "Reference",
    "Resolve",
    "Stored",
    "decode",
    "decode_identity",
    "encode",
    "encode_columns",
    "encode_flat",
    "encode_record",
    "encode_records",
    "encode_values",
    "fields_of",
    "is_given_back",
    "no_model",
    "read_column",
    "register_enum",
    "register_type",
    "write_column",
]

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_DOLLAR, _BACKSLASH = b"$\\"

# Records that are written together: enough for their columns to pay, and few for what one misfit costs.
_TOGETHER = 500
# What needs no bounds of its own: names, and letters of a text or a name.
_FEW, _SHORT = 64, 2048


def encode(payload: Mapping[str, Any], *, refer: Refer = no_model) -> bytes:
    """The payload as JSON; PayloadError names the path of a value that could not be read back as it was.

    `refer` gives subject and key of what is a model, None for anything else.
    """
    try:
        data = _written(payload, refer)
    except Refusal as refusal:
        raise refusal.as_error() from refusal.__cause__
    if len(data) > MAX_BYTES:
        raise PayloadError("", payload, too_large(f"it takes {len(data):,} bytes"))
    return data


def encode_flat(identity: Sequence[Any], payload: Mapping[str, Any]) -> bytes | None:
    """What `encode` makes of a record's identity and a payload, in a fifth of the time where that is short and plain.

    None where it takes a closer look to see what does not fit.
    """
    if type(payload) is not dict or len(payload) > _FEW:
        return None
    for name, item in payload.items():
        if type(name) is not str or name[:1] == "$" or len(name) > _FEW or not _is_flat(item):
            return None
    if not all(map(_is_flat, identity)):
        return None
    try:
        data = _to_json({"identity": identity, "payload": payload})
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return None if len(data) > MAX_BYTES or _holds(data, b"\\u0000") else data


def _is_flat(item: object) -> bool:
    """Whether it is short and means the same in JSON."""
    kind = type(item)
    if kind is int:
        return -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF  # type: ignore[operator]  # an int
    if kind is str:
        return len(item) <= _SHORT  # type: ignore[arg-type]  # a str
    return item is None or kind is bool or (kind is float and isfinite(item))  # type: ignore[arg-type]  # a float


def encode_record(
    identity: Iterable[Any], payload: Mapping[str, Any], changes: Mapping[str, Any], *, refer: Refer = no_model
) -> bytes | None:
    """What `encode` makes of a record's identity, values and changes (name to old and new), in half the time.

    None where it takes a closer look to see what does not fit.
    """
    writer = Writer(refer)
    try:
        data = _to_json(
            {
                "identity": writer.parts(identity),
                "payload": writer.members(payload),
                "changes": {name: [writer.value(old, 3), writer.value(new, 3)] for name, (old, new) in changes.items()}
                if changes
                else {},
            }
        )
    except (Refusal, UnicodeEncodeError):
        return None
    return None if len(data) > MAX_BYTES or _holds(data, b"\\u0000") else data


def encode_records(
    identities: Sequence[Sequence[Any]],
    payloads: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Any]],
    *,
    refer: Refer = no_model,
) -> list[bytes | None]:
    """What `encode_record` makes of each of many records, in a third of the time where they are alike."""
    found: list[bytes | None] = []
    for start in range(0, len(identities), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        parts = identities[some], payloads[some], changes[some]
        # One that does not fit makes the others of its lot slower, and no more.
        found += written_together(*parts, refer) or [
            encode_record(i, p, c, refer=refer) for i, p, c in zip(*parts, strict=True)
        ]
    return found


def encode_columns(
    table: Table, hidden: frozenset[str] = frozenset(), *, refer: Refer = no_model
) -> list[bytes | None]:
    """What `encode_record` makes of each of many records, of which there are columns; those of `hidden` are left out.

    None for each of a lot in which one takes a closer look.
    """
    found: list[bytes | None] = []
    for start in range(0, count := len(table.columns[0]), _TOGETHER):
        some = slice(start, min(start + _TOGETHER, count))
        lot = written_columns(table, some, hidden, refer)
        found += [None] * (some.stop - start) if lot is None else lot
    return found


def _written(payload: object, refer: Refer) -> bytes:
    if not isinstance(payload, Mapping):
        raise Refusal(payload, "a payload is a dictionary")
    try:
        data = _to_json(Writer(refer).value(payload, 0))
    except UnicodeEncodeError:  # a lone surrogate
        return _written_with_care(payload, refer)
    return _written_with_care(payload, refer) if _holds(data, b"\\u0000") else data


def _written_with_care(payload: object, refer: Refer) -> bytes:
    """A second, rare walk: it names the place of a NUL or surrogate, or finds text that only speaks of one."""
    return _to_json(Writer(refer, careful=True).value(payload, 0))


def decode(data: bytes, *, resolve: Resolve = itself) -> dict[str, Any]:
    """What `encode` was given; PayloadError for bytes that it did not write. What `resolve` raises passes through."""
    tree = _parsed(data)
    if type(tree) is dict and _is_plain(data):
        return tree
    try:
        found = Reader(resolve).value(tree, 0)
    except Refusal as refusal:
        raise refusal.as_error() from refusal.__cause__
    if type(found) is not dict:
        raise PayloadError("", found, "the outermost value is no dictionary")
    return found


def _is_plain(data: bytes) -> bool:
    """No tag, no escaped key, and too few brackets to be too deep: nothing is left to do but to parse it."""
    if _DOLLAR in data or _holds(data, b"\\u0024"):
        return False
    return len(data) <= 2 * MAX_DEPTH or data.count(b"{") + data.count(b"[") <= MAX_DEPTH


def _holds(data: bytes, escaped: bytes) -> bool:
    """`escaped in data`, in a third of the time: bytes are asked for a number first, which they refuse by an error."""
    return _BACKSLASH in data and data.find(escaped) >= 0


class _Identified(msgspec.Struct, gc=False):
    identity: list[Any] = []


_identified = msgspec.json.Decoder(_Identified).decode


def decode_identity(data: bytes) -> Any:
    """`decode(data).get("identity", ())`, in a third of the time: nothing is made of what else is there."""
    try:
        return Reader(itself).sequence(_identified(data).identity, 1)
    except (msgspec.MsgspecError, RecursionError, TypeError, Refusal):
        # It says what is wrong.
        return decode(data).get("identity", ())


def _parsed(data: bytes) -> Any:
    if type(data) is not bytes:
        raise PayloadError("", data, f"expected bytes, not {type(data).__name__}")
    try:
        return _from_json(data)
    except RecursionError:
        raise PayloadError("", data, f"it is nested deeper than {MAX_LEVELS} levels") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise PayloadError("", data, f"it is no JSON ({error})") from error


def encode_values(values: Mapping[str, Any], refer: Refer = no_model) -> tuple[bytes, list[str]]:
    """A record's values as JSON, and the names of those left out because they cannot be kept. Raises nothing.

    Each value may take MAX_BYTES, all together MAX_RECORD_BYTES; the first ones stay.
    """
    try:
        return encode(values, refer=refer), []
    except Exception:  # noqa: BLE001  a value's own code may raise anything, and a save is never refused for it
        return _encode_each(values, refer)


def _encode_each(values: Mapping[str, Any], refer: Refer) -> tuple[bytes, list[str]]:
    kept: list[bytes] = []
    omitted: list[str] = []
    room = MAX_RECORD_BYTES - len(b"{}")
    for name, value in values.items():
        member = _member(name, value, refer)
        if member is None or len(member) >= room:
            omitted.append(name)
            continue
        kept.append(member)
        room -= len(member) + len(b",")
    return b"{" + b",".join(kept) + b"}", omitted


def _member(name: str, value: Any, refer: Refer) -> bytes | None:
    try:
        return encode({name: value}, refer=refer)[1:-1]
    except Exception:  # noqa: BLE001  as above
        return None
