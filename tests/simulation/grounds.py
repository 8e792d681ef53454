"""The grounds: the shipped stores that stories take place on, each with what its database lets happen at once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from random import Random

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from earnorm.backends.memory import MemoryStore, MemoryTransaction
from earnorm.backends.sqlalchemy import migrations, tables
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.errors import ConnectionLost
from tests.simulation.faults import WORST, Trouble
from tests.simulation.kernel import Kernel, ProcessClock

BUSY_TIMEOUT = 5.0


class Ground:
    """A store, and who may be in it at once.

    always           faults that all of its stories have
    fewest           workers that a story begins with
    switches_within  whether others go on between two verbs of a transaction, each time
    calm             whether the weather is fair, and nobody needs to interfere between statements any more
    epoch            raised when all connections break
    between          called between two statements
    refusals         what its driver raises
    """

    kinds = frozenset(WORST) - {"failover"}
    always: frozenset[str] = frozenset()
    fewest = 1
    switches_within = False
    refusals: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self.epoch = 0
        self.calm = False
        self.between = lambda _statement: None
        self._busy = False

    @contextmanager
    def turn(self, kernel: Kernel, *, readonly: bool):
        """One writer at a time; who waits for too long is refused."""
        if not self._waits(readonly):
            yield
            return
        while self._busy:
            since = kernel.now
            kernel.pause(BUSY_TIMEOUT, lambda: not self._busy)
            if self._busy and kernel.now - since >= BUSY_TIMEOUT:
                raise Trouble("the database is locked")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _waits(self, readonly: bool) -> bool:
        return not readonly

    def fail_over(self, chance: Random, truth, kernel: Kernel) -> None:
        """A server that knows less takes over."""

    def close(self) -> None:
        """Nothing is open."""


class Memory(Ground):
    """The store in memory: the oracle. It alone can fail over to what it was some commits ago."""

    kinds = frozenset(WORST)

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        # As a database with locks on rows, or as one without.
        self.store = MemoryStore(ProcessClock(kernel), divides=kernel.chance.random() < 0.7)
        self._states: list = []

    def store_for(self, process):
        return self.store

    def _waits(self, readonly: bool) -> bool:
        return True

    @contextmanager
    def peek(self):
        yield MemoryTransaction(replace(self.store._state), self.store._clock)

    def remember(self) -> None:
        self._states = [*self._states[-11:], self.store._state]

    def lost(self, store) -> Exception:
        return ConnectionLost("the server closed the connection")

    def fail_over(self, chance: Random, truth, kernel: Kernel) -> None:
        if len(self._states) < 2:
            return
        # What tells most is a server that has the lease and not the event.
        ends = self.store._state.last_position
        poorer = [state for state in self._states if state.last_position < ends]
        few = self._states[-3:-1]
        self.store._state = poorer[-1] if poorer and chance.random() < 0.5 else chance.choice(few)
        self._states = []
        self.epoch += 1
        kernel.tell(None, f"another server takes over, whose log ends at {self.store._state.last_position}")
        truth.forget({entry.id for entry in self.store._state.log})


class SQL(Ground):
    """The store over SQLAlchemy. Others may go on before each statement."""

    refusals = (DBAPIError,)

    def __init__(self, kernel: Kernel, engine) -> None:
        super().__init__()
        self._kernel = kernel
        self._engine = engine
        self.store = self.store_for(None)
        event.listen(engine, "before_cursor_execute", self._before)

    @contextmanager
    def peek(self):
        with self._kernel.still(), self.store.begin(readonly=True) as transaction:
            yield transaction

    def store_for(self, process):
        return SQLAlchemyStore(self._engine, clock=ProcessClock(self._kernel))

    def _before(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        # From outside of any task, as the truth looks, nothing interferes.
        if not self.calm and self._kernel.process is not None:
            self.between(statement)

    def remember(self) -> None:
        """A database has no way back."""

    def lost(self, store) -> Exception:
        """As the store tells it. What it remembers of the server, it forgets."""
        broken = OSError("the server closed the connection")
        try:
            with store.noticing_loss():
                raise OperationalError("SELECT 1", {}, broken, connection_invalidated=True)
        except Exception as error:
            return error

    def close(self) -> None:
        event.remove(self._engine, "before_cursor_execute", self._before)
        self._engine.dispose()


class SQLite(SQL):
    """A file: one writer, and readers beside it."""

    def __init__(self, kernel: Kernel, folder) -> None:
        engine = sqlite_engine(f"sqlite:///{folder}/log.db?synchronous=OFF", pool_size=30)
        with engine.begin() as connection:
            migrations.upgrade(connection)
        super().__init__(kernel, engine)


class PostgreSQL(SQL):
    """A server: transactions stay open side by side. Who would have to wait for a lock is refused, since the one who
    has it cannot go on meanwhile."""

    always = frozenset({"stall"})
    fewest = 2

    def __init__(self, kernel: Kernel, url: str) -> None:
        engine = create_engine(url, pool_size=30, connect_args={"prepare_threshold": None})
        with engine.begin() as connection:
            migrations.upgrade(connection)
            names = [table.name for table in tables.metadata.sorted_tables if table is not tables.schema]
            connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")
        super().__init__(kernel, engine)

    def _waits(self, readonly: bool) -> bool:
        return False
