"""Captured rows: taken out of their table in the order that their changes were made, one record's all together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import BigInteger, Connection, Select, delete, literal_column, select, tuple_

from earnorm.backends.sqlalchemy.capture import sqlite
from earnorm.backends.sqlalchemy.capture.postgresql import OWN_TRANSACTION, try_alone
from earnorm.backends.sqlalchemy.tables import capture

__all__ = ["Captured", "peek", "pending", "take", "take_own"]

_BATCH = 500

T = TypeVar("T")


class Captured(NamedTuple):
    """One row that a trigger wrote. `operation`: I, U, D; R is what a REPLACE on SQLite may be about to remove."""

    id: int
    subject: str
    key: str
    operation: str
    old: str | None
    new: str | None
    hidden: str
    transaction: int
    at: int


_ROW: Select[Any] = select(*(capture.c[name] for name in Captured._fields)).order_by(capture.c.id)


def pending(connection: Connection, subjects: Collection[str]) -> bool:
    """Whether there is a row of one of these subjects."""
    if connection.execute(select(capture.c.id).limit(1)).first() is None:
        return False
    return connection.execute(select(capture.c.id).where(capture.c.subject.in_(subjects)).limit(1)).first() is not None


def peek(connection: Connection, subject: str) -> Iterator[str]:
    """The keys of records of a subject whose changes are not told yet."""
    return iter(connection.scalars(select(capture.c.key).where(capture.c.subject == subject).distinct()))


def take(connection: Connection, subjects: Collection[str]) -> list[Captured]:
    """Some of the oldest rows, and all others of the same records, out of the table; none while another takes."""
    if connection.dialect.name == "postgresql" and not try_alone(connection):
        return []
    rows = _rows(connection, _ROW.where(capture.c.subject.in_(subjects)).limit(_BATCH), skip_locked=True)
    if len(rows) == _BATCH:
        last = rows[-1].id
        for some in _chunks(list(dict.fromkeys((row.subject, row.key) for row in rows))):
            later = tuple_(capture.c.subject, capture.c.key).in_(some), capture.c.id > last
            rows += _rows(connection, _ROW.where(*later), skip_locked=True)
    _remove(connection, rows)
    return rows


def take_own(connection: Connection, subjects: Collection[str]) -> tuple[list[Captured], list[Captured]]:
    """The rows of this very transaction, out of the table; and before them those of others about the same records.

    Those of others were committed before, so they come first. If a worker is turning them into events just now, it is
    waited for, so that its events have the lower positions.
    """
    own = capture.alias("own")
    if connection.dialect.name == "sqlite":
        last = sqlite.committed(connection)
        is_own, is_own_row = own.c.id > last, capture.c.id > last
    else:
        number = literal_column(OWN_TRANSACTION, BigInteger)
        is_own, is_own_row = own.c.transaction == number, capture.c.transaction == number
    records = select(own.c.subject, own.c.key).where(is_own, own.c.subject.in_(subjects))
    statement = _ROW.add_columns(is_own_row).where(tuple_(capture.c.subject, capture.c.key).in_(records))
    before: list[Captured] = []
    ours: list[Captured] = []
    for *row, mine in connection.execute(statement.with_for_update()):
        (ours if mine else before).append(Captured(*row))
    _remove(connection, [*before, *ours])
    return before, ours


def _rows(connection: Connection, statement: Select[Any], *, skip_locked: bool) -> list[Captured]:
    # SQLite has no row locks, and SQLAlchemy leaves the words out there.
    found = connection.execute(statement.with_for_update(skip_locked=skip_locked))
    return [Captured(*row) for row in found]


def _remove(connection: Connection, rows: Sequence[Captured]) -> None:
    for some in _chunks([row.id for row in rows]):
        connection.execute(delete(capture).where(capture.c.id.in_(some)))


def _chunks(values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
