"""Arrays: rows that SQLite gives back as one JSON array a column, in half the time that a tuple for each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import lt
from typing import Any

from msgspec import json
from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Date,
    DateTime,
    Enum,
    Integer,
    Select,
    String,
    Time,
    Uuid,
    func,
    select,
)
from sqlalchemy.exc import OperationalError

from earnorm.backends.sqlalchemy.bulk.columns import Values, columns_of
from earnorm.backends.sqlalchemy.bulk.shape import HAS_JSON, Shape, is_among

__all__ = ["by_keys", "rising"]

# A text of a gigabyte is more than SQLite makes.
_MOST = 10_000

# What is kept as a number or a text, each of which comes back from JSON as it is.
_KEPT_PLAIN: frozenset[type] = frozenset({Integer, String, Boolean, DateTime, Date, Time, Enum, Uuid, JSON})

_Read = Callable[[Select[Any]], "list[list[Any]] | None"]
"""A statement's columns; None where its rows are to be read one by one."""


def by_keys(connection: Connection, shape: Shape, keys: Values, *, lock: bool = False) -> Values:
    """The columns of the rows with these keys, locked where the database has row locks; of no joined shape."""
    read = _reading(connection, shape)
    if read is not None:
        found = list(map(read, _selected(shape, keys)))
        if None not in found:
            return _one_after_the_other(found, len(shape.columns))
    return columns_of(shape.lots(connection, keys, lock=lock), len(shape.columns))


def rising(connection: Connection, shape: Shape, last: int) -> Values | None:
    """The columns of the rows whose number is above `last`, in its order; None where they are to be read one by one."""
    read, found = _reading(connection, shape), list[Sequence[Sequence[Any]]]()
    (key,) = shape.key_columns
    statement, place = select(*shape.columns).order_by(key).limit(_MOST), shape.columns.index(key)
    while read is not None and (some := read(statement.where(key > last))) is not None:
        numbers = some[place]
        if not all(map(lt, numbers, islice(numbers, 1, None))):
            return None
        found.append(some)
        if len(numbers) < _MOST:
            return _one_after_the_other(found, len(shape.columns))
        last = numbers[-1]
    return None


def _selected(shape: Shape, keys: Values) -> Iterator[Select[Any]]:
    (numbers,) = keys
    for start in range(0, len(numbers), _MOST):
        yield select(*shape.columns).where(is_among(shape.key_columns[0], numbers[start : start + _MOST], "sqlite"))


def _one_after_the_other(lots: Sequence[Any], width: int) -> Values:
    if len(lots) == 1:
        return lots[0]  # type: ignore[no-any-return]  # as `_Read` gives it
    return [[value for some in lots for value in some[place]] for place in range(width)]


def _reading(connection: Connection, shape: Shape) -> _Read | None:
    """How columns of these rows are read; None where they are not to be had."""
    if connection.dialect.name != "sqlite" or not HAS_JSON or len(shape.key_columns) != 1:
        return None
    if not all(column.type._type_affinity in _KEPT_PLAIN for column in shape.columns):
        return None
    makers = [column.type.result_processor(connection.dialect, None) for column in shape.columns]

    def read(statement: Select[Any]) -> list[list[Any]] | None:
        rows = statement.subquery()
        try:
            row = connection.execute(select(*(func.json_group_array(column) for column in rows.c))).one()
        except OperationalError:
            # A BLOB where a text should be.
            return None
        found: list[list[Any]] = [json.decode(text) for text in row]
        # It may have been written with fewer digits than it has.
        if any(float in set(map(type, values)) for values in found):
            return None
        return [values if make is None else list(map(make, values)) for values, make in zip(found, makers, strict=True)]

    return read
