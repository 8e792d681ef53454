"""Bundles on PostgreSQL: their positions are given out by the log's sequence, under the horizon's lock."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Dialect

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects.horizon import SEQUENCE

__all__ = ["COMPRESSION", "LOCK", "insert_text", "log_text"]

# The log's own trigger takes the lock before a statement that may insert anything, also one that does not: before any
# position is given out.
LOCK = f"INSERT INTO {tables.log.name} (id) SELECT ''::bytea WHERE false"

# What the server does by itself takes a third of the whole append. Its settings name the method from version 14 on, if
# it was built with it; as a text, since earlier ones do not know the words.
COMPRESSION = f"""\
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
    EXECUTE 'ALTER TABLE {tables.bundle.name} '
      'ALTER COLUMN ids SET COMPRESSION lz4, ALTER COLUMN content SET COMPRESSION lz4';
  END IF;
END $$"""
"""A bundle's large values are compressed by LZ4, where the server has it."""

_GIVEN = [tables.bundle.c[name] for name in tables.BUNDLE_COLUMNS]
_WRITTEN = [column for column in tables.log.c if column.name != "due"]

# Others may have taken some in between. By a query of its own, which runs only where it is needed: an aggregate beside
# the others is worked out in any case.
_LISTED = "(SELECT '[' || string_agg(p::text, ',' ORDER BY p) || ']' FROM given)"
_POSITIONS = f"CASE WHEN max(p) - min(p) + 1 > count(*) THEN {_LISTED} END"


def insert_text(dialect: Dialect, place: Callable[[int], str]) -> str:
    """A bundle; its first parameter is how many entries it has."""
    names = ", ".join(dialect.identifier_preparer.quote(column.name) for column in _GIVEN)
    values = ", ".join(
        f"{place(number)}::{column.type.compile(dialect=dialect)}" for number, column in enumerate(_GIVEN, 2)
    )
    return (
        f"WITH given AS MATERIALIZED (SELECT nextval('{SEQUENCE}') AS p FROM generate_series(1, {place(1)}::int)) "  # noqa: S608  names of ours
        f"INSERT INTO {tables.bundle.name} (first, last, positions, {names}) "
        f"SELECT min(p), max(p), {_POSITIONS}, {values} FROM given"
    )


def log_text(dialect: Dialect, place: Callable[[int], str]) -> str:
    """Rows of the log at positions of their own, an array for each column but `due`."""
    names = ", ".join(dialect.identifier_preparer.quote(column.name) for column in _WRITTEN)
    values = ", ".join(
        f"{place(number)}::{column.type.compile(dialect=dialect)}[]" for number, column in enumerate(_WRITTEN, 1)
    )
    return f"INSERT INTO {tables.log.name} ({names}) SELECT * FROM unnest({values})"  # noqa: S608  names of ours
