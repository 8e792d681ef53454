"""The tables of the log, as this version reads and writes them. How older ones become these: `migrations`."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    literal_column,
)
from sqlalchemy.sql import ColumnElement, FromClause

__all__ = [
    "BEYOND",
    "BUNDLE_COLUMNS",
    "ENTRY_COLUMNS",
    "SHARED_COLUMNS",
    "alias",
    "attempt",
    "bundle",
    "capture",
    "cursor",
    "delivery",
    "group",
    "idempotency",
    "interest",
    "is_dead",
    "is_open",
    "is_running",
    "is_waited_for",
    "log",
    "metadata",
    "schema",
    "subscription",
    "worker",
]

metadata = MetaData()

# Greater than any number that a row may have.
BEYOND = 2**63

# SQLite gives out row numbers only for a column declared INTEGER, to the letter.
_Position = BigInteger().with_variant(Integer, "sqlite")
# An id is its sixteen bytes: half the width of hex in every index, and twice as fast to turn into a UUID.
_Id = LargeBinary(16)
# A time is whole microseconds since 1970, UTC: exact both ways, and it compares as a number in every database.
_Time = BigInteger

ENTRY_COLUMNS = ("name", "subject", "key", "data", "at", "correlation_id", "causation_id", "depth", "tenant", "version")
# Those that many entries of one kind have in common.
SHARED_COLUMNS = tuple(name for name in ENTRY_COLUMNS if name not in ("key", "data"))
# A bundle's, beside its positions.
BUNDLE_COLUMNS = ("ids", "content", *SHARED_COLUMNS)


def _entry_columns() -> Iterator[Column[object]]:
    """An entry's columns beside its id and position, in the order of ENTRY_COLUMNS."""
    yield Column("name", Text, nullable=False)
    yield Column("subject", Text, nullable=False)
    yield Column("key", Text, nullable=False)
    yield Column("data", LargeBinary, nullable=False)
    yield Column("at", _Time, nullable=False)
    yield Column("correlation_id", _Id, nullable=False)
    yield Column("causation_id", _Id)
    yield Column("depth", Integer, nullable=False)
    yield Column("tenant", Text)
    yield Column("version", Integer, nullable=False)


log = Table(
    "earnorm_log",
    metadata,
    Column("position", _Position, primary_key=True, autoincrement=True),
    Column("id", _Id, nullable=False),
    *_entry_columns(),
    # Which share of the log it belongs to (`earnorm.slots`), so that a reader of some slots is sent no others.
    Column("slot", SmallInteger, nullable=False),
    # Last, since most rows leave it out: the earliest time of its deliveries. One set aside has a time of its own.
    Column("due", _Time),
    Index("earnorm_log_id", "id", unique=True),
    # For `find`, and the history of one record. A position is part of every SQLite index; other databases need it told.
    Index("earnorm_log_key", "key", "position"),
    # AUTOINCREMENT, or SQLite would give the positions of a pruned log out again, below cursors that passed them.
    sqlite_autoincrement=True,
)

