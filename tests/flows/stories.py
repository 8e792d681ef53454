"""What the flows share: databases to write to, their logs, and what a second connection sees."""

import asyncio

from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from earnorm import BaseModel
from earnorm.envelope import event_of
from earnorm.orm.intakes import Bundles


class Look:
    """A second connection, that sees what is committed and nothing else."""

    def __init__(self, url):
        self.engine = create_engine(url)

    def rows(self, table):
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()

    def close(self):
        self.engine.dispose()


def execute(db, *statements):
    """Statements, each with its parameters if it has any, in one transaction."""
    with db.session() as session:
        for statement, *parameters in statements:
            session.execute(statement, *parameters)
        session.commit()


def unbundle(db):
    """What a commit left for a worker's pass."""
    Bundles(db.store).take_all()


def log(db):
    """The events in the log, in order, as a handler would get them."""
    unbundle(db)
    with db.store.begin(readonly=True) as transaction:
        return [event_of(entry) for entry in transaction.read(0, transaction.horizon(), 10_000)]


def names(db):
    return [event.name for event in log(db)]


def pairs(event):
    """An event's changes as plain tuples."""
    return {field: tuple(change) for field, change in event.changes.items()}


# --- the doors a record can go through ---


class Save:
    """`save()` and `delete()`."""

    awaited = False

    def __init__(self, db):
        self.db = db

    def create(self, record):
        record.save()

    def update(self, record, **values):
        for name, value in values.items():
            setattr(record, name, value)
        record.save()

    def delete(self, record):
        record.delete()


class ASave(Save):
    """`asave()` and `adelete()`."""

    awaited = True

    def create(self, record):
        asyncio.run(record.asave())

    def update(self, record, **values):
        for name, value in values.items():
            setattr(record, name, value)
        asyncio.run(record.asave())

    def delete(self, record):
        asyncio.run(record.adelete())


class Plain:
    """A plain Session: add, delete, commit."""

    awaited = False

    def __init__(self, db):
        self.db = db
        self.engine = db.engine

    def _do(self, work):
        self.db.ready()
        with Session(self.engine, expire_on_commit=False) as session:
            work(session)
            session.commit()

    def create(self, record):
        self._do(lambda session: session.add(record))

    def update(self, record, **values):
        def work(session):
            session.add(record)
            for name, value in values.items():
                setattr(record, name, value)

        self._do(work)

    def delete(self, record):
        self._do(lambda session: session.delete(record))


class APlain(Plain):
    """A plain AsyncSession."""

    awaited = True

    def __init__(self, db):
        self.db = db
        self.engine = db.async_engine

    def _do(self, work):
        self.db.ready()

        async def run():
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                await session.run_sync(work)
                await session.commit()

        asyncio.run(run())


DOORS = {"save": Save, "asave": ASave, "Session": Plain, "AsyncSession": APlain}


class Memory:
    """Engines nobody connected: a bus without them works in memory."""

    def __init__(self, url):
        self.engine = create_engine(url)
        self.async_engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        if url.startswith("sqlite"):
            for engine in (self.engine, self.async_engine.sync_engine):
                event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
                event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    def ready(self):
        BaseModel.metadata.create_all(self.engine)

    def close(self):
        self.engine.dispose()
        asyncio.run(self.async_engine.dispose())
