"""The store over SQLAlchemy: the verbs over statements written as Core, in a transaction of its own or the caller's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, delete

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import READONLY, Dialect, dialect_named, dialect_of
from earnorm.backends.sqlalchemy.rows import (
    delivery_row,
    key_row,
    log_rows,
    microseconds,
    parse_id,
    rescheduling,
    to_delivery,
    to_entry,
    to_key,
    to_time,
)
from earnorm.backends.sqlalchemy.statements import Statements
from earnorm.clock import Clock, SystemClock
from earnorm.delivery import Delivery
from earnorm.emission import IdempotencyKey
from earnorm.errors import ConnectionLost, LeaseLost
from earnorm.event import Entries, Entry
from earnorm.store import Advance, Lease, Seen, Settlement

__all__ = ["SQLAlchemyStore", "SQLAlchemyTransaction"]

# Values in one IN list: below the parameters that any database takes (SQLite 32,766).
_VALUES_A_LIST = 10_000

T = TypeVar("T")


class SQLAlchemyStore:
    """The log in the database of `engine`, whose tables `migrations.upgrade` has made."""

    def __init__(self, engine: Engine, *, clock: Clock | None = None) -> None:
        self._dialect = dialect_of(engine)
        self._statements = Statements(engine.dialect)
        self._words = {engine.dialect.driver: (self._dialect, self._statements)}
        self._engine = engine.execution_options(**self._dialect.own_transactions)
        self._reader = self._engine.execution_options(**READONLY)
        self._clock = clock or SystemClock()

    @property
    def own_engine(self) -> Engine:
        """The engine with the options of the store's own transactions."""
        return self._engine

    @contextmanager
    def begin(self, *, readonly: bool = False) -> Iterator[SQLAlchemyTransaction]:
        engine = self._reader if readonly else self._engine
        with self.noticing_loss(), engine.begin() as connection:
            yield self.join(connection)

    @contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """Raises ConnectionLost in place of what a driver says of a connection that broke."""
        try:
            yield
        except BaseException as error:
            if self._dialect.is_lost(error):
                self._dialect.forget()
                raise ConnectionLost(str(error)) from error
            raise

    def join(self, connection: Connection) -> SQLAlchemyTransaction:
        # The caller's engine may have another driver, which writes parameters in another way.
        words = self._words.get(connection.dialect.driver)
        if words is None:
            dialect = connection.dialect
            words = self._words[dialect.driver] = (dialect_named(dialect), Statements(dialect))
        return SQLAlchemyTransaction(connection, *words, self._clock)

    def require_sound(self) -> None:
        """Raises UnsoundLog, with the SQL that repairs it, if the log cannot be relied on as it stands."""
        with self._reader.begin() as connection:
            self._dialect.require_sound(connection)

    def close(self) -> None:
        """Close the pool's idle connections. The engine can be used again, and opens new ones."""
        self._engine.dispose()


