"""Payloads that are large: left out of rows read by the thousand, and fetched by themselves as far as there is room.

So one statement brings no more than so many small ones, whatever the next rows hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Table, case, func, literal_column, select
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy.lists import in_lists
from earnorm.room import fitting

__all__ = ["columns_of", "within"]

# Bytes. Thousands of such are read at once; a larger one is worth a look of its own.
_SMALL = 4096


def columns_of(table: Table, names: Sequence[str]) -> list[ColumnElement[Any]]:
    """These columns of an entry or a delivery; in place of data that is large, NULL."""
    small = case((func.length(table.c.data) <= literal_column(str(_SMALL)), table.c.data))
    return [small.label("data") if name == "data" else table.c[name] for name in names]


def within(
    connection: Connection, number: Column[Any], read: Callable[[], Sequence[Any]], place: int, room: int | None
) -> Sequence[Any]:
    """The rows that `read` gives, with their data, up to the one that makes `room` full.

    `number` is their table's own, and their first column; `place` is where they have their data.
    """
    while True:
        rows = read()
        if not rows:
            return rows
        data = [row[place] for row in rows]
        if None in data:
            found = _filled(connection, number, rows, place, room)
            if found is None:
                # One of them went meanwhile, and there may be others in its place.
                continue
            return found
        return rows[: fitting(map(len, data), room)]


def _filled(
    connection: Connection, number: Column[Any], rows: Sequence[Any], place: int, room: int | None
) -> Sequence[Any] | None:
    """None if the data of one is gone."""
    large = [row[0] for row in rows if row[place] is None]
    sizes = dict(_looked_up(connection, number, large, func.length(number.table.c.data)))
    each = (sizes.get(row[0], 0) if row[place] is None else len(row[place]) for row in rows)
    kept = rows[: fitting(each, room)]
    missing = [row[0] for row in kept if row[place] is None]
    data = dict(_looked_up(connection, number, missing, number.table.c.data))
    if len(data) < len(missing):
        return None
    return [row if row[place] is not None else (*row[:place], data[row[0]], *row[place + 1 :]) for row in kept]


def _looked_up(
    connection: Connection, number: Column[Any], numbers: Sequence[int], what: ColumnElement[Any]
) -> Iterator[tuple[int, Any]]:
    for some in in_lists(numbers):
        for found in connection.execute(select(number, what).where(number.in_(some))):
            yield found[0], found[1]
