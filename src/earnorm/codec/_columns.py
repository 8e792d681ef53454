"""Columns of many records → the JSON of each: types are looked at by the column, and no dictionary is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import repeat, starmap
from typing import Any, Protocol
from uuid import UUID

import msgspec

from earnorm.codec._read import Reader
from earnorm.codec._together import are_plain, column, lines
from earnorm.codec._words import Refer, Refusal, itself, no_model
from earnorm.codec._write import Writer

__all__ = ["FieldChange", "Table", "read_column", "write_column", "written_columns"]


class FieldChange(Protocol):
    """A field's old values, a value for each record, and in which of them it changed."""

    @property
    def name(self) -> str: ...

    @property
    def old(self) -> Sequence[Any]: ...

    @property
    def where(self) -> Sequence[bool]: ...


class Table(Protocol):
    """A column of values for each name, which of them are the primary key, and what changed."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def columns(self) -> Sequence[Sequence[Any]]: ...

    @property
    def key(self) -> Sequence[int]: ...

    @property
    def changed(self) -> Sequence[FieldChange]: ...


class _Data(msgspec.Struct, gc=False):
    identity: Sequence[Any]
    payload: Any
    changes: Any


def written_columns(table: Table, some: slice, hidden: frozenset[str], refer: Refer) -> list[bytes] | None:
    """The data of `some` of the records, as `encode_record` writes it; None where one of them takes a closer look."""
    names = table.names
    writer = Writer(refer)
    try:
        values = dict(zip(names, (column(values[some], writer, 2) for values in table.columns), strict=True))
        identities = zip(*(values[names[place]] for place in table.key), strict=True)
        seen = [name for name in names if name not in hidden]
        payloads = starmap(_object(tuple(seen)), zip(*(values[name] for name in seen), strict=True))
        changes = _changes(values, table.changed, some, writer)
        return lines(list(map(_Data, identities, payloads, changes)))
    except (Refusal, UnicodeEncodeError):
        return None


# Beside what JSON has a word for: values that come back as they were, whatever classes their reader knows.
_GIVEN_BACK: frozenset[type] = frozenset(
    {str, int, bool, float, type(None), datetime, date, time, timedelta, Decimal, UUID, bytes}
)


def write_column(values: Sequence[Any]) -> tuple[bool, Sequence[Any]] | None:
    """A column as JSON can hold it, and whether that is in words of the codec.

    None where it cannot, or where it might come back as something else.
    """
    if are_plain(values):
        return False, values
    if not set(map(type, values)) <= _GIVEN_BACK:
        return None
    try:
        return True, column(values, Writer(no_model), 2)
    except Refusal:
        return None


def read_column(worded: bool, values: list[Any]) -> list[Any]:  # noqa: FBT001  as `write_column` gives it
    """What `write_column` was given."""
    if not worded:
        return values
    read = Reader(itself).value
    return [read(value, 2) for value in values]


def _changes(
    values: dict[str, Sequence[Any]], changed: Sequence[FieldChange], some: slice, writer: Writer
) -> Iterable[Any]:
    if not changed:
        return repeat(_NONE)
    make = _object(tuple(each.name for each in changed))
    pairs = (_pairs(column(each.old[some], writer, 3), values[each.name], each.where[some]) for each in changed)
    return starmap(make, zip(*pairs, strict=True))


def _pairs(old: Sequence[Any], new: Sequence[Any], where: Sequence[bool]) -> Iterable[Any]:
    pairs = zip(old, new, strict=True)
    if all(where):
        return pairs
    return [pair if differs else msgspec.UNSET for pair, differs in zip(pairs, where, strict=True)]


@lru_cache(maxsize=256)
def _object(names: tuple[str, ...]) -> type[msgspec.Struct]:
    """What is written as an object of these names; its parts that are UNSET are left out."""
    # By place: an attribute may be named as nothing in Python may.
    parts = [(f"f{number}", Any, msgspec.UNSET) for number in range(len(names))]
    rename = {f"f{number}": name for number, name in enumerate(names)}
    return msgspec.defstruct("Object", parts, rename=rename, gc=False)


_NONE = _object(())()
