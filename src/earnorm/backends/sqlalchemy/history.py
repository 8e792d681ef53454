"""History: what the log holds of many records at once, and the rows of a model, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal, select, tuple_
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy.tables import log
from earnorm.instants import to_time

__all__ = ["PAGE", "Line", "Part", "histories", "last_lines", "lines_of", "row_pages", "there"]

PAGE = 500

_LINE = (log.c.key, log.c.name, log.c.position, log.c.at, log.c.data)


class Line(NamedTuple):
    """One event of a record, as the log has it."""

    key: str
    name: str
    position: int
    at: datetime
    data: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Whose records: `which` of the log's events are about them, and the `schemas` (a map) of their tables."""

    which: tuple[ColumnElement[bool], ...] = ()
    schemas: Mapping[str | None, str | None] | None = None

    @classmethod
    def of_tenant(cls, tenant: str | None, schemas: Mapping[str | None, str | None] | None) -> Part:
        return cls((log.c.tenant.is_(None) if tenant is None else log.c.tenant == tenant,), schemas)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.schemas is None else {"schema_translate_map": self.schemas}


def histories(connection: Connection, part: Part, keys: Sequence[str], names: Sequence[str]) -> dict[str, list[Line]]:
    """The events of these names of each record, oldest first."""
    which = log.c.key.in_(keys), log.c.name.in_(names), *part.which
    rows = connection.execute(select(*_LINE).where(*which).order_by(log.c.position))
    found: dict[str, list[Line]] = {}
    for row in rows:
        line = _line(row)
        found.setdefault(line.key, []).append(line)
    return found


def last_lines(connection: Connection, part: Part, subject: str, names: Sequence[str]) -> Iterator[list[Line]]:
    """The last event of these names of every record of the subject, in pages by key."""
    last = ""
    while True:
        page = connection.execute(
            select(log.c.key, func.max(log.c.position))
            .where(log.c.subject == subject, log.c.name.in_(names), log.c.key > last, *part.which)
            .group_by(log.c.key)
            .order_by(log.c.key)
            .limit(PAGE)
        ).fetchall()
        if not page:
            return
        last = page[-1][0]
        lines = select(*_LINE).where(log.c.position.in_([position for _, position in page])).order_by(log.c.key)
        yield [_line(row) for row in connection.execute(lines)]


def lines_of(connection: Connection, part: Part, subject: str, names: Sequence[str]) -> Iterator[Line]:
    """The events of these names of every record of the subject, oldest first, read in pages."""
    last = -1
    while True:
        which = log.c.subject == subject, log.c.name.in_(names), log.c.position > last, *part.which
        page = connection.execute(select(*_LINE).where(*which).order_by(log.c.position).limit(PAGE)).fetchall()
        if not page:
            return
        lines = [_line(row) for row in page]
        last = lines[-1].position
        yield from lines


def _line(row: Any) -> Line:
    key, name, position, at, data = row
    return Line(key, name, position, to_time(at), data)


def row_pages(
    connection: Connection, part: Part, mapper: Mapper[Any], names: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a class itself, its subclasses' aside, by attribute, in pages by primary key."""
    columns, keys = [mapper.columns[name] for name in names], mapper.primary_key
    statement = select(*columns).select_from(mapper.persist_selectable).order_by(*keys).limit(PAGE)
    if mapper.polymorphic_on is not None:
        statement = statement.where(mapper.polymorphic_on == mapper.polymorphic_identity)
    places = [names.index(mapper.get_property_by_column(key).key) for key in keys]
    page = connection.execute(statement, execution_options=part.options).fetchall()
    while page:
        yield [dict(zip(names, row, strict=True)) for row in page]
        last = [literal(page[-1][place], key.type) for place, key in zip(places, keys, strict=True)]
        further = statement.where(tuple_(*keys) > tuple_(*last))
        page = connection.execute(further, execution_options=part.options).fetchall()


def there(
    connection: Connection, part: Part, mapper: Mapper[Any], identities: Sequence[tuple[Any, ...]]
) -> set[tuple[Any, ...]]:
    """Those of the primary keys that have a row."""
    keys = mapper.primary_key
    found = keys[0].in_([identity[0] for identity in identities])
    if len(keys) > 1:
        found = tuple_(*keys).in_(identities)
    looked = select(*keys).select_from(mapper.persist_selectable).where(found)
    rows = connection.execute(looked, execution_options=part.options)
    return {tuple(row) for row in rows}
