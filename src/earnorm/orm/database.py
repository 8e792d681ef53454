"""A database: where models live and their events are kept; here or in another process a worker delivers them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from earnorm import _forks
from earnorm.backends.sqlalchemy import boundary, opening
from earnorm.backends.sqlalchemy.scope import current_scope, is_open_here
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.bus import EventBus, default_bus
from earnorm.circles import refuse_circles
from earnorm.clock import Clock, SystemClock
from earnorm.durations import Duration, seconds_of
from earnorm.errors import DatabaseClosed, DrainInTransaction
from earnorm.event import running
from earnorm.handle import Handle
from earnorm.operations import Operations
from earnorm.orm.absence import Absence
from earnorm.orm.audit import Audit
from earnorm.orm.connected import BY_NAME
from earnorm.orm.engines import Engines, Schemas
from earnorm.orm.intakes import Bundles, Intakes
from earnorm.orm.log import DatabaseLog, Kept, durable_names
from earnorm.orm.outcomes import Outcomes
from earnorm.orm.stage import DatabaseStages
from earnorm.orm.strays import Strays
from earnorm.orm.tables import Tables, count_tables, look_after
from earnorm.orm.transaction import OpenTransactions, Transaction
from earnorm.portal import LoopThread, await_here, can_await, refuse_in_coroutine
from earnorm.trimming import Trimming
from earnorm.worker import Worker

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """What `connect()` returns. Entered by `with` or `async with`, it is closed at the end of the block."""

    def __init__(
        self,
        target: str | URL | Engine | AsyncEngine,
        *,
        name: str = "default",
        worker: bool | None = None,
        tables: Tables = "create",
        log: Kept = "all",
        schemas: Schemas | None = None,
        retention: Duration | None = "30d",
        version: str | None = None,
        groups: Collection[str] | None = None,
        bus: EventBus = default_bus,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.bus = bus
        self._tables: Tables = tables
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._prepared = self._subscribed = -1
        self._preparer = 0
        self._closed = False
        self._own_loop = LoopThread(f"earnorm-{name}-loop")
        self.opened = OpenTransactions()
        self._engines = Engines.of(target)
        self._embedded = self._engines.in_process if worker is None else worker
        self.schemas = schemas
        self.store = SQLAlchemyStore(self._engines.sync, clock=self._clock)
        self.log = DatabaseLog(
            name,
            bus,
            self.store,
            clock=self._clock,
            kept=log,
            read=self.read,
            subscribed=lambda: self._subscribed == bus.registry.version,
            wake=self._wake,
            claim=lambda: self.wakeup.claim(),  # noqa: PLW0108  a test that is rolled back has another one
            ready=self.ready,
            waiter=Outcomes(name, self.store, self._clock, lambda: self.worker, self.ready),
            strays=Strays(self._engines.sync, schemas),
        )
        self.captures = self.log.captures
        self._bundles = Bundles(self.store)
        self.runner = self.log.runner(version)
        self.wakeup = self._engines.new_wakeup(self.store)
        self.retention = None if retention is None else seconds_of(retention)
        trimming = None if self.retention is None else Trimming(self.store, self.retention, clock=self._clock)
        self._make_worker = partial(
            Worker,
            bus,
            self.store,
            self.runner,
            clock=self._clock,
            groups=groups,
            loop=self._own_loop,
            intake=Intakes(self._bundles, self.captures),
            trimming=trimming,
            wakeup=self.wakeup,
            stages=DatabaseStages(self),
        )
        self.worker = self._make_worker()
        alone = not (self._embedded or self._engines.in_process)
        self._absence = Absence(self.store, self._clock, partial(durable_names, bus), name) if alone else None
        durable_names(bus)
        for engine in self._engines.both:
            opening.connect_engine(engine, self.log, self._on_begin, self._engines.sync.url)

    @property
    def engine(self) -> Engine:
        """The sync engine, for plain SQLAlchemy with the hooks on."""
        return self._engines.sync

    @property
    def async_engine(self) -> AsyncEngine:
        """The async engine, for plain SQLAlchemy with the hooks on."""
        return self._engines.twin

    @contextmanager
    def before_ready(self, **options: Any) -> Iterator[Connection]:
        """A connection for work on the tables, in a transaction of its own, that makes nothing ready by itself."""
        with self.unready(), self._engines.sync.execution_options(**options).begin() as connection:
            yield connection

    @contextmanager
    def unready(self) -> Iterator[None]:
        """Inside, this thread's connections make nothing ready."""
        with self._lock:
            self._preparer = threading.get_ident()
            try:
                yield
            finally:
                self._preparer = 0

    @property
    def operations(self) -> Operations:
        """What those who run the system ask of it: how it stands, dead letters, pausing, pruning."""
        return Operations(self.store, self.name, clock=self._clock, enter=self._enter, wake=self._wake)

    def _enter(self, door: str) -> None:
        """A transaction of the store's own is about to begin."""
        refuse_in_coroutine(f"operations.{door}", f"operations.a{door}")
        if current_scope() is not None:
            raise DrainInTransaction("a transaction", f"operations.{door}")
        self.ready()

    def audit(self, model: type) -> Audit:
        """Compare the log with the model's table: iterate it, `for` or `async for`, for each record changed unseen."""
        self._require_open("audit()")
        return Audit(model, self.store, self._bundles, self.captures, self.ready, schemas=self.schemas)

    @property
    def tenant_engine(self) -> Engine:
        """The sync engine as sessions use it here: within `with tenant(...)`, on the tenant's own schema."""
        return self._engines.acting(self._engines.sync, self.schemas)

    def __repr__(self) -> str:
        state = "closed" if self._closed else ("with an embedded worker" if self._embedded else "without a worker")
        return f"<Database {self.name!r} at {self._engines.sync.url.render_as_string()}, {state}>"

    def _begin_anew(self) -> None:
        """In a fork: a connection has one process, and the thread behind an async one stayed with the parent."""
        self._lock = threading.Lock()
        _forks.leave_alone(self.opened)
        self.opened = OpenTransactions()
        for engine in self._engines.both:
            _forks.leave_alone(engine.pool)
            engine.dispose(close=False)
        self.wakeup.begin_anew()

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
        engine = self._engine_here()
        return Session(self._engines.acting(engine, self.schemas), expire_on_commit=False)

    def new_async_session(self) -> AsyncSession:
        self._require_open("asession()")
        if self._prepared != count_tables():
            # Nothing can be awaited here: its first transaction makes the tables of models that came since.
            opening.get_ready_again(self._engines.twin.sync_engine, self._on_begin)
        return AsyncSession(self._engines.acting(self._engines.twin, self.schemas), expire_on_commit=False)

    def _engine_here(self) -> Engine:
        """Under an async door the async engine's inner half, which awaits in place."""
        return self._engines.twin.sync_engine if can_await() else self._engines.sync

    def read(self, work: Callable[[Session], T]) -> T:
        """Do `work` in the session open here, or in one for reading alone that takes no write lock."""
        scope = current_scope()
        if scope is not None:
            return work(scope.session)
        self.ready()
        session = Session(self._engines.reading(self._engine_here(), self.schemas), expire_on_commit=False)
        try:
            return work(session)
        finally:
            session.close()

    # --- getting ready -----------------------------------------------------------------------

    def ready(self) -> None:
        """On first use, and when models or handlers came since: tables, subscriptions, worker."""
        self._require_open("a query")
        if self._is_ready() or is_open_here(self):
            # Inside a transaction there is no second one to do it in; `append` then records what is new.
            return
        if can_await():
            await_here(asyncio.to_thread(self._prepare))
        else:
            self._prepare()

    async def aready(self) -> None:
        """`ready`, in a thread, so that no loop waits for a lock."""
        self._require_open("a query")
        if not self._is_ready() and not is_open_here(self):
            await asyncio.to_thread(self._prepare)

    def _is_ready(self) -> bool:
        return self._subscribed == self.bus.registry.version and self._prepared == count_tables()

    def _wake(self, told: bool = False) -> None:  # noqa: FBT001, FBT002  # told by a COMMIT, as most of them are not
        self.worker.wake()
        say = self.wakeup.told if told else self.wakeup.notify
        say()
        if self._absence is not None:
            self._absence.notice()

    def _on_begin(self) -> bool:
        """A plain Session may be the first to use the engine; it finds its tables."""
        if self._prepared != count_tables() and self._preparer != threading.get_ident():
            self.ready()
        return self._prepared == count_tables()

    def _prepare(self) -> None:
        with self.unready():
            self._prepare_once()

    def _prepare_once(self) -> None:
        tables, version = count_tables(), self.bus.registry.version
        if self._prepared != tables:
            with self.store.own_engine.begin() as connection:
                look_after(connection, self._tables)
            self.store.require_sound()
            self._prepared = tables
        self.bus.registry.check_all()
        refuse_circles(self.bus)
        # A new subscription starts at the horizon, which is in front of them.
        self._bundles.take_all()
        with self.store.begin() as transaction:
            self.log.subscribe(transaction)
        self._subscribed = version
        if self._embedded:
            self.worker.start()

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise DatabaseClosed(self.name, what)

    # --- delivery ----------------------------------------------------------------------------

    def dedicate(self, **options: Any) -> None:
        """Have a worker here whatever `connect` said, with these options of `Worker`. It starts when all is ready."""
        self._require_open("a worker")
        self.worker.stop(0)
        self.worker = self._make_worker(**options)
        self._embedded, self._absence = True, None

    def drain(self, timeout: float = 30.0) -> dict[str, int]:
        """Wait until every due delivery is done; counts by outcome: done, retry, dead, skipped.

        A handler's failure is counted, not raised. Without an embedded worker the deliveries run here. What is due
        later (a retry) is not waited for. Raises DrainInTransaction inside a transaction or a handler.
        """
        refuse_in_coroutine("drain")
        self._refuse_inside("drain")
        self.ready()
        return self.worker.drain(timeout)

    async def adrain(self, timeout: float = 30.0) -> dict[str, int]:
        """`drain`, awaited."""
        self._refuse_inside("adrain")
        await self.aready()
        return await self.worker.adrain(timeout)

    def handle(self, event: UUID | str) -> Handle:
        """The handle of an event by its id, for instance after a restart. Raises UnknownEvent for what is no id."""
        return self.log.waiter.of(event)

    def _refuse_inside(self, door: str) -> None:
        self._require_open(f"{door}()")
        if current_scope() is not None:
            raise DrainInTransaction("a transaction", door)
        if (now := running()) is not None:
            raise DrainInTransaction(f"the handler {now.handler}", door)

    # --- opening and closing -----------------------------------------------------------------

    def __enter__(self) -> Self:
        refuse_in_coroutine("with connect", "async with connect(...)")  # at once, and not by `close()` in the end
        try:
            self.ready()
        except BaseException:
            self.close(drain=0)  # nobody has it yet who could
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self.worker.use_loop(asyncio.get_running_loop())
        try:
            await self.aready()
        except BaseException:
            await self.aclose(drain=0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self, drain: float = 5.0) -> None:
        """Finish due work for up to `drain` seconds if the worker is embedded, then give everything back.

        A `with db.transaction()` of another thread is waited for, as long again. What is not handled by then is in
        the log and is handled after the next start. Closing twice is one close. Raises DrainInTransaction.
        """
        refuse_in_coroutine("close", "aclose")
        if self._closed:
            return
        self._refuse_inside("close")
        if self._prepared >= 0:
            if self._embedded:
                self.worker.drain(drain)
            self.worker.stop(drain)
            self.opened.wait(drain)
        self._disconnect()
        asyncio.run(self._engines.twin.dispose())
        self._engines.remove_private()

    async def aclose(self, drain: float = 5.0) -> None:
        """`close`, awaited."""
        if self._closed:
            return
        self._refuse_inside("aclose")
        if self._prepared >= 0:
            if self._embedded:
                await self.worker.adrain(drain)
            await asyncio.to_thread(self.worker.stop, drain)
            await asyncio.to_thread(self.opened.wait, drain)
        self._disconnect()
        await self._engines.twin.dispose()
        self._engines.remove_private()

    def _disconnect(self) -> None:
        self._closed = True
        self.wakeup.close()
        if self._absence is not None:
            self._absence.close()
        for engine in self._engines.both:
            boundary.disconnect_engine(engine)
        if BY_NAME.get(self.name) is self:
            del BY_NAME[self.name]
        self.bus.forget_plans()
        self.store.close()
        self._own_loop.close()
