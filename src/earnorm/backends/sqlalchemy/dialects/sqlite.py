"""SQLite: engines that lose no update, and the store's statements in its words.

One process writes at a time, from BEGIN IMMEDIATE to COMMIT, so the order of positions is the order of
commits and what a reader sees has no gaps: the horizon is the last position given out.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Table, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolProxiedConnection

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import Seen, is_heard
from earnorm.backends.sqlalchemy.dialects.shared_pool import SharedPool
from earnorm.backends.sqlalchemy.dialects.sqlite_bundles import HORIZON, insert_bundle
from earnorm.backends.sqlalchemy.rows import shared_row
from earnorm.backends.sqlalchemy.width import LOT
from earnorm.clock import Clock
from earnorm.errors import UnsupportedDatabase
from earnorm.event import Entries, Entry
from earnorm.glance import Span
from earnorm.slots import slots_of

__all__ = ["PRAGMAS", "SQLite", "prepare", "sqlite_async_engine", "sqlite_engine"]

# Each may be overridden in the URL: sqlite:///app.db?busy_timeout=10000
PRAGMAS: Mapping[str, str] = {
    "busy_timeout": "5000",
    "journal_mode": "WAL",
    # FULL: in WAL mode, NORMAL may forget the last commits when the power fails.
    "synchronous": "FULL",
    "foreign_keys": "ON",
}

# SQLite lets a statement have 32,766 parameters; 200 rows stay far below for every table here. Longer ones gain
# nothing (10 µs a row from 2 rows to 2,900), and sqlite3 keeps 128 prepared statements a connection in memory.
_ROWS_A_STATEMENT = 200


# --- engines --------------------------------------------------------------------------------


def sqlite_engine(url: str | URL, **options: Any) -> Engine:
    """A sync engine on a SQLite file: WAL, foreign keys on, BEGIN IMMEDIATE; `options` go to `create_engine`."""
    url, pragmas = _split(url, "sqlite+pysqlite")
    engine = create_engine(url, **options)
    prepare(engine, pragmas)
    return engine


def sqlite_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """The same over aiosqlite."""
    url, pragmas = _split(url, "sqlite+aiosqlite")
    # A database in memory is its one connection.
    pool = {} if url.database in (None, "", ":memory:") else {"poolclass": SharedPool}
    engine = create_async_engine(url, **pool | options)
    prepare(engine.sync_engine, pragmas)
    return engine


def prepare(engine: Engine, pragmas: Mapping[str, str] = PRAGMAS) -> None:
    """Make an engine that has no connection yet safe for concurrent writers.

    Python's own transaction control begins late and DEFERRED, so that two read-modify-writes at once lose one
    silently. Here the driver begins nothing (isolation_level None), and SQLAlchemy's begin is BEGIN IMMEDIATE.
    """

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        # Both drivers have it; aiosqlite's goes through its own thread.
        connection.isolation_level = None
        for name, value in pragmas.items():
            _set_pragma(connection, name, value)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", _choose_begin)
    # Not in the "begin" event: an error there (database is locked) leaves SQLAlchemy believing that it is still
    # beginning, and the next statement on that Connection would run, and commit, without any transaction.
    engine.dialect.do_begin = _begin  # type: ignore[method-assign, assignment]  # the one hook whose errors SQLAlchemy handles


def _choose_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        connection.info["earnorm_begin"] = None
    else:
        connection.info["earnorm_begin"] = "BEGIN" if options.get("earnorm_readonly") else "BEGIN IMMEDIATE"


def _begin(connection: PoolProxiedConnection) -> None:
    statement = connection.info.get("earnorm_begin")
    if statement:
        _execute(connection, statement)


def _split(url: str | URL, driver: str) -> tuple[URL, dict[str, str]]:
    """The URL for `driver`, without the pragmas it names, and all pragmas to set."""
    url = make_url(url)
    if url.get_backend_name() != "sqlite":
        raise UnsupportedDatabase(url.render_as_string(), "this is no SQLite URL")
    pragmas = dict(PRAGMAS)
    if "timeout" in url.query:  # pysqlite's own word for busy_timeout, in seconds
        del pragmas["busy_timeout"]
    for name in PRAGMAS.keys() & url.query.keys():
        pragmas[name] = _checked(url, name)
    return url.difference_update_query(PRAGMAS).set(drivername=driver), pragmas


def _checked(url: URL, name: str) -> str:
    value = url.query[name]
    if not isinstance(value, str) or not re.fullmatch(r"\w+", value):
        raise UnsupportedDatabase(url.render_as_string(), f"{name}={value!r} is no value for a pragma")
    return value


def _set_pragma(connection: DBAPIConnection, name: str, value: str) -> None:
    if name == "journal_mode":
        _set_journal_mode(connection, value)
    else:
        _execute(connection, f"PRAGMA {name} = {value}")


def _set_journal_mode(connection: DBAPIConnection, mode: str, patience: float = 5.0) -> None:
    """Turning WAL on needs the file alone and does not wait for it, so processes that open a new file at once meet."""
    give_up = time.monotonic() + patience
    while True:
        try:
            if _execute(connection, "PRAGMA journal_mode") == mode.lower():
                return
            _execute(connection, f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.005)


def _execute(connection: DBAPIConnection | PoolProxiedConnection, statement: str) -> Any:
    """Run one statement below SQLAlchemy; its first value, or None."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
    finally:
        cursor.close()


