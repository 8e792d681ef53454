"""Many records alike → their JSON, written together: what a value needs is seen by its column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import msgspec

from earnorm.codec._words import MAX_BYTES, Refer, Refusal
from earnorm.codec._write import Writer

__all__ = ["are_plain", "column", "lines", "written_together"]

_to_lines = msgspec.json.Encoder().encode_lines

# JSON has a word for them, and every value is fit.
_PLAIN = frozenset({str, type(None), bool})
_PLAIN_OR_NUMBER = _PLAIN | {int}


def written_together(
    identities: Sequence[Sequence[Any]],
    payloads: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Any]],
    refer: Refer,
) -> list[bytes] | None:
    """The data of each, as `encode_record` writes it; None where one of them takes a closer look."""
    writer = Writer(refer)
    try:
        records = zip(_rows(identities, writer), _members(payloads, writer), _pairs(changes, writer), strict=True)
        return lines([{"identity": i, "payload": p, "changes": c} for i, p, c in records])
    except (Refusal, UnicodeEncodeError):
        return None


def lines(records: list[Any]) -> list[bytes] | None:
    """The JSON of each; None if one is too long or holds a NUL. Raises UnicodeEncodeError."""
    written = _to_lines(records)
    if b"\\u0000" in written:
        return None
    # JSON has no line break of its own.
    found = written.split(b"\n")
    found.pop()
    return None if max(map(len, found), default=0) > MAX_BYTES else found


def _rows(rows: Sequence[Sequence[Any]], writer: Writer) -> Iterable[Any]:
    if are_plain(list(chain.from_iterable(rows))):
        return rows
    return ([_value(part, writer, 2) for part in row] for row in rows)


def _members(records: Sequence[Mapping[str, Any]], writer: Writer) -> Iterable[Mapping[str, Any]]:
    if are_plain([value for record in records for value in record.values()]):
        return map(_as_dict, records)
    names = records[0].keys()
    if any(record.keys() != names for record in records):
        return ({name: _value(value, writer, 2) for name, value in record.items()} for record in records)
    columns = [column([record[name] for record in records], writer, 2) for name in names]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def column(values: Sequence[Any], writer: Writer, depth: int) -> Sequence[Any]:
    """Values of one name, a record each, as JSON can hold them. Raises Refusal."""
    return values if are_plain(values) else [_value(value, writer, depth) for value in values]


def _pairs(changes: Sequence[Mapping[str, Any]], writer: Writer) -> Iterable[Mapping[str, Any]]:
    if not any(changes):
        return repeat({}, len(changes))
    if are_plain([value for named in changes for pair in named.values() for value in pair]):
        return map(_as_dict, changes)
    return ({name: [_value(part, writer, 3) for part in pair] for name, pair in named.items()} for named in changes)


def _as_dict(named: Mapping[str, Any]) -> dict[str, Any]:
    return named if type(named) is dict else dict(named)


def _value(value: Any, writer: Writer, depth: int) -> Any:
    # The room is that of one record, whose size is looked at once it is written.
    writer.room = MAX_BYTES
    return writer.value(value, depth)


def are_plain(values: Sequence[Any]) -> bool:
    kinds = set(map(type, values))
    if kinds <= _PLAIN:
        return True
    if not kinds <= _PLAIN_OR_NUMBER:
        return False
    numbers = values if kinds == {int} else [value for value in values if type(value) is int]
    return min(numbers) >= -0x8000_0000_0000_0000 and max(numbers) <= 0x7FFF_FFFF_FFFF_FFFF
