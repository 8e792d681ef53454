"""Columns: rows of one model that a bulk write has written, told as they come, a column of values for each name.

No object is made for a row, as long as the log alone hears of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from earnorm.backends.sqlalchemy.bulk.shape import Plain
from earnorm.backends.sqlalchemy.bulk.telling import Alike, Fact
from earnorm.occurrence import Kind
from earnorm.records import Changed, Columns, changed_between

__all__ = ["Values", "aligned", "alike", "columns_of", "joined", "updated_alike"]

Values = Sequence[Sequence[Any]]
"""A column of values for each of a shape's columns."""


def columns_of(lots: Iterable[Sequence[Sequence[Any]]], width: int) -> Values:
    """Rows as columns, some at a time: thousands of rows that live at once cost more to collect than to read."""
    columns: list[list[Any]] = [[] for _ in range(width)]
    for some in lots:
        for column, values in zip(columns, zip(*some, strict=True), strict=False):
            column.extend(values)
    return columns


def alike(kind: Kind, plain: Plain, values: Values) -> Alike:
    """The same has happened to all of these rows."""
    return Alike(plain.model, kind, _columns(plain, values))


def updated_alike(plain: Plain, before: Values, after: Values) -> Alike | list[Fact]:
    """Those of the rows that are not as they were; one by one, where some may have gone into the trash or out of it."""
    changed = changed_between(plain.names, [before[p] for p in plain.places], [after[p] for p in plain.places])
    columns = _columns(plain, after, changed)
    if not any(all(where) for _, _, where in changed):
        differs = map(any, zip(*(where for _, _, where in changed), strict=True))
        columns = columns.where(list(differs) or [False] * len(columns))
    told = Alike(plain.model, "updated", columns)
    if any(name == plain.model.info.trash for name, _, _ in changed):
        return [fact._replace(kind=plain.model.info.kind_of(fact.changes)) for fact in told.facts()]
    return told


def _columns(plain: Plain, values: Values, changed: Sequence[Changed] = ()) -> Columns:
    key = tuple(plain.names.index(name) for name in plain.model.primary_key)
    return Columns(plain.names, [values[place] for place in plain.places], key, changed)


def aligned(before: Values, keys: Sequence[Any], after: Values, keys_after: Sequence[Any]) -> tuple[Values, Values]:
    """Both in the order of the first, by their keys; without the rows that only one of them has."""
    if list(keys) == list(keys_after):
        return before, after
    place = {key: number for number, key in enumerate(keys_after)}
    both = [(number, place[key]) for number, key in enumerate(keys) if key in place]
    return (
        [[column[first] for first, _ in both] for column in before],
        [[column[second] for _, second in both] for column in after],
    )


def joined(keys: Values) -> Sequence[Any]:
    """Columns of a key as a value for each row."""
    return keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))
