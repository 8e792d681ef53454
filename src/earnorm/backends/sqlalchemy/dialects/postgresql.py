"""PostgreSQL: the store's statements in its words. How engines for it are made: `postgresql_engines`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from typing import Any

from msgspec import json
from sqlalchemy import Column, Connection, Table
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.types import TypeEngine

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import MANY, Seen
from earnorm.backends.sqlalchemy.dialects import postgresql_bundles as bundles
from earnorm.backends.sqlalchemy.dialects.horizon import GUARDS, SEQUENCE, TRIGGER, Horizon, holder_of
from earnorm.backends.sqlalchemy.dialects.idling import limit_idling
from earnorm.backends.sqlalchemy.rows import entry_row, shared_row
from earnorm.clock import Clock, SystemClock
from earnorm.errors import UnsoundLog
from earnorm.event import Entries
from earnorm.glance import Span
from earnorm.slots import slots_of
from earnorm.upkeep import Stall

__all__ = ["CAPTURED", "PostgreSQL"]

CAPTURED = "earnorm.captured"
"""The setting by which triggers on captured tables say, for one transaction, that they saw it write."""

# The append itself brings it back: asking for it alone would cost every commit a round trip.
_IS_CAPTURED = f"coalesce(current_setting('{CAPTURED}', true) = 'y', false)"

# Where nothing can be brought back any more, as COMMIT follows at once: an error, and so none of both.
_NOT_CAPTURED = f"1 / (current_setting('{CAPTURED}', true) IS DISTINCT FROM 'y')::int = 1"

# A client that died between append and COMMIT must not hold the horizon for hours.
_LIMIT_IDLING = limit_idling(30)

# connection_exception, operator_intervention: the server shuts down, or the backend was ended.
_CONNECTION_GONE = ("08", "57P")

# COPY takes no condition and gives nothing back, so what an INSERT says on its way is said before it. And it is refused
# where policies look at each row.
_BEFORE_COPY = f"SELECT {_IS_CAPTURED}, row_security_active('{tables.log.name}') WHERE {_LIMIT_IDLING}"

# A role that may append entries need not be one that may leave bundles.
_MAY_BUNDLE = f"coalesce(has_table_privilege(to_regclass('{tables.bundle.name}'), 'INSERT'), false)"
_CAN_BUNDLE = f"SELECT NOT {_IS_CAPTURED} AND {_MAY_BUNDLE} WHERE {_LIMIT_IDLING}"

# What a multitude shares in any case.
_SHARED = tuple(name for name in tables.SHARED_COLUMNS if name != "correlation_id")

# An event's data takes 256 KB at most, and a value that PostgreSQL is handed 1 GB.
_ROWS_A_STATEMENT = 2_000

_NOW = "SELECT clock_timestamp()"

# The two words make a key of two halves, which no lock on one bigint, as the horizon's, ever meets.
_LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(hashtext('earnorm schema'), hashtext(current_schema()))"
_LOCK_PRUNING = "SELECT pg_try_advisory_xact_lock(hashtext('earnorm pruning'), hashtext(current_schema()))"

# Of entries that are there, or left in a bundle.
_HIGHEST = f"SELECT greatest(max(position), (SELECT max(last) FROM {tables.bundle.name})) FROM {tables.log.name}"  # noqa: S608  names of ours

_CHECK = f"""\
SELECT
  pg_is_in_recovery(),
  (SELECT seqcache FROM pg_sequence WHERE seqrelid = '{SEQUENCE}'::regclass),
  (SELECT tgenabled = 'A' AND ('search_path=pg_catalog, ' || quote_ident(n.nspname) || ', pg_temp') = ANY (p.proconfig)
     FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE t.tgrelid = '{tables.log.name}'::regclass AND t.tgname = '{TRIGGER}'),
  (SELECT last_value - (NOT is_called)::int FROM {SEQUENCE}),
  coalesce(({_HIGHEST}), 0)"""  # noqa: S608  names of ours


class PostgreSQL:
    """The store's words for PostgreSQL."""

    own_transactions: Mapping[str, Any] = {"isolation_level": "READ COMMITTED"}
    # Each statement then has a snapshot of its own, as under READ COMMITTED, and two round trips fewer.
    own_reads: Mapping[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    locks_rows = True
    # A server keeps 64 of a transaction's savepoints at hand; with more, the snapshots of all others take longer.
    most_savepoints: int | None = 60
    guards: Sequence[str] = GUARDS
    bundle_storage: Sequence[str] = (bundles.COMPRESSION,)

    def __init__(self, dialect: SQLAlchemyDialect) -> None:
        self._dialect = dialect
        self._horizon = Horizon()
        self._text = lru_cache(maxsize=16)(self._compose)
        self._last = lru_cache(maxsize=4)(self._compose_last)

    # --- writing ---

    def append(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> bool:
        if len(rows) >= MANY and (driver := _driver_of(connection)) is not None:
            names = [column.name for column in _given(tables.log)[: len(rows[0])]]
            lots = (list(zip(*some, strict=True)) for some in _in_lots(rows))
            met = self._copy(connection, driver, names, ([_told_once(column) for column in lot] for lot in lots))
            if met is not None:
                return met
        found = self._insert(connection, tables.log, rows, f" WHERE {_LIMIT_IDLING} RETURNING {_IS_CAPTURED}")
        return found is not None and bool(found.fetchone()[0])

    def append_with_commit(
        self, connection: Connection, rows: Callable[[], Sequence[tuple[Any, ...]]], claim: Callable[[], str | None]
    ) -> bool | None:
        driver = _driver_of(connection)
        if driver is None:
            return None
        together = _together()
        written = rows()
        width, alone = len(written[0]), len(written) == 1
        text, types, formats = self._last(width, alone=alone)
        given = together.values(written[0]) if alone else together.arrays(types, written)
        last, tell = together.Statement(text, given, formats), claim()
        return tell is not None if together.send_with_commit(driver, last, tell) else None

    def append_many(self, connection: Connection, entries: Entries) -> bool:
        slots = slots_of(entries.keys, entries.ids)
        if len(entries) >= MANY and (driver := _driver_of(connection)) is not None:
            names = ("id", "key", "data", "correlation_id", "slot", *_SHARED)
            met = self._copy(connection, driver, names, _shares(entries, slots))
            if met is not None:
                return met
        return self._append_in_lots(connection, entries, slots)

    def can_bundle(self, connection: Connection) -> bool:
        if not connection.exec_driver_sql(_CAN_BUNDLE).scalar():
            return False
        connection.exec_driver_sql(bundles.LOCK)
        return True

    def bundle(self, connection: Connection, count: int, row: tuple[Any, ...]) -> None:
        connection.exec_driver_sql(self._bundle_text, (count, *row))

    @cached_property
    def _bundle_text(self) -> str:
        return bundles.insert_text(self._dialect, self._place)

    def append_at(self, connection: Connection, positions: Sequence[int], entries: Entries) -> None:
        slots = slots_of(entries.keys, entries.ids)
        if (driver := _driver_of(connection)) is not None:
            names = ("position", "id", "key", "data", "correlation_id", "slot", *_SHARED)
            lots = zip(_in_lots(positions), _shares(entries, slots), strict=True)
            if self._copy(connection, driver, names, ([some, *lot] for some, lot in lots)) is not None:
                return
        rows = [entry_row(entry) for entry in entries]
        connection.exec_driver_sql(self._log_text, (list(positions), *_columns(rows)))

    @cached_property
    def _log_text(self) -> str:
        return bundles.log_text(self._dialect, self._place)

    def _append_in_lots(self, connection: Connection, entries: Entries, slots: Sequence[int]) -> bool:
        # Not arrays of bytea and text, which drivers write element by element, in Python.
        shared, met = shared_row(entries), False
        for start in range(0, len(entries), _ROWS_A_STATEMENT):
            some = slice(start, start + _ROWS_A_STATEMENT)
            sizes = [len(data) for data in entries.data[some]]
            columns = (
                b"".join(entries.ids[some]),
                b"".join(entries.data[some]),
                json.encode(entries.keys[some]).decode(),
                f"{{{','.join(map(str, sizes))}}}",
                f"{{{','.join(map(str, accumulate([1, *sizes[:-1]])))}}}",
                f"{{{','.join(map(str, slots[some]))}}}",
            )
            met = bool(connection.exec_driver_sql(self._many_text, (*shared, *columns)).scalar()) or met
        return met

    def _copy(
        self, connection: Connection, driver: Any, names: Sequence[str], lots: Iterable[Sequence[Sequence[Any]]]
    ) -> bool | None:
        """Thousands of entries, some at a time: their columns, of one value where they share it. None: not here."""
        from earnorm.backends.sqlalchemy.dialects import postgresql_copy as copying

        captured, secured = connection.exec_driver_sql(_BEFORE_COPY).one()
        if secured:
            return None
        types = [tables.log.c[name].type for name in names]
        quoted = ", ".join(map(self._dialect.identifier_preparer.quote, names))
        text = f"COPY {tables.log.name} ({quoted}) FROM STDIN (FORMAT BINARY)"
        counted = ((max(map(len, columns)), columns) for columns in lots)
        copying.copy(
            connection,
            driver,
            text,
            (copying.written(count, list(zip(types, columns, strict=True))) for count, columns in counted),
        )
        return bool(captured)

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        self._insert(connection, table, rows, "")

    def insert_missing(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        # Sorted, or two processes that add the same rows in opposite orders wait for each other.
        self._insert(connection, table, sorted(rows), " ON CONFLICT DO NOTHING")

    def reserve(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> set[bytes]:
        # Sorted, or two transactions that take the same keys in opposite orders deadlock.
        found = self._insert(connection, tables.idempotency, sorted(rows), " ON CONFLICT DO NOTHING RETURNING event")
        return {bytes(event) for (event,) in found}

    def _insert(self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], tail: str) -> Any:
        """One statement, and one of two texts, however many rows there are. Never executemany: a lock for each row."""
        if len(rows) == 1:
            # As most appends are, and half the time of a list of one.
            return connection.exec_driver_sql(self._text(table, len(rows[0]), tail, alone=True), rows[0])
        if rows:
            return connection.exec_driver_sql(self._text(table, len(rows[0]), tail, alone=False), _columns(rows))
        return None

    def _compose_last(self, columns: int, *, alone: bool) -> tuple[bytes, list[TypeEngine[Any]], list[int]]:
        """An append that goes with COMMIT: below SQLAlchemy, so with the server's own marks for parameters.

        Its text, the columns' types and the formats of what it is given.
        """
        text = self._compose(tables.log, columns, f" WHERE {_NOT_CAPTURED}", alone=alone, place="${}".format)
        types = [column.type for column in _given(tables.log)[:columns]]
        return text.encode(), types, _together().formats(types, alone=alone)

    def _compose(
        self, table: Table, columns: int, tail: str, *, alone: bool, place: Callable[[int], str] | None = None
    ) -> str:
        given, place = _given(table)[:columns], place or self._place
        names = ", ".join(self._dialect.identifier_preparer.quote(column.name) for column in given)
        values = ", ".join(
            f"{place(number)}::{column.type.compile(dialect=self._dialect)}{'' if alone else '[]'}"
            for number, column in enumerate(given, 1)
        )
        source = f"SELECT {values}" if alone else f"SELECT * FROM unnest({values})"  # noqa: S608  names of ours
        return f"INSERT INTO {table.name} ({names}) {source}{tail}"

    @cached_property
    def _many_text(self) -> str:
        """Many entries' ids and data as one value each, cut up by their sizes; the keys as JSON."""
        quote = self._dialect.identifier_preparer.quote
        types = {column.name: column.type.compile(dialect=self._dialect) for column in tables.log.c}
        names = ("id", *tables.ENTRY_COLUMNS, "slot")
        given = {name: f"{self._place(n)}::{types[name]}" for n, name in enumerate(tables.SHARED_COLUMNS, 1)}
        # In the order of the text, which is how "%s" counts.
        ids, data, keys, sizes, starts, slots = (self._place(len(given) + number) for number in range(1, 7))
        shared = [*(f"{value} AS {quote(name)}" for name, value in given.items()), f"{ids}::bytea AS ids"]
        columns = {name: f"shared.{quote(name)}" for name in names}
        columns["slot"] = "each.slot"
        columns["id"] = "substring(shared.ids FROM each.number::int * 16 - 15 FOR 16)"
        columns["key"] = "each.key"
        columns["data"] = "substring(shared.all_data FROM each.start FOR each.size)"
        columns["correlation_id"] = f"coalesce(shared.correlation_id, {columns['id']})"
        return (
            f"WITH appended AS (INSERT INTO {tables.log.name} ({', '.join(map(quote, names))}) "  # noqa: S608  names of ours
            f"SELECT {', '.join(columns.values())} "
            f"FROM (SELECT {', '.join(shared)}, {data}::bytea AS all_data) AS shared "
            f"CROSS JOIN ROWS FROM (json_array_elements_text({keys}::text::json), unnest({sizes}::text::int[]), "
            f"unnest({starts}::text::int[]), unnest({slots}::text::int[])) "
            f"WITH ORDINALITY AS each (key, size, start, slot, number) "
            f"WHERE {_LIMIT_IDLING}) SELECT {_IS_CAPTURED}"
        )

    def _place(self, number: int) -> str:
        return f"${number}" if self._dialect.paramstyle == "numeric_dollar" else "%s"

    # --- reading ---

    def blocked(self, connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        text = (
            f"SELECT subscription, lane FROM unnest({self._place(1)}::text[], {self._place(2)}::text[]) "  # noqa: S608  names of ours
            f"AS asked (subscription, lane) WHERE EXISTS (SELECT 1 FROM {tables.delivery.name} AS d "
            "WHERE d.state = 'open' AND d.ordered AND d.subscription = asked.subscription AND d.key = asked.lane)"
        )
        rows = connection.exec_driver_sql(text, _columns(pairs))
        return {(subscription, key) for subscription, key in rows}

    def horizon(self, connection: Connection, clock: Clock) -> int:
        return self._horizon.read(connection, clock)

    def glance(self, driver: Any, words: Any, span: Span | None, clock: Clock) -> Seen | None:  # noqa: ARG002  it has other marks for parameters
        from earnorm.backends.sqlalchemy.dialects import postgresql_glance

        # Where a test's writers share the connection, and where somebody is to be told who holds the horizon back.
        if self._horizon.passes_own or self._horizon.is_to_warn(clock):
            return None
        answers = postgresql_glance.answers_of(driver, span)
        if answers is None:
            return None
        (first,), (lock,), (bundled,), *entries, beside = answers
        horizon = self._horizon.between(first[0], lock[0], bundled[0], clock)
        groups, waiting = ([row[1:] for row in beside if row[0] == kind] for kind in (1, 2))
        return Seen(horizon, groups, entries[0] if entries else (), waiting)

    def now(self, connection: Connection, clock: Clock) -> datetime:
        """The database's clock, since workers are on several hosts; a clock that a test hands in is the time itself."""
        if not isinstance(clock, SystemClock):
            return clock.now()
        found: datetime = connection.exec_driver_sql(_NOW).scalar_one()
        return found.astimezone(UTC)

    # --- keeping it sound ---

    def lock_schema(self, connection: Connection) -> None:
        connection.exec_driver_sql(_LOCK_SCHEMA)

    def lock_pruning(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql(_LOCK_PRUNING).scalar())

    def stall(self, connection: Connection) -> Stall | None:
        holder = holder_of(connection)
        if holder is None:
            return None
        seconds = None if holder.age is None else holder.age.total_seconds()
        return Stall(str(holder), seconds, holder.remedy)

    def require_sound(self, connection: Connection) -> None:
        standby, cache, guarded, last, highest = connection.exec_driver_sql(_CHECK).one()
        if standby:
            raise UnsoundLog(
                "this server is a standby, which knows nothing of the writers' locks",
                "connect to the primary, for instance with ?target_session_attrs=read-write in the URL",
            )
        if cache != 1:
            raise UnsoundLog(
                f"sequence {SEQUENCE} has CACHE {cache}, so positions are given out in no order",
                f"ALTER SEQUENCE {SEQUENCE} CACHE 1;",
            )
        if not guarded:
            raise UnsoundLog(
                f"trigger {TRIGGER} on {tables.log.name} is missing, made for another schema or not ENABLE ALWAYS, so "
                "events would be skipped",
                ";\n".join(GUARDS) + ";",
            )
        if last < highest:
            raise UnsoundLog(
                f"sequence {SEQUENCE} stands at {last} and the log at {highest}, so positions would be given out twice",
                f"SELECT setval('{SEQUENCE}', ({_HIGHEST}));",
            )

    def is_lost(self, error: BaseException) -> bool:
        """Whether the connection is gone, and so perhaps the server that what we remember is of."""
        if not isinstance(error, DBAPIError):
            # asyncpg lets the operating system's own errors through.
            return isinstance(error, OSError)
        if error.connection_invalidated or isinstance(error, InterfaceError):
            return True
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(error, OperationalError) and (state is None or state.startswith(_CONNECTION_GONE))

    def forget(self) -> None:
        self._horizon.forget()


def _driver_of(connection: Connection) -> Any:
    """The connection of psycopg, where one may talk to the server past SQLAlchemy; else None."""
    if not connection.dialect.driver.startswith("psycopg"):
        return None
    return _together().driver_of(connection)


@cache
def _together() -> Any:
    """Where psycopg is there. An import in a function, of what is imported already, is seven functions a commit."""
    from earnorm.backends.sqlalchemy.dialects import postgresql_commit

    return postgresql_commit


def _in_lots(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _ROWS_A_STATEMENT] for start in range(0, len(values), _ROWS_A_STATEMENT))


def _told_once(column: Sequence[Any]) -> Sequence[Any]:
    return column[:1] if column.count(column[0]) == len(column) else column


def _shares(entries: Entries, slots: Sequence[int]) -> Iterator[list[Sequence[Any]]]:
    """The columns of some entries at a time: their own, then those of which all have the same."""
    same = dict(zip(tables.SHARED_COLUMNS, shared_row(entries), strict=True))
    first = same["correlation_id"]
    for ids, keys, data, lot in zip(*map(_in_lots, (entries.ids, entries.keys, entries.data, slots)), strict=True):
        yield [ids, keys, data, ids if first is None else [first], lot, *([same[name]] for name in _SHARED)]


def _given(table: Table) -> list[Column[Any]]:
    """Those that a row has: all but the one that the database counts up."""
    return [column for column in table.c if column is not table.autoincrement_column]


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple([list(column) for column in zip(*rows, strict=True)])
