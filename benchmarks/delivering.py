"""Delivering: contestants that each work off a backlog, every one in a process of its own on a database of its own.

`python -m benchmarks.delivering NAME URL` answers as `benchmarks.backlog` says.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.backlog import Backlog, serve

__all__ = ["CONTESTANTS"]

PATIENCE = 900.0
BATCH = 1_000


async def nothing(_payload: object = None) -> None:
    """The handler of the raw loops, and of the peers that hand over a payload."""


# --- EarnORM ---------------------------------------------------------------------------------


class Ours:
    """A log with one durable handler. The worker is `drain`: the same engine as a worker's thread or process."""

    def __init__(self, url: str) -> None:
        from earnorm import connect

        self.listen()
        self.database = connect(url, worker=False)
        self.database.ready()

    def listen(self) -> None:
        from earnorm import event_handler_async

        @event_handler_async("tick.told", name="hear")
        async def hear() -> None: ...

    def fill(self, count: int) -> None:
        for start in range(0, count, BATCH):
            with self.database.transaction():
                for number in range(start, min(count, start + BATCH)):
                    self.tell(number)

    def tell(self, number: int) -> None:
        from earnorm import emit

        emit("tick.told", number=number)

    def deliver(self, count: int) -> None:
        found = self.database.drain(PATIENCE)
        assert count == sum(found.values()), found


class WithPayload(Ours):
    def listen(self) -> None:
        from earnorm import event_handler_async

        @event_handler_async("tick.told", name="hear")
        async def hear(*, number: int) -> None: ...


class InThreads(Ours):
    def listen(self) -> None:
        from earnorm import event_handler

        @event_handler("tick.told", name="hear")
        def hear() -> None: ...


class Transactional(Ours):
    """The mark of each delivery commits with whatever its handler writes; this one writes nothing."""

    def listen(self) -> None:
        from earnorm import event_handler_async

        @event_handler_async("tick.told", name="hear", transactional=True)
        async def hear() -> None: ...


class Booking(Ours):
    """Each delivery writes a row, which stands exactly once."""

    def listen(self) -> None:
        from sqlalchemy import insert

        from earnorm import BaseModel, IntegerField, event_handler

        class Booked(BaseModel):
            number = IntegerField()

        @event_handler("tick.told", name="hear", transactional=True)
        def hear(session: Any, *, number: int) -> None:
            session.execute(insert(Booked.__table__).values(number=number))


class Failing(Ours):
    """One in a hundred is set aside, to be tried again later."""

    def listen(self) -> None:
        import logging

        from earnorm import Backoff, event_handler_async

        logging.getLogger("earnorm").setLevel(logging.CRITICAL)

        # None comes due in a later round, where it would be delivered beside that round's own.
        @event_handler_async("tick.told", name="hear", retry=Backoff(first="1h"))
        async def hear(*, number: int) -> None:
            if number % 100 == 0:
                raise RuntimeError("one in a hundred")