# --- the store's statements -----------------------------------------------------------------

# Whether anything is captured costs 2 µs to ask below SQLAlchemy, and 20 as a result of the append. Where a driver has
# a thread of its own, the append tells it all the same: another statement would be another visit there.
_ANY_CAPTURED = f"SELECT EXISTS (SELECT 1 FROM {tables.capture.name})"  # noqa: S608  a name of ours
_MEETING = f" RETURNING EXISTS (SELECT 1 FROM {tables.capture.name})"  # noqa: S608  a name of ours


class SQLite:
    """The store's words for SQLite."""

    own_transactions: Mapping[str, Any] = {}
    own_reads: Mapping[str, Any] = {}
    locks_rows = False
    most_savepoints: int | None = None
    guards: Sequence[str] = ()
    bundle_storage: Sequence[str] = ()

    def __init__(self, dialect: SQLAlchemyDialect) -> None:
        self._insert_text = lru_cache(maxsize=1024)(partial(_insert_text, dialect))

    def append(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> bool:
        if connection.dialect.is_async:
            return any(found.scalar() for found in self._insert(connection, tables.log, rows, _MEETING))
        driver = connection.connection.dbapi_connection
        if len(rows) == 1 and isinstance(driver, sqlite3.Connection) and not is_heard(connection):
            # As most appends are. SQLAlchemy takes three times as long to pass it on as SQLite does to write it.
            return _append_one(connection, driver, self._insert_text(tables.log, len(rows[0]), 1), rows[0])
        self.insert(connection, tables.log, rows)
        return _is_any_captured(connection)

    def append_with_commit(
        self, connection: Connection, rows: Callable[[], object], claim: Callable[[], object]
    ) -> None:
        """A file knows no round trips."""

    def append_many(self, connection: Connection, entries: Entries) -> bool:
        self._append_many(connection, entries)
        return _is_any_captured(connection)

    @staticmethod
    def _append_many(connection: Connection, entries: Entries, positions: Sequence[int] = ()) -> None:
        shared = shared_row(entries)
        slots = slots_of(entries.keys, entries.ids)
        columns: list[Sequence[Any]] = [entries.ids, entries.keys, entries.data, slots]
        if positions:
            columns.append(positions)
        width = len(columns)
        for start in range(0, len(entries), _ROWS_A_STATEMENT):
            some = slice(start, start + _ROWS_A_STATEMENT)
            count = len(entries.ids[some])
            varying: list[Any] = [None] * (width * count)
            for place, values in enumerate(columns):
                varying[place::width] = values[some]
            connection.exec_driver_sql(_many_text(count, width), (*shared, *varying))

    def can_bundle(self, connection: Connection) -> bool:
        return not _is_any_captured(connection)

    def bundle(self, connection: Connection, count: int, row: tuple[Any, ...]) -> None:
        insert_bundle(connection, count, row)

    def append_at(self, connection: Connection, positions: Sequence[int], entries: Entries) -> None:
        self._append_many(connection, entries, positions)

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        self._insert(connection, table, rows)

    def _insert(
        self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], tail: str = ""
    ) -> list[CursorResult[*tuple[Any, ...]]]:
        # As text past Core: 13 µs for one row where Core's insert takes 25 (SQLAlchemy 2.1, two slow cores).
        if not rows:
            return []
        columns = len(rows[0])
        if len(rows) == 1:
            return [connection.exec_driver_sql(self._insert_text(table, columns, 1) + tail, rows[0])]
        lots = [rows[start : start + _ROWS_A_STATEMENT] for start in range(0, len(rows), _ROWS_A_STATEMENT)]
        return [
            connection.exec_driver_sql(
                self._insert_text(table, columns, len(some)) + tail, tuple(chain.from_iterable(some))
            )
            for some in lots
        ]

    def insert_missing(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        statement = self._insert_text(table, len(rows[0]), 1) + " ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(statement, list(rows))

    def reserve(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> set[bytes]:
        results = self._insert(connection, tables.idempotency, sorted(rows), " ON CONFLICT DO NOTHING RETURNING event")
        return {event for found in results for (event,) in found}

    def blocked(self, connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        # Not "(subscription, key) IN (VALUES ...)", for which SQLite walks the whole index.
        found: set[tuple[str, str]] = set()
        for start in range(0, len(pairs), _ROWS_A_STATEMENT):
            some = pairs[start : start + _ROWS_A_STATEMENT]
            rows = connection.exec_driver_sql(_blocked_text(len(some)), tuple(word for pair in some for word in pair))
            found.update((subscription, key) for subscription, key in rows)
        return found

    def horizon(self, connection: Connection, clock: Clock) -> int:  # noqa: ARG002  nothing here can stall
        row = connection.exec_driver_sql(HORIZON).fetchone()
        return row[0] if row else 0

    def glance(self, driver: Any, words: Any, span: Span | None, clock: Clock) -> Seen | None:  # noqa: ARG002  nothing here can stall
        """SQLite answers each in some microseconds; SQLAlchemy takes ten times as long to ask."""
        if not isinstance(driver, sqlite3.Connection):
            return None
        try:
            return _glance(driver, words, span)
        except sqlite3.Error:
            return None

    def now(self, connection: Connection, clock: Clock) -> datetime:  # noqa: ARG002  other databases are asked the time
        """The process's clock: a SQLite file has one host, and so its processes have one clock."""
        return clock.now()

    def lock_schema(self, connection: Connection) -> None:
        # SQLite rolls DDL back like anything else. But Python's own transaction control, on an engine that is not
        # `prepare`d, opens no transaction for it.
        if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]  # both drivers have it
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def lock_pruning(self, connection: Connection) -> bool:  # noqa: ARG002  other databases have several writers
        """Whoever writes is alone."""
        return True

    def stall(self, connection: Connection) -> None:
        """What is committed is read."""

    def require_sound(self, connection: Connection) -> None:
        """One file and one writer leave nothing to check."""

    def is_lost(self, error: BaseException) -> bool:  # noqa: ARG002  other databases look at it
        """A file does not go away, and nothing of it is remembered."""
        return False

    def forget(self) -> None:
        """Nothing is remembered."""


def _glance(driver: sqlite3.Connection, words: Any, span: Span | None) -> Seen:
    last = driver.execute(HORIZON).fetchone()
    horizon = last[0] if last else 0
    groups = driver.execute(words.groups.text).fetchall()
    entries: Sequence[Entry] | None = []
    if span is not None and span.after < horizon:
        statement, values = words.looking(horizon, span)
        found = driver.execute(statement.text, statement.ordered(values))
        entries = words.width.entries(iter(partial(found.fetchmany, LOT), []), span.room)
    return Seen(horizon, groups, entries, driver.execute(words.waiting.text, words.waiting.ordered({})).fetchall())


def _append_one(connection: Connection, driver: sqlite3.Connection, text: str, row: tuple[Any, ...]) -> bool:
    try:
        driver.execute(text, row)
        return bool(driver.execute(_ANY_CAPTURED).fetchone()[0])
    except sqlite3.Error as error:
        # Raises what SQLAlchemy makes of it.
        connection._handle_dbapi_exception(error, text, None, None, None)


def _is_any_captured(connection: Connection) -> bool:
    return bool(_execute(connection.connection, _ANY_CAPTURED))


@lru_cache(maxsize=_ROWS_A_STATEMENT)
def _blocked_text(pairs: int) -> str:
    return (
        f"WITH asked (subscription, lane) AS (VALUES {', '.join(['(?, ?)'] * pairs)}) SELECT subscription, lane "  # noqa: S608  nothing in it comes from outside
        f"FROM asked WHERE EXISTS (SELECT 1 FROM {tables.delivery.name} AS d INDEXED BY earnorm_delivery_lane "
        "WHERE d.state = 'open' AND d.ordered = 1 AND d.subscription = asked.subscription AND d.key = asked.lane)"
    )


@lru_cache(maxsize=_ROWS_A_STATEMENT)
def _many_text(rows: int, width: int) -> str:
    """Four parameters a row, or five with its position, rather than twelve: 2.4 µs a row, not 3.5 (3.40, two indexes).

    CROSS JOIN is to the letter here: SQLite keeps its order, and reads the VALUES from the first to the last.
    """
    given = ", ".join(f"? AS {name}" for name in tables.SHARED_COLUMNS)
    columns = {name: f"shared.{name}" for name in ("id", *tables.ENTRY_COLUMNS)}
    columns |= {"id": "each.column1", "key": "each.column2", "data": "each.column3", "slot": "each.column4"}
    columns["correlation_id"] = "coalesce(shared.correlation_id, each.column1)"
    if width > 4:
        columns["position"] = "each.column5"
    row = f"({', '.join('?' * width)})"
    return (
        f"INSERT INTO {tables.log.name} ({', '.join(columns)}) SELECT {', '.join(columns.values())} "  # noqa: S608  names of ours
        f"FROM (SELECT {given}) AS shared CROSS JOIN (VALUES {', '.join([row] * rows)}) AS each"
    )


def _insert_text(dialect: SQLAlchemyDialect, table: Table, columns: int, rows: int) -> str:
    given = [column.name for column in table.c if column is not table.autoincrement_column][:columns]
    one = str(table.insert().compile(dialect=dialect, column_keys=given))
    head, values = one.split(" VALUES ")
    return f"{head} VALUES {', '.join([values] * rows)}"
