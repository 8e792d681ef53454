"""Writing: contestants that append events, or rows without any, each in a process of its own.

`python -m benchmarks.writing NAME URL` answers each number on stdin with the seconds in which so many were written.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.backlog import Backlog, serve
from benchmarks.delivering import Ours

__all__ = ["CONTESTANTS"]

WRITERS = 16


class Writing:
    """Nothing is filled before: what is measured is the writing."""

    def fill(self, count: int) -> None:
        """Nothing."""


# A table with the columns and indexes that any log needs.
RAW_LOG = """
    CREATE TABLE raw_log (
        position BIGSERIAL PRIMARY KEY, id BYTEA NOT NULL UNIQUE, name TEXT NOT NULL, key TEXT NOT NULL,
        data BYTEA NOT NULL, at BIGINT NOT NULL
    );
    CREATE INDEX ON raw_log (key, position)
"""


class Unnested(Writing):
    """One statement for all rows, by hand."""

    INSERT = (
        "INSERT INTO raw_log (id, name, key, data, at) "
        "SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::bytea[], %s::bigint[])"
    )

    def __init__(self, url: str) -> None:
        import psycopg
        from sqlalchemy import make_url

        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(plain)
        self._connection.execute(RAW_LOG)
        self._connection.commit()

    def deliver(self, count: int) -> None:
        columns: list[list[Any]] = [
            [os.urandom(16) for _ in range(count)],
            ["tick.told"] * count,
            [""] * count,
            [b'{"number":%d}' % number for number in range(count)],
            [1] * count,
        ]
        self._connection.execute(self.INSERT, columns)
        self._connection.commit()


class Emitted(Ours):
    """As many emits in one transaction."""

    def fill(self, count: int) -> None:
        """Nothing."""

    def deliver(self, count: int) -> None:
        with self.database.transaction():
            for number in range(count):
                self.tell(number)


class Rows(Writing):
    """Sixteen threads that commit one row at a time, in a Session each."""

    def __init__(self, url: str) -> None:
        self._model, self._engine = self._prepared(url)
        self._threads = ThreadPoolExecutor(WRITERS)

    def _prepared(self, url: str) -> tuple[Any, Any]:
        from sqlalchemy import create_engine

        from benchmarks.saving import plain_model

        model, engine = plain_model(), create_engine(url, pool_size=WRITERS)
        model.metadata.create_all(engine)
        return model, engine

    def deliver(self, count: int) -> None:
        together = threading.Barrier(WRITERS)

        def write(_writer: int) -> None:
            from sqlalchemy.orm import Session

            together.wait()
            for number in range(count // WRITERS):
                with Session(self._engine, expire_on_commit=False) as session:
                    record = self._model(name=f"name {number}", email="ada@example.com", visits=number)
                    session.add(record)
                    self._tell(session, record)
                    session.commit()

        list(self._threads.map(write, range(WRITERS)))

    def _tell(self, session: Any, record: Any) -> None:
        """Nothing."""


class RowsAndInserts(Rows):
    """The same, and by hand a second row that says so: no more than an INSERT, which no reader could rely on."""

    INSERT = "INSERT INTO raw_log (id, name, key, data, at) VALUES (%s, %s, %s, %s, %s)"

    def _prepared(self, url: str) -> tuple[Any, Any]:
        model, engine = super()._prepared(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(RAW_LOG)
        return model, engine

    def _tell(self, session: Any, record: Any) -> None:
        session.flush()
        values = {"name": record.name, "email": record.email, "visits": record.visits}
        data = json.dumps({"identity": [record.id], "payload": values}).encode()
        row = (os.urandom(16), "person.created", f"person:{record.id}", data, time.time_ns() // 1000)
        session.connection().exec_driver_sql(self.INSERT, row)


class RowsAndEvents(Rows):
    """The same, each row with its event."""

    def _prepared(self, url: str) -> tuple[Any, Any]:
        from benchmarks.saving import earnorm_model
        from earnorm import connect, event_handler_async
        from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine

        model = earnorm_model()

        @event_handler_async("person.created", name="hear")
        async def hear() -> None: ...

        database = connect(postgresql_engine(url, pool_size=WRITERS), worker=False)
        database.ready()
        return model, database.engine


class BesideAWorker(RowsAndEvents):
    """The same again, while another process delivers."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        command = [sys.executable, "-m", "benchmarks.writing", "worker", url]
        self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._worker.stdout is not None
        self._worker.stdout.readline()


@contextmanager
def _working(url: str) -> Iterator[None]:
    from benchmarks.saving import earnorm_model
    from earnorm import connect, event_handler_async

    earnorm_model()

    @event_handler_async("person.created", name="hear")
    async def hear() -> None: ...

    with connect(url, worker=True):
        yield


def work(url: str) -> None:
    """The worker beside: until its stdin ends."""
    with _working(url):
        print("ready", flush=True)
        sys.stdin.read()


CONTESTANTS: dict[str, Callable[[str], Backlog]] = {
    "unnested": Unnested,
    "emitted": Emitted,
    "rows": Rows,
    "rows_and_inserts": RowsAndInserts,
    "rows_and_events": RowsAndEvents,
    "beside_a_worker": BesideAWorker,
}

if __name__ == "__main__":
    chosen, target = sys.argv[1:3]
    if chosen == "worker":
        work(target)
    else:
        serve(lambda: CONTESTANTS[chosen](target))