# Thousands of entries as one row, until the first who works the log makes rows of the log of them: `bundles`.
bundle = Table(
    "earnorm_bundle",
    metadata,
    # The lowest and the highest of their positions, which are theirs from the beginning.
    Column("first", _Position, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    # All of them, as a list, where others have taken some in between.
    Column("positions", Text),
    Column("ids", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    *(
        Column(column.name, column.type, nullable=column.nullable or column.name == "correlation_id")
        for column in _entry_columns()
        if column.name in SHARED_COLUMNS
    ),
)

group = Table(
    "earnorm_group",
    metadata,
    Column("name", Text, primary_key=True),
    # Grows with every change of who follows which cursor. Whoever makes one has this row locked.
    Column("generation", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
)

subscription = Table(
    "earnorm_subscription",
    metadata,
    Column("name", Text, primary_key=True),
    Column("group_name", Text, nullable=False),
    # It is given what lies past this.
    Column("start", BigInteger, nullable=False),
    # Whether it follows a cursor of its own name; else its group's.
    Column("apart", Boolean, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("seen", _Time, nullable=False),
    # Entries that were pruned before it could be given them.
    Column("missed", BigInteger, nullable=False),
)

# Other names of subscriptions, which old and new versions of a program call them by.
alias = Table(
    "earnorm_alias",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("name", Text, nullable=False),
)

# How far each range of slots was worked, and the lease on it. The name is "" for the one that a group shares.
cursor = Table(
    "earnorm_cursor",
    metadata,
    Column("group_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("first", SmallInteger, primary_key=True, autoincrement=False),
    Column("last", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    # "" while nobody holds it; the fence outlives its holders.
    Column("worker", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("deaths", Integer, nullable=False),
)

worker = Table(
    "earnorm_worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires", _Time, nullable=False),
    Column("dedicated", Boolean, nullable=False),
    Column("idle", Boolean, nullable=False),
    # The subscriptions that it can run, as JSON: a heartbeat leaves it alone, however long it is.
    Column("knows", Text, nullable=False),
)

# What each subscription hears, for processes that do not know its handler: names, patterns, "!" before exclusions.
interest = Table(
    "earnorm_interest",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("pattern", Text, primary_key=True),
)

delivery = Table(
    "earnorm_delivery",
    metadata,
    Column("id", _Position, primary_key=True, autoincrement=True),
    Column("subscription", Text, nullable=False),
    Column("due", _Time, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("ordered", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # A copy of the entry, so that pruning the log cannot orphan a delivery.
    Column("position", BigInteger, nullable=False),
    Column("event", _Id, nullable=False),
    *_entry_columns(),
    Column("slot", SmallInteger, nullable=False),
    # Who runs it on its own; "" for nobody.
    Column("worker", Text, nullable=False),
    Column("suspect", Boolean, nullable=False),
    Index("earnorm_delivery_event", "event"),
    sqlite_autoincrement=True,
)


def is_open(row: FromClause) -> ColumnElement[bool]:
    # A literal, no parameter: a partial index serves only queries that spell its condition out.
    return row.c.state == literal_column("'open'")


def is_dead(row: FromClause) -> ColumnElement[bool]:
    return row.c.state == literal_column("'dead'")


def is_waited_for(row: FromClause) -> ColumnElement[bool]:
    """Open and ordered: later ones of its subscription and key wait behind it."""
    return is_open(row) & row.c.ordered


def _partial_index(name: str, *columns: Column[object], where: ColumnElement[bool]) -> Index:
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


def is_running(row: FromClause) -> ColumnElement[bool]:
    return row.c.worker != literal_column("''")


_partial_index("earnorm_delivery_due", delivery.c.subscription, delivery.c.due, delivery.c.id, where=is_open(delivery))
_partial_index("earnorm_delivery_running", delivery.c.worker, where=is_running(delivery))
_partial_index(
    "earnorm_delivery_lane", delivery.c.subscription, delivery.c.key, delivery.c.id, where=is_waited_for(delivery)
)
# For those who look at dead letters among many open ones, and the other way round.
_partial_index("earnorm_delivery_dead", delivery.c.subscription, delivery.c.id, where=is_dead(delivery))

# The attempts of deliveries that failed. By subscription and event, since a delivery's row has no id before its insert.
attempt = Table(
    "earnorm_attempt",
    metadata,
    Column("id", _Position, primary_key=True, autoincrement=True),
    Column("subscription", Text, nullable=False),
    Column("event", _Id, nullable=False),
    Column("number", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("started", _Time, nullable=False),
    # In microseconds, as times are.
    Column("duration", BigInteger, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Index("earnorm_attempt_event", "event", "subscription"),
    sqlite_autoincrement=True,
)

# What triggers on the models' tables saw, in the transaction that wrote it, until it is turned into entries of the log.
capture = Table(
    "earnorm_capture",
    metadata,
    Column("id", _Position, primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False),
    # The primary key's stored values, as JSON.
    Column("key", Text, nullable=False),
    Column("operation", Text, nullable=False),
    # Stored values by column, as JSON; None where there are none.
    Column("old", Text),
    Column("new", Text),
    # Names of sensitive columns that changed, as JSON.
    Column("hidden", Text, nullable=False),
    # Whose it is, where a database numbers its transactions; else 0.
    Column("transaction", BigInteger, nullable=False),
    Column("at", _Time, nullable=False),
    Index("earnorm_capture_key", "subject", "key"),
    Index("earnorm_capture_transaction", "transaction"),
    sqlite_autoincrement=True,
)

# The idempotency keys of events, with whatever tells whether a repeated emit says the same.
idempotency = Table(
    "earnorm_key",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("event", _Id, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("at", _Time, nullable=False),
    Index("earnorm_key_at", "at"),
)

schema = Table(
    "earnorm_schema",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
)
