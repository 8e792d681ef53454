"""The store over SQLAlchemy: the verbs over statements written as Core, in a transaction of its own or the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from sqlalchemy import Connection, Engine, PoolProxiedConnection

from earnorm.backends.sqlalchemy.deliveries import DeliveryVerbs
from earnorm.backends.sqlalchemy.dialects import READONLY, Seen, dialect_named, dialect_of
from earnorm.backends.sqlalchemy.dialects.side_connection import Ears
from earnorm.backends.sqlalchemy.entries import glance_of
from earnorm.backends.sqlalchemy.statements import Statements
from earnorm.backends.sqlalchemy.upkeep import UpkeepVerbs
from earnorm.clock import Clock, SystemClock
from earnorm.errors import ConnectionLost
from earnorm.glance import Glance, Span, glance_at

__all__ = ["SQLAlchemyStore", "SQLAlchemyTransaction"]


class SQLAlchemyStore:
    """The log in the database of `engine`, whose tables `migrations.upgrade` has made."""

    def __init__(self, engine: Engine, *, clock: Clock | None = None) -> None:
        self._dialect = dialect_of(engine)
        self._statements = Statements(engine.dialect)
        self._words = {engine.dialect.driver: (self._dialect, self._statements)}
        self._given = engine
        self._engine = engine.execution_options(**self._dialect.own_transactions)
        self._reader = self._engine.execution_options(**READONLY, **self._dialect.own_reads)
        self._clock = clock or SystemClock()
        # Those of the worker that looks here most.
        self.ears: Ears | None = None

    @property
    def divides(self) -> bool:
        return self._dialect.locks_rows

    @property
    def most_savepoints(self) -> int | None:
        """How many handlers that write one transaction should take, if there is a price on more."""
        return self._dialect.most_savepoints

    @property
    def own_engine(self) -> Engine:
        """The engine with the options of the store's own transactions."""
        return self._engine

    @property
    def clock(self) -> Clock:
        return self._clock

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

    def glance(self, span: Span | None) -> Glance:
        """On the driver's own connection, unless somebody listens to SQLAlchemy's statements."""
        # Not the reader's own dispatch, which has none of these and joins them with the engine's at every look.
        engine = self._given
        heard = engine.dispatch.before_cursor_execute or engine.dispatch.after_cursor_execute
        if heard or engine._should_log_info():
            return glance_at(self, span)
        # Not from the pool, if it can be: at hand, where to take one out and put it back takes as long as a statement.
        if (seen := self._seen_by_ears(span)) is not None:
            return glance_of(seen, span)
        with self.noticing_loss(), closing(self._reader.raw_connection()) as connection:
            seen = self._seen(connection, span)
        return glance_at(self, span) if seen is None else glance_of(seen, span)

    def _seen_by_ears(self, span: Span | None) -> Seen | None:
        """By the connection that the worker waits by."""
        ears = self.ears
        # Somebody may have set each connection up as it left the pool.
        if ears is None or self._given.pool.dispatch.checkout or (driver := ears.lend()) is None:
            return None
        try:
            return self._dialect.glance(driver, self._statements, span, self._clock)
        except ConnectionLost:
            self._dialect.forget()
            raise
        finally:
            ears.back()

    def _seen(self, connection: PoolProxiedConnection, span: Span | None) -> Seen | None:
        try:
            return self._dialect.glance(connection.driver_connection, self._statements, span, self._clock)
        except ConnectionLost:
            self._dialect.forget()
            # SQLAlchemy is to notice as well, and to give up what else is in the pool.
            with suppress(Exception), Connection(self._given, connection) as again:
                again.exec_driver_sql("SELECT 1")
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


class SQLAlchemyTransaction(DeliveryVerbs, UpkeepVerbs):
    """The verbs, on one Connection."""

    __slots__ = ()
