"""Stages on a database: one Connection in one transaction, in which each handler has a session of its own.

A handler's session stands on a savepoint, which is the attempt's: whatever the handler commits or rolls back itself,
the attempt stays or goes as a whole. It is opened when the session first has something to say, and what comes after a
commit of the handler's own stands on one more, inside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import Connection, NestedTransaction, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from earnorm.backends.sqlalchemy.boundary import seal
from earnorm.backends.sqlalchemy.dialects.severing import sever
from earnorm.backends.sqlalchemy.scope import Scope, enter_scope
from earnorm.errors import TransactionError
from earnorm.orm.engines import schemas_here
from earnorm.stage import Stage

if TYPE_CHECKING:
    from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction
    from earnorm.orm.database import Database

__all__ = ["DatabaseStage", "DatabaseStages", "StageScope"]

T = TypeVar("T")

# Classes of SQLSTATE in which a server speaks of itself or of who else is there, not of what it was given.
_OF_THE_SERVER = frozenset({"08", "25", "40", "53", "55", "57", "58", "XX"})

# What of a Connection would end its transaction.
_ENDS = ("commit", "rollback", "close")


class StageScope(Scope):
    """The scope of a handler whose database effects are committed with its mark."""

    __slots__ = ()


class _Joined(Session):
    """A handler's session: whatever it writes, it writes on the stage."""

    def __init__(self, bind: None = None, binds: None = None, *, stage: DatabaseStage) -> None:
        super().__init__(bind, binds=binds, expire_on_commit=False, join_transaction_mode="rollback_only")
        self._stage = stage

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        return self._stage.hold(self)


@event.listens_for(_Joined, "after_transaction_end")
def _after_transaction_end(session: _Joined, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session._stage.divide()


class DatabaseStage:
    """A stage on one Connection."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self.transaction: SQLAlchemyTransaction = database.store.join(connection)
        self.severed = False
        self._database = database
        self._connection = connection
        self._most = database.store.most_savepoints
        self._count = 0
        self._first: NestedTransaction | None = None
        self._divided = False
        self._scope: Scope | None = None
        # Held here: SQLAlchemy finds the AsyncSession of a Session only while somebody does.
        self._async_session: AsyncSession | None = None

    @property
    def is_full(self) -> bool:
        return self._most is not None and self._count >= self._most

    @property
    def session(self) -> Session:
        assert self._scope is not None
        return self._scope.session

    def async_session(self) -> AsyncSession:
        assert self._async_session is not None
        return self._async_session

    def hold(self, session: Session) -> Connection:
        """The Connection, once the attempt's savepoint is there. Raises TransactionError for a session left behind."""
        if self._scope is None or self._scope.session is not session:
            raise TransactionError("the session of a transactional handler ends with it, and is used no more")
        if self._first is None:
            if schemas := schemas_here(self._database.schemas):
                self._connection.execution_options(schema_translate_map=schemas)
            self._first = self._connection.begin_nested()
            self._count += 1
        elif self._divided:
            self._connection.begin_nested()
        self._divided = False
        return self._connection

    def divide(self) -> None:
        """The handler has committed or rolled back itself: what comes then can be rolled back by itself."""
        self._divided = True

    # --- an attempt --------------------------------------------------------------------------

    def enter(self) -> None:
        if self._connection.dialect.is_async:
            self._async_session = AsyncSession(sync_session_class=_Joined, stage=self)
            session = self._async_session.sync_session
        else:
            session = _Joined(stage=self)
        self._scope = StageScope(session, self._database)
        enter_scope(self._scope)

    def keep(self) -> None:
        if self.session.in_transaction():
            self.session.commit()
        if self._first is not None:
            self._end(self._first, NestedTransaction.commit, released=self._first.is_active)
            # Of one record two attempts may tell, and each tells of its own change.
            seal(self._connection)
        self._leave()

    def drop(self) -> None:
        self.session.close()
        if self._first is not None:
            self._end(self._first, NestedTransaction.rollback, released=False)
        self._leave()

    def _end(self, first: NestedTransaction, end: Callable[[NestedTransaction], None], *, released: bool) -> None:
        while (inner := self._connection.get_nested_transaction()) is not None:
            end(inner)
        if not released:
            # What was rolled back to stays, and those to come would stand inside of it.
            self._connection.dialect.do_release_savepoint(self._connection, first._savepoint)

    def _leave(self) -> None:
        assert self._scope is not None
        self._scope.closed = True
        self._scope.session.close()
        if self._connection.get_execution_options().get("schema_translate_map"):
            self._connection.execution_options(schema_translate_map=None)
        self._scope = self._first = self._async_session = None
        self._divided = False

    def hint(self, error: BaseException) -> str | None:
        if not isinstance(error, OperationalError) or "database is locked" not in str(error.orig):
            return None
        return (
            "a transactional handler has SQLite's one write lock until its transaction ends; to write in that, use its "
            "session, or save(), emit() and db.transaction(), which find it"
        )

    def sever(self) -> None:
        self.severed = True
        sever(self._connection.connection.dbapi_connection)


@contextmanager
def _kept(connection: Connection) -> Iterator[None]:
    """What a session lends of it may be used, and neither committed nor ended: that would part marks from effects."""
    own = vars(connection)
    own.update({verb: partial(_refuse, verb) for verb in _ENDS})
    try:
        yield
    finally:
        for verb in _ENDS:
            del own[verb]


def _refuse(verb: str) -> NoReturn:
    raise TransactionError(
        f"{verb}() of the connection would end the transaction that a transactional handler shares with its mark; "
        "leave it open: commit() and rollback() of the session end a savepoint, and no more"
    )


class DatabaseStages:
    """Those of one database: on its sync engine, and on a loop on the async one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def perform(self, work: Callable[[Stage], T]) -> T:
        store = self._database.store
        with store.noticing_loss(), store.own_engine.connect() as connection:
            return self._perform(connection, work)

    def blames(self, error: Exception) -> bool:
        if not isinstance(error, DBAPIError):
            return True
        # Not by its class, where there is a state: asyncpg has one class for most of what a trigger may raise.
        state = getattr(error.orig, "sqlstate", None)
        if isinstance(state, str):
            return state[:2] not in _OF_THE_SERVER
        return isinstance(error, (IntegrityError, DataError, ProgrammingError))

    async def aperform(self, work: Callable[[Stage], T]) -> T:
        store = self._database.store
        engine = self._database.async_engine.execution_options(**store.own_engine.get_execution_options())
        with store.noticing_loss():
            async with engine.connect() as connection:
                return await connection.run_sync(self._perform, work)

    def _perform(self, connection: Connection, work: Callable[[Stage], T]) -> T:
        stage = DatabaseStage(self._database, connection)
        try:
            with connection.begin(), _kept(connection):
                return work(stage)
        finally:
            if stage.severed:
                # What is left of it is nothing for the pool.
                connection.invalidate()
