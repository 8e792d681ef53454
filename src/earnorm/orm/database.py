"""A database: where models live, their events are kept, and a worker of this process delivers them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy import inspect as inspect_database
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session

from earnorm.backends.sqlalchemy import boundary, migrations
from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.dialects import READONLY
from earnorm.backends.sqlalchemy.dialects.sqlite import prepare, sqlite_async_engine, sqlite_engine
from earnorm.backends.sqlalchemy.scope import current_scope
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.bus import EventBus, default_bus
from earnorm.clock import Clock, SystemClock
from earnorm.codec import Reference
from earnorm.declared import declared_of
from earnorm.envelope import encode_change, entry_of, event_of, identity_of
from earnorm.errors import (
    AlreadyConnected,
    ConfigurationError,
    DatabaseClosed,
    DrainInTransaction,
    MissingTables,
    NotConnected,
    UnsupportedDatabase,
)
from earnorm.event import Entry, Event, running
from earnorm.handler import require_durable_name
from earnorm.occurrence import Occurrence
from earnorm.orm.loading import load, snapshot
from earnorm.orm.transaction import Transaction
from earnorm.portal import LoopThread, await_here, can_await, refuse_in_coroutine
from earnorm.runner import Hydrated, Runner
from earnorm.telemetry import Appended, HandlerSkipped, tell, wanted
from earnorm.worker import Worker

__all__ = ["Database", "connect", "connected_database", "database_here"]

Tables = Literal["create", "check", "none"]

_log = logging.getLogger("earnorm.database")
_databases: dict[str, Database] = {}
_metadata: list[Any] = []


def keep_tables_of(base: type[DeclarativeBase]) -> None:
    """`connect(tables=...)` looks after the tables of this base."""
    _metadata.append(base.metadata)


class Database:
    """What `connect()` returns. Entered by `with` or `async with`, it is closed at the end of the block."""

    def __init__(
        self,
        target: str | URL | Engine | AsyncEngine,
        *,
        name: str = "default",
        worker: bool | None = None,
        tables: Tables = "create",
        bus: EventBus = default_bus,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.bus = bus
        self._private: str | None = None
        self._tables = tables
        self._clock = clock or SystemClock()
        self._embedded = worker is not False
        self._lock = threading.Lock()
        self._prepared = -1
        self._subscribed = -1
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_loop = LoopThread(f"earnorm-{name}-loop")
        self.engine, self.async_engine = self._engines(target)
        self.store = SQLAlchemyStore(self.engine, clock=self._clock)
        self.runner = Runner(bus, self._hydrate, self._decode, database=name)
        self.worker = Worker(bus, self.store, self.runner, clock=self._clock, loop=self._own_loop)
        for handler in bus.registry.durable():
            require_durable_name(handler)
        boundary.connect_engine(self.engine, self)
        boundary.connect_engine(self.async_engine.sync_engine, self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else ("with an embedded worker" if self._embedded else "without a worker")
        return f"<Database {self.name!r} at {self.engine.url.render_as_string()}, {state}>"

    def _begin_anew(self) -> None:
        """In a fork: a connection has one process, and the thread behind an async one stayed with the parent."""
        self._lock = threading.Lock()
        for engine in (self.engine, self.async_engine.sync_engine):
            _inherited.append(engine.pool)
            engine.dispose(close=False)

    # --- engines -----------------------------------------------------------------------------

    def _engines(self, target: str | URL | Engine | AsyncEngine) -> tuple[Engine, AsyncEngine]:
        if isinstance(target, AsyncEngine):
            require_supported(target.url)
            prepare(target.sync_engine)
            return sqlite_engine(target.url), target
        if isinstance(target, Engine):
            require_supported(target.url)
            prepare(target)
            return target, sqlite_async_engine(target.url)
        url = require_supported(target)
        if url.database in (None, "", ":memory:"):
            url = url.set(database=self._private_file())
        return sqlite_engine(url), sqlite_async_engine(url)

    def _private_file(self) -> str:
        """`sqlite://` is a file of this Database alone: a memory database has one connection, and we need several."""
        self._private = tempfile.mkdtemp(prefix="earnorm-")
        return str(Path(self._private) / "private.db")

    # --- sessions ----------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """`with` or `async with`: everything inside commits or rolls back together; nested, it is a savepoint."""
        self._require_open("transaction()")
        return Transaction(self)

    def session(self) -> Session:
        """A SQLAlchemy Session of your own, with the hooks on and `expire_on_commit=False`."""
        refuse_in_coroutine("db.session", "db.asession")
        return self.new_session()

    def asession(self) -> AsyncSession:
        """A SQLAlchemy AsyncSession of your own, with the hooks on and `expire_on_commit=False`."""
        return self.new_async_session()

    def new_session(self) -> Session:
        self.ready()
        engine = self.async_engine.sync_engine if can_await() else self.engine
        return Session(engine, expire_on_commit=False)

    def new_async_session(self) -> AsyncSession:
        self._require_open("asession()")
        return AsyncSession(self.async_engine, expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """The session open here, or one for reading alone that takes no write lock."""
        scope = current_scope()
        if scope is not None:
            yield scope.session
            return
        self.ready()
        engine = self.async_engine.sync_engine if can_await() else self.engine
        with Session(engine.execution_options(**READONLY), expire_on_commit=False) as session:
            yield session
            session.expunge_all()

    # --- getting ready -----------------------------------------------------------------------

    def ready(self) -> None:
        """On first use, and when models or handlers came since: tables, subscriptions, worker."""
        self._require_open("a query")
        if self._is_ready() or current_scope() is not None:
            # Inside a transaction there is no second one to do it in; `append` then records what is new.
            return
        if can_await():
            await_here(asyncio.to_thread(self._prepare))
        else:
            self._prepare()

    async def aready(self) -> None:
        """`ready`, in a thread, so that no loop waits for a lock."""
        self._require_open("a query")
        if not self._is_ready() and current_scope() is None:
            await asyncio.to_thread(self._prepare)

    def _is_ready(self) -> bool:
        return self._subscribed == self.bus.registry.version and self._prepared == _count_tables()

    def _prepare(self) -> None:
        with self._lock:
            tables, version = _count_tables(), self.bus.registry.version
            if self._prepared != tables:
                with self.engine.begin() as connection:
                    self._look_after_tables(connection)
                self._prepared = tables
            names = self._durable_names()
            with self.store.begin() as transaction:
                transaction.subscribe(names)
            self._subscribed = version
            if self._embedded:
                self.worker.start()

    def _durable_names(self) -> list[str]:
        durable = self.bus.registry.durable()
        for handler in durable:
            require_durable_name(handler)
        return [handler.name for handler in durable]

    def _look_after_tables(self, connection: Connection) -> None:
        if self._tables == "create":
            migrations.upgrade(connection)
            for metadata in _metadata:
                metadata.create_all(connection)
        elif self._tables == "check":
            migrations.check(connection)
            there = set(inspect_database(connection).get_table_names())
            missing = sorted({table.name for metadata in _metadata for table in metadata.tables.values()} - there)
            if missing:
                raise MissingTables(missing)

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise DatabaseClosed(self.name, what)

    # --- the log -----------------------------------------------------------------------------

    def append(self, connection: Connection, occurrences: Sequence[Occurrence]) -> None:
        """Write a transaction's events into the log, in that transaction."""
        transaction = self.store.join(connection)
        if self._subscribed != self.bus.registry.version:
            # Handlers defined since: recorded in this very transaction, so that they miss nothing of it.
            transaction.subscribe(self._durable_names())
        transaction.append([entry_of(occurrence.event, self._data(occurrence)) for occurrence in occurrences])

    def _data(self, occurrence: Occurrence) -> bytes:
        if occurrence.data:
            return occurrence.data
        hidden = occurrence.info.sensitive if occurrence.info is not None else frozenset[str]()
        return encode_change(occurrence.event, occurrence.identity, mappings.refer, hidden)

    def appended(self, occurrences: Sequence[Occurrence]) -> None:
        """They are committed: the worker need not wait for its next look."""
        if wanted(Appended):
            for occurrence in occurrences:
                tell(Appended(occurrence.event))
        if occurrences:
            self.worker.wake()

    def refresh(self, occurrence: Occurrence) -> Occurrence | None:
        """For a handler after the commit: the record as it is now; None (told as skipped) if it is gone."""
        found = mappings.mapping_of(type(occurrence.subject))
        if found is None:
            return occurrence
        if occurrence.kind == "deleted":
            return occurrence.about(snapshot(found, occurrence.identity, occurrence.payload))
        with self.reading() as session:
            subject = load(session, found, occurrence.identity)
        if subject is None:
            for handler in occurrence.later:
                tell(HandlerSkipped(occurrence.event, handler.name, "missing"))
            return None
        return occurrence.about(subject)

    # --- delivery ----------------------------------------------------------------------------

    def _decode(self, entry: Entry, attempt: int) -> Event:
        return event_of(entry, attempt=attempt, database=self.name, resolve=self._resolve)

    def _resolve(self, reference: Reference) -> Any:
        """A model in a payload, loaded; the reference itself if its row is gone or its class unknown here."""
        found = mappings.mapping_of_subject(reference.subject)
        if found is None:
            return reference
        with self.reading() as session:
            record = load(session, found, reference.key)
        return reference if record is None else record

    def _hydrate(self, entry: Entry, event: Event) -> Hydrated:
        declared = declared_of(entry.name)
        value = declared.build(event.payload) if declared is not None else None
        found = mappings.mapping_of_subject(entry.subject) if entry.key else None
        if found is None:
            return Hydrated(value, None, value, missing=False)
        identity = identity_of(entry)
        if entry.name == f"{entry.subject}.deleted":
            return Hydrated(snapshot(found, identity, event.payload), found.info, value, missing=False)
        with self.reading() as session:
            subject = load(session, found, identity)
        return Hydrated(subject, found.info, value, missing=subject is None)

    def drain(self, timeout: float = 30.0) -> dict[str, int]:
        """Wait until every due delivery is done; counts by outcome: done, retry, dead, skipped.

        A handler's failure is counted, not raised. Without an embedded worker the deliveries run here. What is due
        later (a retry) is not waited for. Raises DrainInTransaction inside a transaction or a handler.
        """
        refuse_in_coroutine("drain")
        self._refuse_drain_inside()
        self.ready()
        return self.worker.drain(timeout)

    async def adrain(self, timeout: float = 30.0) -> dict[str, int]:
        """`drain`, awaited."""
        self._refuse_drain_inside()
        await self.aready()
        return await self.worker.adrain(timeout)

    def _refuse_drain_inside(self) -> None:
        if current_scope() is not None:
            raise DrainInTransaction("a transaction")
        now = running()
        if now is not None:
            raise DrainInTransaction(f"the handler {now.handler}")

    # --- opening and closing -----------------------------------------------------------------

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self.worker.use_loop(asyncio.get_running_loop())
        await self.aready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self, drain: float = 5.0) -> None:
        """Finish due work for up to `drain` seconds if the worker is embedded, then give everything back.

        What is not handled by then is in the log and is handled after the next start. Closing twice is one close.
        """
        refuse_in_coroutine("close", "aclose")
        if self._closed:
            return
        if self._prepared >= 0:
            if self._embedded:
                self.worker.drain(drain)
            self.worker.stop(drain)
        self._disconnect()
        asyncio.run(self.async_engine.dispose())
        self._forget()

    async def aclose(self, drain: float = 5.0) -> None:
        """`close`, awaited."""
        if self._closed:
            return
        if self._prepared >= 0:
            if self._embedded:
                await self.worker.adrain(drain)
            await asyncio.to_thread(self.worker.stop, drain)
        self._disconnect()
        await self.async_engine.dispose()
        self._forget()

    def _disconnect(self) -> None:
        self._closed = True
        boundary.disconnect_engine(self.engine)
        boundary.disconnect_engine(self.async_engine.sync_engine)
        if _databases.get(self.name) is self:
            del _databases[self.name]
        self.bus.forget_plans()
        self.store.close()
        self._own_loop.close()

    def _forget(self) -> None:
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)


