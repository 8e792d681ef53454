"""Triggers: put on a table, taken off it, looked at; in the words of the database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, inspect

from earnorm.backends.sqlalchemy.capture import postgresql, sqlite
from earnorm.backends.sqlalchemy.capture.target import Target
from earnorm.errors import NotCapturable

__all__ = ["Installed", "State", "install", "installed", "remove"]

State = Literal["current", "stale", "unknown"]
"""Stale: made for other columns than the model or the table has now. Unknown: of a table that is no model's here."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A table that is captured."""

    table: str
    state: State


def install(connection: Connection, target: Target) -> bool:
    """Put triggers on the table, or renew stale ones; whether anything had to be done. Raises NotCapturable."""
    _require_table(connection, target)
    words = _words(connection)
    if words.find(connection).get(words.name_of(connection, target.table)) == words.specification(target):
        return False
    words.require_fit(connection, target)
    words.install(connection, target)
    return True


def remove(connection: Connection, target: Target) -> bool:
    """Take the triggers off; whether there were any. What they saw before is still told."""
    words = _words(connection)
    if words.name_of(connection, target.table) not in words.find(connection):
        return False
    words.remove(connection, target)
    return True


def installed(connection: Connection, known: Iterable[Target]) -> list[Installed]:
    """The captured tables of the database, by name."""
    words = _words(connection)
    by_name = {words.name_of(connection, target.table): target for target in known}

    def state(table: str, specification: str) -> State:
        target = by_name.get(table)
        if target is None:
            return "unknown"
        is_current = specification == words.specification(target) and not _missing(connection, target)
        return "current" if is_current else "stale"

    return [Installed(table, state(table, found)) for table, found in sorted(words.find(connection).items())]


def _words(connection: Connection) -> sqlite.Triggers | postgresql.Triggers:
    return sqlite.Triggers() if connection.dialect.name == "sqlite" else postgresql.Triggers()


def _require_table(connection: Connection, target: Target) -> None:
    inspector, table = inspect(connection), target.table
    if inspector.has_table(table.name, schema=table.schema) and table.name not in inspector.get_view_names(
        table.schema
    ):
        if missing := _missing(connection, target):
            raise NotCapturable(target.name, f"the table lacks {', '.join(missing)}; run your migrations first")
        return
    if table.name in inspector.get_view_names(table.schema):
        raise NotCapturable(target.name, "it is a view, whose rows are other tables'; capture those")
    raise NotCapturable(target.name, "the database has no such table; make it first")


def _missing(connection: Connection, target: Target) -> list[str]:
    """The columns that triggers are to look at and the table does not have."""
    columns = inspect(connection).get_columns(target.table.name, schema=target.table.schema)
    there = {column["name"] for column in columns}
    return [name for name in (*target.kept, *target.hidden) if name not in there]
