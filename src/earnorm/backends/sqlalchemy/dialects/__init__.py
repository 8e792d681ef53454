"""What differs from database to database. All else in this package is written once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Table
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.engine import Engine

from earnorm.clock import Clock
from earnorm.errors import UnsupportedDatabase

__all__ = ["READONLY", "Dialect", "dialect_named", "dialect_of"]

READONLY = {"earnorm_readonly": True}
"""Execution options of a connection that only reads, so that its transaction need take no write lock."""


class Dialect(Protocol):
    """One database's way of doing what SQLAlchemy has no common word, or no fast one, for."""

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add `rows` in the order given, in one statement where many would cost.

        A row holds every column, in the table's order, but the one the database counts up.
        """
        ...

    def insert_missing(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add those of `rows` whose primary key is not there yet, whoever else is adding them now."""
        ...

    def blocked(self, connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (subscription, key) that a delivery is to be waited for of: one look at the index of lanes a pair."""
        ...

    def horizon(self, connection: Connection) -> int:
        """The last position that is safe to read (`Transaction.horizon`)."""
        ...

    def now(self, connection: Connection, clock: Clock) -> datetime:
        """The store's clock (`Transaction.now`): the database's own where there can be several hosts."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Let one process alone change the schema until this transaction ends."""
        ...


def dialect_of(engine: Engine) -> Dialect:
    """The Dialect for `engine`. Raises UnsupportedDatabase."""
    return dialect_named(engine.dialect, engine.url.render_as_string())


def dialect_named(dialect: SQLAlchemyDialect, url: str = "") -> Dialect:
    if dialect.name == "sqlite":
        from earnorm.backends.sqlalchemy.dialects.sqlite import SQLite

        return SQLite(dialect)
    raise UnsupportedDatabase(url or dialect.name, f"there is no log for {dialect.name} yet")
