"""A rolled-back test: what it commits is committed for all that looks, handlers run, and at the end nothing was.

The database's engines are given one connection in one real transaction, and each transaction on them is a savepoint of
it. SQLAlchemy and the boundary see BEGIN, COMMIT and ROLLBACK as ever, so whatever follows a commit follows these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

from sqlalchemy import Engine, NullPool
from sqlalchemy.engine import Dialect

from earnorm.backends.sqlalchemy import boundary
from earnorm.backends.sqlalchemy.dialects.postgresql import PostgreSQL
from earnorm.backends.sqlalchemy.scope import current_scope
from earnorm.errors import TransactionError
from earnorm.orm.database import Database
from earnorm.testing._shared_connection import SharedConnection, Stage
from earnorm.wakeup import Polling

__all__ = ["rolled_back"]

# An append limits how long its transaction may idle. Here that is the whole test, which may stand in a debugger.
_STAY_IDLE = "SET LOCAL idle_in_transaction_session_timeout = 0"


@contextmanager
def rolled_back(db: Database) -> Iterator[Database]:
    """Whatever is written to `db` inside this block is undone at its end; until then it is committed as ever.

        with rolled_back(db):
            order = Order(total=40).save()
            db.drain()

    Hooks and handlers after the commit run when the code inside commits. Durable ones run in `drain()` and `adrain()`
    alone: a worker that was at work pauses. Sync and async doors, sessions of `db` and plain ones on its engines all
    see the same rows, those not yet committed as well. May be nested. Raises TransactionError inside a transaction.
    """
    if current_scope() is not None:
        raise TransactionError("rolled_back() inside db.transaction(); enter it before the transaction")
    db.ready()
    with ExitStack() as stack:
        stack.enter_context(_paused(db))
        stage = stack.enter_context(_stage(db.engine))
        stack.callback(stage.end)
        stack.enter_context(_passes_own_locks(db))
        stack.enter_context(_begins_late(db.engine.dialect))
        stack.enter_context(_on_stage(db.engine, stage))
        stack.enter_context(_on_stage(db.async_engine.sync_engine, stage, lent=db.engine.dialect))
        stack.callback(db.worker.stop, 0)
        yield db


@contextmanager
def _stage(engine: Engine) -> Iterator[Stage]:
    """A connection in a transaction that is undone at the end; inside another block, a savepoint of that one's."""
    with engine.connect() as connection:
        transaction = connection.begin()
        real: Any = connection.connection.dbapi_connection
        try:
            if isinstance(real, SharedConnection):
                with real.stage.inner() as stage:
                    yield stage
            else:
                server = engine.dialect.name != "sqlite"
                yield Stage(real, guarded=server, committed=_STAY_IDLE if server else None)
        finally:
            transaction.rollback()


@contextmanager
def _paused(db: Database) -> Iterator[None]:
    """No worker of the database works by itself, and none remembers afterwards what was undone."""
    worker, embedded, prepared, subscribed = db.worker, db._embedded, db._prepared, db._subscribed
    loop, working = worker._lanes._driving._loop, worker._thread is not None
    # Nobody need be told that no worker is at work.
    absence, db._absence = db._absence, None
    if working:
        worker.stop()
    # Nor other processes of what is undone in the end.
    wakeup = db.wakeup
    db.wakeup = worker._outside = Polling()
    worker._begin_anew()
    worker.use_loop(loop)
    worker._wanted = db._embedded = False
    try:
        yield
    finally:
        db.wakeup = worker._outside = wakeup
        worker._begin_anew()
        worker.use_loop(loop)
        db._embedded, db._prepared, db._subscribed = embedded, prepared, subscribed
        db._absence = absence
        if working:
            worker.start()


@contextmanager
def _passes_own_locks(db: Database) -> Iterator[None]:
    """What the test committed is read, though the one real transaction that wrote it has not ended."""
    words = db.store._dialect
    if not isinstance(words, PostgreSQL):
        yield
        return
    before, words._horizon.passes_own = words._horizon.passes_own, True
    try:
        yield
    finally:
        words._horizon.passes_own = before


@contextmanager
def _begins_late(dialect: Dialect) -> Iterator[None]:
    """The dialect without the BEGIN that `prepare` gave it: a savepoint is made by the first statement that writes."""
    begin = vars(dialect).pop("do_begin", None)
    try:
        yield
    finally:
        if begin is not None:
            vars(dialect)["do_begin"] = begin


def _awaited(dialect: Dialect) -> Dialect:
    """The sync driver's dialect for an AsyncEngine: no two drivers can share a connection."""
    awaited = copy(dialect)
    awaited.is_async = True
    if not awaited.supports_server_side_cursors:
        # `stream()` asks for them.
        awaited.supports_server_side_cursors = True
        base = awaited.execution_ctx_cls
        awaited.execution_ctx_cls = type(base.__name__, (base,), {"create_server_side_cursor": _plain_cursor})
    return awaited


def _plain_cursor(context: Any) -> Any:
    return context._dbapi_connection.cursor()


class _Shared:
    """What an engine is lent for a block: connections that share the one of a stage. Made once, as a listener costs."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.stage: Stage | None = None
        # Nothing to reset: a connection that comes back is not used again.
        self.pool = NullPool(self._connect, dialect=dialect, reset_on_return=None)
        boundary.watch_pool(self.pool, dialect)

    def _connect(self) -> Any:
        assert self.stage is not None
        return SharedConnection(self.stage)


_SHARED = "earnorm_shared"


def _shared(engine: Engine, lent: Dialect | None) -> _Shared:
    # On the engine itself: a table of ours would keep both alive for ever.
    found: _Shared | None = vars(engine).get(_SHARED)
    if found is None:
        found = vars(engine)[_SHARED] = _Shared(engine.dialect if lent is None else _awaited(lent))
    return found


@contextmanager
def _on_stage(engine: Engine, stage: Stage, lent: Dialect | None = None) -> Iterator[None]:
    """The engine with connections that share the stage's; an async one with the dialect it is lent, to be awaited."""
    shared = _shared(engine, lent)
    kept = engine.pool, engine.dialect, shared.stage
    engine.pool, engine.dialect, shared.stage = shared.pool, shared.dialect, stage
    try:
        yield
    finally:
        engine.pool, engine.dialect, shared.stage = kept