class WithSelf(Ours):
    """Events of a thousand records, whose handler is given the record."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        with self.database.transaction():
            self.people = [self.model(name=f"name {number}").save() for number in range(BATCH)]
        self.database.drain(PATIENCE)

    def listen(self) -> None:
        from earnorm import BaseModel, StringField, on_event_async

        class Person(BaseModel):
            name = StringField()

            @on_event_async("told")
            async def hear(self) -> None: ...

        self.model = Person

    def tell(self, number: int) -> None:
        self.people[number % BATCH].emit("told")


# --- by hand ---------------------------------------------------------------------------------


class RawReader(Ours):
    """What our events cost at the least: read in batches, awaited, a cursor moved."""

    cursor = "raw_cursor"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._position = 0
        self._open(url)

    def _open(self, url: str) -> None:
        import psycopg
        from sqlalchemy import make_url

        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self.connection: Any = psycopg.connect(plain)
        self._set_up()

    def _set_up(self) -> None:
        self.connection.execute(f"CREATE TABLE {self.cursor} (position BIGINT NOT NULL)")
        self.connection.execute(f"INSERT INTO {self.cursor} VALUES (0)")
        self.connection.commit()

    def deliver(self, count: int) -> None:
        asyncio.run(self._deliver(count))

    async def _deliver(self, count: int) -> None:
        handled = 0
        while handled < count:
            text = f"SELECT * FROM earnorm_log WHERE position > {self._position} ORDER BY position LIMIT {BATCH}"
            cursor = self.connection.execute(text)
            columns = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
            await self._handle(rows, columns.index("data"))
            self._position = rows[-1][columns.index("position")]
            self.connection.execute(f"UPDATE {self.cursor} SET position = {self._position}")
            self.connection.commit()
            handled += len(rows)

    async def _handle(self, rows: list[Any], _data: int) -> None:
        for row in rows:
            await nothing(row)


class RawReaderOnSQLite(RawReader):
    def _open(self, url: str) -> None:
        import sqlite3

        from sqlalchemy import make_url

        self.connection = sqlite3.connect(str(make_url(url).database))
        self._set_up()


class Decoding(RawReader):
    """And what is in them is decoded, by the standard library, for a handler that takes it."""

    async def _handle(self, rows: list[Any], data: int) -> None:
        for row in rows:
            await nothing(json.loads(row[data])["payload"])


class DecodingOnSQLite(Decoding, RawReaderOnSQLite): ...


class RawQueue:
    """A table of jobs, taken out two hundred at a time with SKIP LOCKED."""

    TAKE = (
        "DELETE FROM raw_job WHERE id = ANY (ARRAY(SELECT id FROM raw_job ORDER BY id "
        "FOR UPDATE SKIP LOCKED LIMIT 200)) RETURNING id, data"
    )

    def __init__(self, url: str) -> None:
        import psycopg
        from sqlalchemy import make_url

        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self.connection = psycopg.connect(plain)
        self.connection.execute("CREATE TABLE raw_job (id BIGSERIAL PRIMARY KEY, data TEXT NOT NULL)")
        self.connection.commit()

    def fill(self, count: int) -> None:
        self.connection.execute(
            "INSERT INTO raw_job (data) SELECT '{\"number\": ' || n || '}' FROM generate_series(1, %s) n", (count,)
        )
        self.connection.commit()

    def deliver(self, count: int) -> None:
        asyncio.run(self._deliver(count))

    async def _deliver(self, count: int) -> None:
        while count > 0:
            rows = self.connection.execute(self.TAKE).fetchall()
            for row in rows:
                await nothing(row)
            self.connection.commit()
            count -= len(rows)


# --- peers -----------------------------------------------------------------------------------


class PgQueuer:
    def __init__(self, url: str) -> None:
        import asyncpg
        import pgqueuer
        from sqlalchemy import make_url

        self._modules = asyncpg, pgqueuer
        parts = make_url(url)
        schema = str(parts.query["options"]).removeprefix("-csearch_path=")
        self._where: dict[str, Any] = {
            "host": parts.host,
            "port": parts.port or 5432,
            "user": parts.username,
            "password": parts.password,
            "database": parts.database,
            "server_settings": {"search_path": schema},
        }
        asyncio.run(self._install())

    async def _connect(self) -> tuple[Any, Any]:
        asyncpg, pgqueuer = self._modules
        connection = await asyncpg.connect(**self._where)
        return connection, pgqueuer.AsyncpgDriver(connection)

    async def _install(self) -> None:
        connection, driver = await self._connect()
        await self._modules[1].Queries(driver).install()
        await connection.close()

    def fill(self, count: int) -> None:
        asyncio.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        connection, driver = await self._connect()
        queries = self._modules[1].Queries(driver)
        for start in range(0, count, BATCH):
            some = min(BATCH, count - start)
            await queries.enqueue(["hear"] * some, [b"{}"] * some, [0] * some)
        await connection.close()

    def deliver(self, count: int) -> None:
        asyncio.run(self._deliver(count))

    async def _deliver(self, count: int) -> None:
        from pgqueuer.types import QueueExecutionMode

        connection, driver = await self._connect()
        queue, handled = self._modules[1].PgQueuer(driver), 0

        @queue.entrypoint("hear")
        async def hear(_job: Any) -> None:
            nonlocal handled
            handled += 1

        await queue.run(batch_size=200, mode=QueueExecutionMode.drain)
        assert count == handled
        await connection.close()


class Procrastinate:
    def __init__(self, url: str) -> None:
        import logging

        import procrastinate
        from sqlalchemy import make_url

        # It warns of apps made in a main module, which ours is.
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=plain))
        self._handled = 0

        @self._app.task(name="hear")
        async def hear() -> None:
            self._handled += 1

        self._task = hear
        asyncio.run(self._install())

    async def _install(self) -> None:
        async with self._app.open_async():
            await self._app.schema_manager.apply_schema_async()

    def fill(self, count: int) -> None:
        asyncio.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        async with self._app.open_async():
            for start in range(0, count, BATCH):
                await self._task.batch_defer_async(*[{} for _ in range(min(BATCH, count - start))])

    def deliver(self, count: int) -> None:
        self._handled = 0
        asyncio.run(self._deliver())
        assert count == self._handled

    async def _deliver(self) -> None:
        async with self._app.open_async():
            await self._app.run_worker_async(wait=False, concurrency=32, install_signal_handlers=False)


class Huey:
    """The consumer's own loop, without its waits."""

    def __init__(self, url: str) -> None:
        import huey
        from sqlalchemy import make_url

        self._huey = huey.SqliteHuey(filename=str(make_url(url).database), fsync=True, results=False)
        self._task = self._huey.task(name="hear")(_ignore)

    def fill(self, count: int) -> None:
        for number in range(count):
            self._task(number)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            self._huey.execute(self._huey.dequeue())
        assert self._huey.pending_count() == 0


def _ignore(_number: int) -> None: ...


CONTESTANTS: dict[str, Callable[[str], Backlog]] = {
    "ours": Ours,
    "payload": WithPayload,
    "threads": InThreads,
    "transactional": Transactional,
    "booking": Booking,
    "failing": Failing,
    "hydrated": WithSelf,
    "raw": RawReader,
    "raw_sqlite": RawReaderOnSQLite,
    "decoding": Decoding,
    "decoding_sqlite": DecodingOnSQLite,
    "raw_queue": RawQueue,
    "pgqueuer": PgQueuer,
    "procrastinate": Procrastinate,
    "huey": Huey,
}

if __name__ == "__main__":
    chosen, target = sys.argv[1:3]
    serve(lambda: CONTESTANTS[chosen](target))
