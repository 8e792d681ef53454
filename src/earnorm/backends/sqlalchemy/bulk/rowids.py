"""Row ids: what SQLite has just inserted, read back by the numbers it gave out, which rise.

RETURNING would have it insert the rows one by one, and give an object for each: half as long again as to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Insert, func, select
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy.bulk.given import Params
from earnorm.backends.sqlalchemy.bulk.shape import Shape

__all__ = ["last_given", "rises", "since"]

# Above it SQLite may run out of numbers, and takes any that is free.
_LAST = 2**62


def rises(connection: Connection, shape: Shape, statement: Insert, params: Params) -> bool:
    """Whether each of the rows will get a number above all that are there."""
    if connection.dialect.name != "sqlite" or shape.plain is None or len(shape.key_columns) != 1:
        return False
    if statement._post_values_clause is not None or statement._prefixes or statement._returning or statement._values:
        return False
    return _is_rowid(connection, shape.key_columns[0]) and not _is_given(shape.plain.model.primary_key[0], params)


def _is_rowid(connection: Connection, column: Any) -> bool:
    table = column.table
    if column is not table._autoincrement_column or not table.dialect_options["sqlite"]["with_rowid"]:
        return False
    # To the letter: a key of any other type is no row id.
    return column.type.compile(dialect=connection.dialect) == "INTEGER"  # type: ignore[no-any-return]  # a text


def _is_given(name: str, params: Params) -> bool:
    # A list counts in a quarter of the time that `any` takes to look.
    return not isinstance(params, Sequence) or [given.get(name) for given in params].count(None) < len(params)


def last_given(connection: Connection, key: ColumnElement[Any]) -> int | None:
    """The highest number there is; None where what comes may not be above it."""
    found: int = connection.execute(select(func.coalesce(func.max(key), -_LAST))).scalar_one()
    return found if found < _LAST else None


def since(connection: Connection, shape: Shape, last: int) -> Any:
    """The rows that have a higher number, in the order they were inserted."""
    (key,) = shape.key_columns
    return connection.execute(select(*shape.columns).where(key > last).order_by(key))
