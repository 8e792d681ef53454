"""Arrays: rows that SQLite gives back as one JSON array a column, in a third of the time of a tuple for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import lt
from typing import Any

from msgspec import ValidationError
from msgspec.json import Decoder
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Enum,
    Integer,
    String,
    Time,
    Uuid,
    func,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy.bulk.columns import Values, columns_of
from earnorm.backends.sqlalchemy.bulk.shape import HAS_JSON, Shape, is_among

__all__ = ["by_keys", "looked_up", "rising", "some_by_keys"]

# A text of a gigabyte is more than SQLite makes.
_MOST = 10_000

# What is kept as a number or a text, each of which comes back from JSON as it is. A number with a point does not: it
# may be written with fewer digits than it has.
_KEPT_PLAIN: frozenset[type] = frozenset({Integer, String, Boolean, DateTime, Date, Time, Enum, Uuid, JSON})
_decode = Decoder(list[int | str | None]).decode

_Read = Callable[[ColumnElement[bool]], "list[list[Any]] | None"]
"""The columns of the rows that meet a condition; None where they are to be read one by one."""

_Execute = Callable[[Sequence[Any]], Any]
"""Selects what it is given of some rows."""


def by_keys(connection: Connection, shape: Shape, keys: Values, *, lock: bool = False) -> Values:
    """The columns of the rows with these keys, locked where the database has row locks; of no joined shape."""
    read = _reading(connection, shape)
    if read is not None:
        found = list(map(read, _conditions(shape.key_columns[0], keys[0])))
        if None not in found:
            return _one_after_the_other(found, len(shape.columns))
    return columns_of(shape.lots(connection, keys, lock=lock), len(shape.columns))


def some_by_keys(connection: Connection, shape: Shape, columns: Sequence[Column[Any]], keys: Sequence[Any]) -> Values:
    """These columns alone of the rows with these keys, each of one value."""
    read = _reading(connection, shape, columns)
    found = [None] if read is None else list(map(read, _conditions(shape.key_columns[0], keys)))
    if None not in found:
        return _one_after_the_other(found, len(columns))
    whole = by_keys(connection, shape, [keys])
    return [whole[shape.columns.index(column)] for column in columns]


def looked_up(connection: Connection, shape: Shape, execute: _Execute) -> Values | None:
    """The columns of the rows that it selects from; None where they are to be read one by one."""
    decode = _decoding(connection, shape, shape.columns)
    return decode and decode(execute)


def _conditions(key: Any, numbers: Sequence[Any]) -> Iterator[ColumnElement[bool]]:
    for start in range(0, len(numbers), _MOST):
        yield is_among(key, numbers[start : start + _MOST], "sqlite")


def rising(connection: Connection, shape: Shape, last: int, count: int) -> Values | None:
    """The columns of the rows whose number is above `last`, in its order, some `count`.

    None where they are to be read one by one.
    """
    read, found = _reading(connection, shape), list[Values]()
    (key,) = shape.key_columns
    place, highest = shape.columns.index(key), connection.execute(select(func.max(key))).scalar_one()
    if read is None or highest is None or highest - last > count + _MOST:
        return None
    while last < highest:
        some = read(key.between(last + 1, last := last + _MOST))
        # By the table itself, which is in this order.
        if some is None or not all(map(lt, some[place], islice(some[place], 1, None))):
            return None
        found.append(some)
    return _one_after_the_other(found, len(shape.columns)) if found else None


def _one_after_the_other(lots: Sequence[Any], width: int) -> Values:
    if len(lots) == 1:
        return lots[0]  # type: ignore[no-any-return]  # as `_Read` gives it
    return [[value for some in lots for value in some[place]] for place in range(width)]


def _reading(connection: Connection, shape: Shape, columns: Sequence[Column[Any]] = ()) -> _Read | None:
    """How columns of these rows, or some of them, are read; None where they are not to be had."""
    decode = _decoding(connection, shape, columns or shape.columns)
    if decode is None:
        return None

    def read(which: ColumnElement[bool]) -> list[list[Any]] | None:
        return decode(lambda wanted: connection.execute(select(*wanted).where(which)))

    return read


def _decoding(
    connection: Connection, shape: Shape, columns: Sequence[Column[Any]]
) -> Callable[[_Execute], list[list[Any]] | None] | None:
    if connection.dialect.name != "sqlite" or not HAS_JSON or len(shape.key_columns) != 1:
        return None
    if not all(column.type._type_affinity in _KEPT_PLAIN for column in columns):
        return None
    # Of the type as the dialect has it: a decorator that chooses what is below it by dialect decodes nothing itself.
    makers = [column.type._cached_result_processor(connection.dialect, None) for column in columns]
    wanted = [func.json_group_array(column) for column in columns]

    def decode(execute: _Execute) -> list[list[Any]] | None:
        try:
            found = list(map(_decode, execute(wanted).one()))
        except (OperationalError, ValidationError):
            # A BLOB or a number with a point where a text should be.
            return None
        return [values if make is None else list(map(make, values)) for values, make in zip(found, makers, strict=True)]

    return decode
