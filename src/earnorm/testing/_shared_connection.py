"""The shared connection: one real transaction that many may take for a database, each of theirs a savepoint of it."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from earnorm.errors import OverlappingTransactions, UnsupportedInTest
from earnorm.portal import await_here, can_await, owner

__all__ = ["SharedConnection", "Stage", "Turn"]

_READS = ("SELECT", "VALUES", "PRAGMA", "EXPLAIN", "SHOW")
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_numbers = itertools.count(1)


class Turn:
    """Whose turn it is to write on a connection: its savepoints nest, and so cannot overlap."""

    def __init__(self, patience: float = 5.0) -> None:
        self.mutex = threading.RLock()
        self._patience = patience
        self._freed = threading.Condition(self.mutex)
        self._awaiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._writer: SharedConnection | None = None
        self._whose = (0, 0)

    def take(self, connection: SharedConnection) -> None:
        """Wait until nobody else has written and not ended. Raises OverlappingTransactions where that cannot come."""
        me = owner()
        with self._freed:
            if self._writer is None:
                self._writer, self._whose = connection, me
                return
            # Nobody is left to end it if this very code holds it, or code that this one would block.
            hopeless = self._whose == me or (self._whose[0] == me[0] and not can_await())
        if hopeless:
            raise OverlappingTransactions("the same task or thread")
        if can_await():
            await_here(self._afree())
        else:
            with self._freed:
                if not self._freed.wait_for(lambda: self._writer is None, self._patience):
                    raise OverlappingTransactions(f"another one for {self._patience:g} s")
        self.take(connection)

    async def _afree(self) -> None:
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self.mutex:
            if self._writer is None:
                return
            self._awaiting.append(waiting)
        try:
            await asyncio.wait_for(waiting[1].wait(), self._patience)
        except TimeoutError as error:
            raise OverlappingTransactions(f"another one for {self._patience:g} s") from error

    def free(self, stage: Stage) -> None:
        """The writer of this stage, if it is its turn, has ended."""
        with self._freed:
            if self._writer is None or self._writer.stage is not stage:
                return
            self._writer = None
            self._freed.notify_all()
            awaiting, self._awaiting = self._awaiting, []
        for loop, event in awaiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


class Stage:
    """The real connection, in its transaction, for as long as a block lasts.

    `guarded` says that an error would end the real transaction, so that what only reads needs a savepoint as well;
    `committed` is a statement to run behind each commit.
    """

    def __init__(self, real: Any, *, guarded: bool, committed: str | None = None, turn: Turn | None = None) -> None:
        self.real = real
        self.guarded = guarded
        self.committed = committed
        self.turn = turn or Turn()
        self.over = False

    @contextmanager
    def inner(self) -> Iterator[Stage]:
        """A block inside this one, undone at its end."""
        name = f"earnorm_block_{next(_numbers)}"
        self.run(f"SAVEPOINT {name}")
        try:
            yield Stage(self.real, guarded=self.guarded, committed=self.committed, turn=self.turn)
        finally:
            self.run(f"ROLLBACK TO SAVEPOINT {name}")
            self.run(f"RELEASE SAVEPOINT {name}")

    def end(self) -> None:
        """Who still holds a connection can only close it from now on."""
        self.over = True
        self.turn.free(self)

    def run(self, statement: str) -> None:
        with self.turn.mutex:
            cursor = self.real.cursor()
            try:
                cursor.execute(statement)
            finally:
                cursor.close()

    def read(self, work: Callable[[], Any]) -> Any:
        """Run what only reads, for one that has no savepoint."""
        with self.turn.mutex:
            if not self.guarded:
                return work()
            name = f"earnorm_read_{next(_numbers)}"
            self.run(f"SAVEPOINT {name}")
            try:
                result = work()
            except BaseException:
                self.run(f"ROLLBACK TO SAVEPOINT {name}")
                raise
            finally:
                self.run(f"RELEASE SAVEPOINT {name}")
            return result

    def write(self, work: Callable[[], Any]) -> Any:
        with self.turn.mutex:
            return work()


class SharedConnection:
    """What the driver's connection is to SQLAlchemy. Its transaction begins as a savepoint when it first writes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._savepoint = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage.real, name)

    def cursor(self, *args: Any, **options: Any) -> _Cursor:
        return _Cursor(self, self.stage.real.cursor(*args, **options))

    def run(self, statement: object, work: Callable[[], Any]) -> Any:
        if self.stage.over:
            raise UnsupportedInTest("a connection used after the end of the block", "what it wrote is undone already")
        if can_await():
            # As any driver would: the task's turn ends with each statement, and SQLAlchemy asks for it.
            await_here(asyncio.sleep(0))
        if not self._savepoint and _only_reads(str(statement)):
            return self.stage.read(work)
        if not self._savepoint:
            self.stage.turn.take(self)
            self._savepoint = f"earnorm_test_{next(_numbers)}"
            self.stage.run(f"SAVEPOINT {self._savepoint}")
        return self.stage.write(work)

    def commit(self) -> None:
        self._end("RELEASE SAVEPOINT {}", *([self.stage.committed] if self.stage.committed else []))

    def rollback(self) -> None:
        self._end("ROLLBACK TO SAVEPOINT {}", "RELEASE SAVEPOINT {}")

    def close(self) -> None:
        self.rollback()

    def _end(self, *statements: str) -> None:
        name, self._savepoint = self._savepoint, ""
        if not name or self.stage.over:
            return
        try:
            for statement in statements:
                self.stage.run(statement.format(name))
        finally:
            self.stage.turn.free(self.stage)

    def tpc_begin(self, _xid: Any) -> None:
        raise UnsupportedInTest("a two-phase transaction", "no part of one can be undone once it is prepared")


class _Cursor:
    """A cursor of one thread on everybody's connection: its rows are read within its turn, since no driver can have
    one thread in the rows of a statement while another thread runs the next.
    """

    def __init__(self, connection: SharedConnection, real: Any) -> None:
        self._connection = connection
        self._real = real
        self._rows: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    async def _async_soft_close(self) -> None:
        """SQLAlchemy asks an async driver's cursor to end its traffic; there is none."""

    def execute(self, statement: Any, *args: Any, **options: Any) -> _Cursor:
        self._connection.run(statement, lambda: self._read(self._real.execute(statement, *args, **options)))
        return self

    def executemany(self, statement: Any, *args: Any, **options: Any) -> _Cursor:
        self._connection.run(statement, lambda: self._real.executemany(statement, *args, **options))
        return self

    def _read(self, _executed: Any) -> None:
        self._rows = deque(self._real.fetchall() if self._real.description else ())

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return list(itertools.islice(self, self._real.arraysize if size is None else size))

    def fetchall(self) -> list[Any]:
        return list(self)


def _only_reads(statement: str) -> bool:
    words = statement.lstrip("( \n\t").upper()
    return words.startswith(_READS) or (words.startswith("WITH") and not _WRITES.search(words))
