"""What the parts of the SQL store's transaction have in common: one Connection, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy.dialects import Dialect
from earnorm.backends.sqlalchemy.statements import Statements
from earnorm.clock import Clock

__all__ = ["Verbs"]


class Verbs:
    """The store's statements, on one Connection."""

    __slots__ = ("_clock", "_connection", "_dialect", "_statements")

    def __init__(self, connection: Connection, dialect: Dialect, statements: Statements, clock: Clock) -> None:
        self._connection = connection
        self._dialect = dialect
        self._statements = statements
        self._clock = clock

    def now(self) -> datetime:
        return self._dialect.now(self._connection, self._clock)

    def horizon(self) -> int:
        return self._dialect.horizon(self._connection, self._clock)

    @contextmanager
    def _all_or_nothing(self, name: str) -> Iterator[None]:
        """A savepoint below SQLAlchemy: no session joined to this connection has anything to do for it."""
        self._connection.exec_driver_sql(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            if not self._connection.invalidated:
                self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {name}")
                self._connection.exec_driver_sql(f"RELEASE SAVEPOINT {name}")
            raise
        self._connection.exec_driver_sql(f"RELEASE SAVEPOINT {name}")
