"""What differs from database to database. All else in this package is written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import URL, Connection, Table
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from earnorm.backends.sqlalchemy.dialects.side_connection import HasEars
from earnorm.clock import Clock
from earnorm.errors import UnsupportedDatabase
from earnorm.event import Entries, Entry
from earnorm.glance import Span
from earnorm.upkeep import Stall

__all__ = ["MANY", "READONLY", "Backend", "Dialect", "Seen", "backend_of", "dialect_named", "dialect_of", "is_heard"]

READONLY = {"earnorm_readonly": True}
"""Execution options of a connection that only reads, so that its transaction need take no write lock."""


MANY = 1_000
"""From here on entries are thousands: a round trip is nothing beside them, and they may be written in another way."""


class Seen(NamedTuple):
    """A glance as rows, but for the entries, which may lie past the horizon.

    None of those, if they are to be read by themselves.
    """

    horizon: int
    groups: Sequence[Any]
    entries: Sequence[Entry] | None
    waiting: Sequence[Any]


class Dialect(Protocol):
    """One database's way of doing what SQLAlchemy has no common word, or no fast one, for.

    own_transactions  execution options of the transactions that the store begins itself
    own_reads         those of the ones that only read, beside READONLY
    locks_rows        whether a row can be locked alone; else whoever writes has the whole database
    most_savepoints   how many a transaction should have at most, if there is a price on more
    guards            DDL beside the table of the log, the function first; each does nothing that is done already
    bundle_storage    DDL that says how the values of bundles are kept; likewise
    """

    own_transactions: Mapping[str, Any]
    own_reads: Mapping[str, Any]
    locks_rows: bool
    most_savepoints: int | None
    guards: Sequence[str]
    bundle_storage: Sequence[str]

    def append(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Add `rows` to the log, in a transaction that is about to commit; whether triggers may have seen it write.

        They may all leave out the last columns, which are then NULL.
        """
        ...

    def append_with_commit(
        self, connection: Connection, rows: Callable[[], Sequence[tuple[Any, ...]]], claim: Callable[[], str | None]
    ) -> bool | None:
        """`append` and COMMIT in one round trip; whether the workers were told what `claim` says, if anything.

        None where that takes two, or where triggers saw the transaction write, or the append was refused: the
        transaction is then as it was before. Raises what a COMMIT does.
        """
        ...

    def append_many(self, connection: Connection, entries: Entries) -> bool:
        """Add entries that share most of their columns to the log, in order, as `append` does."""
        ...

    def can_bundle(self, connection: Connection) -> bool:
        """Whether entries may be left in a bundle here: triggers saw nothing of this transaction, and it has the right.

        If so, whatever positions it takes from now on are above any horizon that is read until it has ended.
        """
        ...

    def bundle(self, connection: Connection, count: int, row: tuple[Any, ...]) -> None:
        """Add a bundle of so many entries, and take their positions. `row` lacks these."""
        ...

    def append_at(self, connection: Connection, positions: Sequence[int], entries: Entries) -> None:
        """Add entries to the log at positions that were taken for them."""
        ...

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add `rows` in the order given, in one statement where many would cost.

        A row holds every column, in the table's order, but the one the database counts up.
        """
        ...

    def insert_missing(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add those of `rows` whose primary key is not there yet, whoever else is adding them now."""
        ...

    def reserve(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> set[bytes]:
        """`insert_missing` of idempotency keys; returns the events of those added."""
        ...

    def blocked(self, connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (subscription, key) that a delivery is to be waited for of: one look at the index of lanes a pair."""
        ...

    def horizon(self, connection: Connection, clock: Clock) -> int:
        """The last position that is safe to read (`Transaction.horizon`)."""
        ...

    def glance(self, driver: Any, words: Any, span: Span | None, clock: Clock) -> Seen | None:
        """What `glance_in` asks for, on the driver's own connection, outside of any transaction.

        `words` are Statements.

        None where that cannot be, or was refused: SQLAlchemy's Connection is then to be asked, which says why.
        Raises ConnectionLost.
        """
        ...

    def now(self, connection: Connection, clock: Clock) -> datetime:
        """The store's clock (`Transaction.now`): the database's own where there can be several hosts."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Let one process alone change the schema until this transaction ends."""
        ...

    def lock_pruning(self, connection: Connection) -> bool:
        """Let one transaction at a time prune the log; False, at once, while another one does."""
        ...

    def stall(self, connection: Connection) -> Stall | None:
        """Who keeps the horizon back now (`Transaction.stall`)."""
        ...

    def require_sound(self, connection: Connection) -> None:
        """Raises UnsoundLog if the log cannot be relied on as it stands here, with the SQL that repairs it."""
        ...

    def is_lost(self, error: BaseException) -> bool:
        """Whether the error says that the connection is gone."""
        ...

    def forget(self) -> None:
        """A connection is gone: drop what was remembered of the database behind it."""
        ...


def is_heard(connection: Connection) -> bool:
    """Whether anybody wants to hear of each statement there, so that none may go past SQLAlchemy."""
    # The Connection's own list joins the engine's at each look, at twelve functions.
    heard: Any = connection.dispatch if connection._has_events else connection.engine.dispatch
    return bool(heard.before_cursor_execute or heard.after_cursor_execute) or bool(connection._echo)


def dialect_of(engine: Engine) -> Dialect:
    """The Dialect for `engine`. Raises UnsupportedDatabase."""
    return dialect_named(engine.dialect, engine.url.render_as_string())


def dialect_named(dialect: SQLAlchemyDialect, url: str = "") -> Dialect:
    match dialect.name:
        case "sqlite":
            from earnorm.backends.sqlalchemy.dialects.sqlite import SQLite

            return SQLite(dialect)
        case "postgresql":
            from earnorm.backends.sqlalchemy.dialects.postgresql import PostgreSQL

            return PostgreSQL(dialect)
        case _:
            raise UnsupportedDatabase(url or dialect.name, f"there is no log for {dialect.name} yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """How engines for one kind of database are made.

    drivers        those that its URLs may name
    sync, twin     an engine on a URL, and its async twin
    prepare        make an engine of the user's own fit for us
    in_process     whether the database belongs to one host, so that a worker in this process is the natural one
    wakeup         how its workers learn of other processes' commits
    """

    drivers: frozenset[str]
    sync: Callable[[URL], Engine]
    twin: Callable[[URL], AsyncEngine]
    prepare: Callable[[Engine], None]
    in_process: bool
    wakeup: Callable[[Engine], HasEars]


def backend_of(url: URL) -> Backend:
    """The Backend for `url`. Raises UnsupportedDatabase."""
    match url.get_backend_name():
        case "sqlite":
            from earnorm.backends.sqlalchemy.dialects import sqlite
            from earnorm.backends.sqlalchemy.dialects.sqlite_wakeup import SQLiteWakeup

            backend = Backend(
                drivers=frozenset({"pysqlite", "aiosqlite"}),
                sync=sqlite.sqlite_engine,
                twin=sqlite.sqlite_async_engine,
                prepare=sqlite.prepare,
                in_process=True,
                wakeup=SQLiteWakeup,
            )
        case "postgresql":
            from earnorm.backends.sqlalchemy.dialects import postgresql_engines
            from earnorm.backends.sqlalchemy.dialects.postgresql_wakeup import PostgreSQLWakeup

            backend = Backend(
                drivers=frozenset({"psycopg", "psycopg_async", "asyncpg"}),
                sync=postgresql_engines.postgresql_engine,
                twin=postgresql_engines.postgresql_async_engine,
                prepare=postgresql_engines.prepare,
                in_process=False,
                wakeup=PostgreSQLWakeup,
            )
        case other:
            raise UnsupportedDatabase(url.render_as_string(), f"there is no log for {other} yet")
    if url.get_driver_name() not in backend.drivers:
        raise UnsupportedDatabase(url.render_as_string(), f"the driver {url.get_driver_name()!r} is not supported")
    return backend
