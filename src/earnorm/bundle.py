"""A bundle: what happened to thousands of records as one value, for the log to keep until somebody reads it.

It holds columns as they are, so that the commit pays for no event. What is made of it later is what would have been
appended at once, to the byte: it is made by the same code of the same values.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from earnorm._uuid7 import Sixteens
from earnorm.codec import no_model, read_column, write_column
from earnorm.event import Entries
from earnorm.records import Changed, Columns, Records

__all__ = ["PART", "Bundle", "bundled"]

PART = 5_000
"""Records of one bundle: whoever makes entries of one keeps other writers of a SQLite file waiting meanwhile."""

# A value of hundreds of megabytes is nothing that a database likes to be handed.
_MOST_BYTES = 8 * 1024 * 1024


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that share all but their id, key and data, which are still to be made of `content`."""

    ids: bytes
    content: bytes
    name: str
    subject: str
    at: datetime
    correlation_id: UUID | None
    causation_id: UUID | None
    depth: int
    tenant: str | None
    version: int = 1

    def __len__(self) -> int:
        return len(self.ids) // 16

    def entries(self) -> Entries:
        """What would have been appended."""
        columns = _columns(self.content)
        return Entries(
            ids=list(Sixteens(self.ids)),
            keys=columns.keys(self.subject),
            data=columns.written(no_model, frozenset()),
            name=self.name,
            subject=self.subject,
            at=self.at,
            correlation_id=self.correlation_id,
            causation_id=self.causation_id,
            depth=self.depth,
            tenant=self.tenant,
            version=self.version,
        )


class _Change(msgspec.Struct, array_like=True):
    name: str
    old: tuple[bool, list[Any]]
    where: list[bool] | None


class _Content(msgspec.Struct, array_like=True):
    """Of each column whether its values are written in words of the codec; where all of them changed is None."""

    names: tuple[str, ...]
    key: tuple[int, ...]
    columns: list[tuple[bool, list[Any]]]
    changed: list[_Change]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Content).decode


def bundled(records: Records, hidden: frozenset[str]) -> bytes | None:
    """The content of a bundle; None where it has to be entries at once. Of `hidden` fields nothing is in it."""
    if not isinstance(records, Columns):
        return None
    seen = records if hidden.isdisjoint(records.names) else _without(records, hidden)
    if seen is None:
        return None
    columns = [write_column(values) for values in seen.columns]
    changed = [(name, write_column(old), None if all(where) else where) for name, old, where in seen.changed]
    if None in columns or any(old is None for _, old, _ in changed):
        return None
    try:
        content = _encode((seen.names, seen.key, columns, changed))
    except UnicodeEncodeError:  # a lone surrogate
        return None
    # A NUL in a key is refused: now, in the writer's transaction, and not in every pass of a worker from then on.
    return None if len(content) > _MOST_BYTES or b"\\u0000" in content else content


def _without(records: Columns, hidden: frozenset[str]) -> Columns | None:
    """Without the hidden fields; None where one of them is part of what an entry says all the same."""
    if any(name in hidden for name, _, _ in records.changed):
        return None
    kept = [place for place, name in enumerate(records.names) if name not in hidden]
    if not set(records.key) <= set(kept):
        return None
    key = tuple(kept.index(place) for place in records.key)
    names = tuple(records.names[place] for place in kept)
    return Columns(names, [records.columns[place] for place in kept], key, records.changed)


def _columns(content: bytes) -> Columns:
    read = _decode(content)
    columns = [read_column(*column) for column in read.columns]
    count = len(columns[0])
    changed = [
        Changed(each.name, read_column(*each.old), [True] * count if each.where is None else each.where)
        for each in read.changed
    ]
    return Columns(read.names, columns, read.key, changed)
