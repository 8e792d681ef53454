"""A transaction: `with db.transaction()` or `async with db.transaction()`; inside another one it is a savepoint."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession, async_session
from sqlalchemy.orm import Session, SessionTransaction

from earnorm.backends.sqlalchemy.salvage import require_sound, reread, salvage
from earnorm.backends.sqlalchemy.scope import Scope, current_scope, enter_scope, leave_scope
from earnorm.errors import SavepointInPreHook, TransactionFailed, TransactionOpenAlready
from earnorm.portal import can_await, refuse_in_coroutine, spawn

if TYPE_CHECKING:
    from earnorm.orm.database import Database

__all__ = ["OpenTransactions", "Transaction"]

S = TypeVar("S", Session, AsyncSession)

# Sessions of a parent process: to drop one here would roll it back there.
_inherited: list[Session] = []


class Opened(Generic[S]):
    """What a `with` block gets: `session`, for queries of its own beside `save` and `find`."""

    __slots__ = ("session",)

    session: S

    def __init__(self, session: S) -> None:
        self.session = session


class OpenTransactions:
    """The transactions of a database that are under way, for `close` to wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[Transaction] = set()

    def add(self, transaction: Transaction) -> None:
        with self._changed:
            self._open.add(transaction)

    def discard(self, transaction: Transaction) -> None:
        with self._changed:
            self._open.discard(transaction)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Whether all of them ended within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)


class Transaction:
    """Commits when its block ends, rolls back when it raises. It belongs to the task or thread that opened it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._scope: Scope | None = None
        self._previous: Scope | None = None
        self._savepoint: SessionTransaction | None = None
        self._async_session: AsyncSession | None = None
        self._process = 0

    def __enter__(self) -> Opened[Session]:
        refuse_in_coroutine("with db.transaction", "async with db.transaction()")
        self._open(self._database.new_session)
        assert self._scope is not None
        return Opened(self._scope.session)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(failed=kind is not None)

    async def __aenter__(self) -> Opened[AsyncSession]:
        await self._database.aready()
        # Kept here: SQLAlchemy finds the AsyncSession of a Session only while somebody holds it.
        self._async_session = self._database.new_async_session()
        await spawn(self._open, self._sync_session)
        assert self._scope is not None
        return Opened(cast("AsyncSession", async_session(self._scope.session)))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await spawn(lambda: self._close(failed=kind is not None))

    def _sync_session(self) -> Session:
        assert self._async_session is not None
        return self._async_session.sync_session

    def _open(self, new_session: Callable[[], Session]) -> None:
        self._process = os.getpid()
        if self._scope is not None:
            raise TransactionOpenAlready
        outer = current_scope()
        if outer is not None and outer.database in (None, self._database):
            if outer.session._flushing:
                # SQLAlchemy cannot flush before this savepoint, and its rollback would take the record being saved.
                raise SavepointInPreHook
            require_sound(outer.session, "db.transaction()")
            self._scope = outer
            self._savepoint = outer.session.begin_nested()
            return
        session = new_session()
        session.begin()
        salvage(session)
        self._database.opened.add(self)
        self._scope = Scope(session, self._database)
        self._previous = enter_scope(self._scope)

    def _close(self, *, failed: bool) -> None:
        scope, savepoint = self._scope, self._savepoint
        assert scope is not None
        if self._process != os.getpid():
            # A fork that runs its parent's ends: the transaction, and what it would be said on, are the parent's.
            _inherited.append(scope.session)
            return
        self._scope = self._savepoint = None
        if savepoint is not None:
            scope.require_owner()
            _end(savepoint, failed=failed)
            if failed and can_await():
                reread(scope.session)
            return
        session = scope.session
        try:
            scope.require_owner()
            # The scope ends before the transaction: what runs after that opens transactions of its own.
            if failed:
                leave_scope(scope, self._previous)
                session.rollback()
            else:
                require_sound(session, "the end of db.transaction()")
                session.flush()
                leave_scope(scope, self._previous)
                _commit(session)
        finally:
            leave_scope(scope, self._previous)
            session.close()
            self._database.opened.discard(self)


def _end(savepoint: SessionTransaction, *, failed: bool) -> None:
    if failed:
        savepoint.rollback()
        return
    try:
        require_sound(savepoint.session, "the end of db.transaction()")
    except TransactionFailed:
        savepoint.rollback()
        raise
    savepoint.commit()


def _commit(session: Session) -> None:
    try:
        session.commit()
    except BaseException:
        # SQLAlchemy would take its records for stored: a COMMIT that is refused is no rollback to it.
        session.rollback()
        raise