class SQLAlchemyTransaction:
    """The verbs, on one Connection."""

    __slots__ = ("_clock", "_connection", "_dialect", "_statements")

    def __init__(self, connection: Connection, dialect: Dialect, statements: Statements, clock: Clock) -> None:
        self._connection = connection
        self._dialect = dialect
        self._statements = statements
        self._clock = clock

    # --- the log ---

    @property
    def connection(self) -> Connection:
        return self._connection

    def append(self, entries: Sequence[Entry]) -> None:
        self.append_meeting(entries)

    def append_meeting(self, entries: Sequence[Entry]) -> bool:
        """`append`; returns whether triggers may have captured changes of this transaction as well."""
        return self._dialect.append(self._connection, log_rows(entries))

    def take_back(self, ids: Sequence[bytes]) -> None:
        """Undo an append of this very transaction, to append something else in its place."""
        for some in _in_lists(list(ids)):
            self._connection.execute(delete(tables.log).where(tables.log.c.id.in_(some)))

    def append_many(self, entries: Entries) -> None:
        self.append_many_meeting(entries)

    def append_many_meeting(self, entries: Entries) -> bool:
        """`append_many`, as `append_meeting`."""
        return self._dialect.append_many(self._connection, entries)

    def now(self) -> datetime:
        return self._dialect.now(self._connection, self._clock)

    def horizon(self) -> int:
        return self._dialect.horizon(self._connection, self._clock)

    def read(self, after: int, upto: int, limit: int) -> list[Entry]:
        rows = self._statements.read(self._connection, after=after, upto=upto, limit=limit)
        return [to_entry(row) for row in rows]

    def find(self, key: str, name: str, after: int) -> Entry | None:
        row = self._statements.find(self._connection, key=key, name=name, after=after).fetchone()
        return to_entry(row) if row else None

    def get(self, event: UUID) -> Entry | None:
        row = self._statements.get(self._connection, event_id=event.bytes).fetchone()
        return to_entry(row) if row else None

    # --- idempotency keys ---

    def reserve(self, keys: Sequence[IdempotencyKey]) -> dict[UUID, IdempotencyKey]:
        ours = self._dialect.reserve(self._connection, [key_row(key) for key in keys]) if keys else set[bytes]()
        # Another transaction took them first; it is committed by now, or this one would still wait for it.
        lost = [key for key in keys if key.event.bytes not in ours]
        return {key.event: first for key in lost if (first := self.reserved(*key.place)) is not None}

    def reserved(self, tenant: str, name: str, text: str) -> IdempotencyKey | None:
        row = self._statements.reserved(self._connection, tenant=tenant, name=name, text=text).fetchone()
        return to_key(row) if row else None

    def forget_keys(self, before: datetime, limit: int) -> int:
        return self._statements.forget_keys(self._connection, before=microseconds(before), limit=limit).rowcount

    # --- subscriptions ---

    def subscribe(self, names: Sequence[str]) -> None:
        known = self.cursors()
        missing = [name for name in dict.fromkeys(names) if name not in known]
        if missing:
            horizon = self.horizon()
            rows = [(name, horizon) for name in missing]
            self._dialect.insert_missing(self._connection, tables.subscription, rows)

    def cursors(self) -> dict[str, int]:
        return {name: position for name, position in self._statements.cursors(self._connection)}  # noqa: C416  rows are no pairs to a type checker

    def hear(self, heard: Mapping[str, Collection[str]]) -> None:
        """Write down what these subscriptions hear, in place of what they heard before."""
        known = self.interests()
        changed = [name for name, patterns in heard.items() if known.get(name, set()) != set(patterns)]
        for name in changed:
            self._statements.forget_interests(self._connection, name=name)
        rows = [(name, pattern) for name in changed for pattern in sorted(heard[name])]
        if rows:
            self._dialect.insert_missing(self._connection, tables.interest, rows)

    def interests(self) -> dict[str, set[str]]:
        """What every recorded subscription hears, whichever process has its handler."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, pattern in self._statements.interests(self._connection):
            found[name].add(pattern)
        return found

    # --- the lease ---

    def claim(self, worker: str, seconds: float) -> Lease | None:
        now = self.now()
        expires = now + timedelta(seconds=seconds)
        if self._dialect.locks_rows and not self._may_take_over(worker, now):
            return None
        row = self._statements.claim(
            self._connection, claimant=worker, until=microseconds(expires), now=microseconds(now)
        ).fetchone()
        return Lease(worker, row[0], expires) if row else None

    def _may_take_over(self, worker: str, now: datetime) -> bool:
        """Wait for the settlement under way, whose share of the lease an UPDATE alone would not respect.

        A renewal changes no fence, so it waits for nobody.
        """
        held_by, _, expires = self._statements.holder(self._connection).one()
        if held_by == worker:
            return True
        if held_by and expires > microseconds(now):
            return False
        self._statements.lock_lease(self._connection)
        # Whatever happened to the table meanwhile, a restore or a switch of servers, the next reader is to know.
        self._dialect.require_sound(self._connection)
        return True

    def holder(self) -> Lease | None:
        worker, fence, expires = self._statements.holder(self._connection).one()
        return Lease(worker, fence, to_time(expires)) if worker else None

    def release(self, lease: Lease) -> None:
        self._statements.release(self._connection, holder=lease.worker, held=lease.fence)

    # --- deliveries set aside ---

    def due(self, limit: int) -> list[Delivery]:
        rows = self._statements.due(self._connection, now=microseconds(self.now()), limit=limit)
        return [to_delivery(row) for row in rows]

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        # Mostly nothing is set aside at all, which costs one look to know.
        if not pairs or self._statements.any_waited_for(self._connection).fetchone() is None:
            return set()
        return self._dialect.blocked(self._connection, pairs)

    def open(self) -> tuple[int, datetime | None]:
        count = self._statements.count_open(self._connection).scalar_one()
        if not count:
            return 0, None
        due = self._statements.next_due(self._connection).scalar()
        return count, None if due is None else to_time(due)

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        if event is None:
            rows = self._statements.deliveries(self._connection)
        else:
            rows = self._statements.deliveries_of(self._connection, event_id=parse_id(event))
        return [to_delivery(row) for row in rows]

    # --- settling ---

    def settle(self, lease: Lease, settlement: Settlement) -> None:
        with self._all_or_nothing():
            self._write_deliveries(settlement)
            if settlement.emitted:
                taken = self.reserve(settlement.keys)
                self.append([entry for entry in settlement.emitted if entry.id not in taken])
            # Last, so that on databases with row locks the lease is held for as short as can be.
            if not (self._stands(settlement.seen) and self._holds(lease) and self._advance(settlement.advances)):
                raise LeaseLost(lease.worker, lease.fence)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A savepoint below SQLAlchemy: no session joined to this connection has anything to do for it."""
        self._connection.exec_driver_sql("SAVEPOINT earnorm_settle")
        try:
            yield
        except BaseException:
            if not self._connection.invalidated:
                self._connection.exec_driver_sql("ROLLBACK TO SAVEPOINT earnorm_settle")
                self._connection.exec_driver_sql("RELEASE SAVEPOINT earnorm_settle")
            raise
        self._connection.exec_driver_sql("RELEASE SAVEPOINT earnorm_settle")

    def _stands(self, seen: Seen | None) -> bool:
        if seen is None:
            return True
        row = self._statements.stands(self._connection, place=seen.position, event_id=seen.event.bytes).fetchone()
        return row is not None

    def _holds(self, lease: Lease) -> bool:
        row = self._statements.held(self._connection, holder=lease.worker, held=lease.fence).fetchone()
        return row is not None

    def _advance(self, advances: Mapping[str, Advance]) -> bool:
        """Move the cursors, and say whether each stood where it should. Those that move alike move by one UPDATE."""
        together: dict[Advance, list[str]] = defaultdict(list)
        for name, advance in advances.items():
            together[advance].append(name)
        return all(self._move(advance, some) for advance, names in together.items() for some in _in_lists(names))

    def _move(self, advance: Advance, names: list[str]) -> bool:
        names_by_place = {f"name_{number}": name for number, name in enumerate(names)}
        result = self._statements.move(len(names))(
            self._connection, previous=advance.previous, to_position=advance.position, **names_by_place
        )
        return result.rowcount == len(names)

    def _write_deliveries(self, settlement: Settlement) -> None:
        if settlement.set_aside:
            rows = [delivery_row(delivery) for delivery in settlement.set_aside]
            self._dialect.insert(self._connection, tables.delivery, rows)
        if settlement.rescheduled:
            self._statements.reschedule.many(self._connection, map(rescheduling, settlement.rescheduled))
        for some in _in_lists(list(settlement.finished)):
            self._connection.execute(delete(tables.delivery).where(tables.delivery.c.id.in_(some)))


def _in_lists(values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), _VALUES_A_LIST):
        yield values[start : start + _VALUES_A_LIST]