def require_supported(target: str | URL) -> URL:
    """Raises UnsupportedDatabase, without the password."""
    shown = target.render_as_string() if isinstance(target, URL) else str(target)
    try:
        url = make_url(target)
    except Exception as error:
        raise UnsupportedDatabase(shown, f"this is no database URL ({error})") from error
    if url.get_backend_name() != "sqlite":
        raise UnsupportedDatabase(url.render_as_string(), f"there is no log for {url.get_backend_name()} yet")
    if url.get_driver_name() not in ("pysqlite", "aiosqlite"):
        raise UnsupportedDatabase(url.render_as_string(), f"the driver {url.get_driver_name()!r} is not supported")
    return url


def connect(
    target: str | URL | Engine | AsyncEngine | None = None,
    *,
    name: str = "default",
    worker: bool | None = None,
    tables: Tables = "create",
) -> Database:
    """Connect models and handlers to a database; events are durable from here on.

    `target` is a URL or a SQLAlchemy engine (default: the environment's EARNORM_DATABASE_URL); `sqlite://` is a
    private temporary file. Nothing is opened and no thread starts before the first use, or `with`. `worker=False`
    leaves delivery to another process. `tables="check"` refuses missing tables, "none" trusts that they are there.
    Raises AlreadyConnected, UnsupportedDatabase, MissingTables (on first use), HandlerNameNeeded.
    """
    if target is None:
        target = os.environ.get("EARNORM_DATABASE_URL")
        if not target:
            raise ConfigurationError("connect() was given no URL and EARNORM_DATABASE_URL is not set; pass one of them")
    if tables not in ("create", "check", "none"):
        raise ConfigurationError(f"connect(tables={tables!r}): expected 'create', 'check' or 'none'")
    if name in _databases:
        raise AlreadyConnected(name)
    database = Database(target, name=name, worker=worker, tables=tables)
    _databases[name] = database
    database.bus.forget_plans()
    return database


def connected_database(bus: EventBus) -> Database | None:
    """A database the bus is connected to, if any."""
    return next((database for database in _databases.values() if database.bus is bus), None)


def database_here(what: str) -> Database:
    """The database of the transaction open here or of the event handled here, or the default. Raises NotConnected."""
    scope = current_scope()
    if scope is not None and scope.database is not None:
        return cast("Database", scope.database)
    now = running()
    delivered = now.event.database if now is not None else ""
    found = _databases.get(delivered) or _databases.get("default")
    if found is None:
        raise NotConnected(what)
    return found


def databases() -> list[Database]:
    return list(_databases.values())


def _count_tables() -> int:
    return sum(len(metadata.tables) for metadata in _metadata)


# --- fork ------------------------------------------------------------------------------------

# Connections of the parent, in a fork: dropping the last name of one would close it, and its file's locks with it.
_inherited: list[Any] = []


def _after_fork() -> None:
    for database in databases():
        database._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
