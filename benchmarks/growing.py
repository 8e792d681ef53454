"""Growing: the same small backlog worked off in databases that have become large, one way each.

`python -m benchmarks.growing WAY:SIZE URL` answers as `benchmarks.backlog` says. What is large is copied by SQL from
what was written by the library itself.
"""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Engine, create_engine, inspect, text

from benchmarks.backlog import Backlog, serve
from benchmarks.delivering import BATCH, PATIENCE, Ours

__all__ = ["CONTESTANTS"]

NEW_ID = {"sqlite": "randomblob(16)", "postgresql": "uuid_send(gen_random_uuid())"}
NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {times}) SELECT n FROM n)",
    "postgresql": "(SELECT n FROM generate_series(1, {times}) AS n)",
}
# Indexes of millions of random ids are filled in memory, and not waited for.
QUICKLY = {
    "sqlite": ["PRAGMA cache_size = -1000000", "PRAGMA synchronous = OFF"],
    "postgresql": ["SET synchronous_commit = off"],
}
# As the database would have done itself by then.
TIDY = {
    "sqlite": ["PRAGMA wal_checkpoint(TRUNCATE)", "ANALYZE {table}"],
    "postgresql": ["VACUUM (ANALYZE) {table}"],
}


def multiply(url: str, table: str, counted: str, times: int, where: str, fresh: Mapping[str, str]) -> None:
    """Copy the rows so many times; each copy has its own number, and its own of what is `fresh`.

    In a process that ends with it, since the memory that it takes is none of the worker's.
    """
    if times > 0:
        arguments = (url, table, counted, times, where, fresh)
        process = multiprocessing.get_context("spawn").Process(target=_multiply, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 0


def _multiply(url: str, table: str, counted: str, times: int, where: str, fresh: Mapping[str, str]) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    dialect = engine.dialect.name
    with engine.connect() as connection:
        for statement in (*QUICKLY[dialect], _copied(engine, table, counted, times, where, fresh), *TIDY[dialect]):
            connection.execute(text(statement.format(table=table)))
    engine.dispose()


def _copied(engine: Engine, table: str, counted: str, times: int, where: str, fresh: Mapping[str, str]) -> str:
    quote = engine.dialect.identifier_preparer.quote
    names = [column["name"] for column in inspect(engine).get_columns(table) if column["name"] != counted]
    values = [fresh.get(name, f"one.{quote(name)}") for name in names]
    numbers = NUMBERS[engine.dialect.name].format(times=times)
    return (
        f"INSERT INTO {table} ({', '.join(map(quote, names))}) SELECT {', '.join(values)} "
        f"FROM {table} AS one CROSS JOIN {numbers} AS numbers WHERE {where}"
    )


class Grown(Ours):
    def __init__(self, url: str, size: int) -> None:
        self.size = size
        self.url = url
        self.before(url)
        super().__init__(url)
        self.after()

    def before(self, url: str) -> None:
        """Grow what no handler has heard."""

    def after(self) -> None:
        """Grow what the handlers have to do with."""

    def copy_log(self, count: int, after: int = 0) -> None:
        """So many more events, copied from the thousand past this position."""
        fresh = {"id": NEW_ID[self.database.engine.dialect.name]}
        multiply(self.url, "earnorm_log", "position", count // BATCH, f"position > {after}", fresh)

    def fill_by_copying(self, count: int) -> None:
        with self.database.store.begin(readonly=True) as transaction:
            horizon = transaction.horizon()
        super().fill(BATCH)
        self.copy_log(count - BATCH, horizon)


class History(Grown):
    """Events from long before."""

    def before(self, url: str) -> None:
        from earnorm import connect

        with connect(url, worker=False) as self.database:
            super().fill(BATCH)
            self.copy_log(self.size)


class Aside(Grown):
    """Deliveries that wait for their next attempt."""

    def after(self) -> None:
        import logging

        from earnorm import event_handler_async

        logging.getLogger("earnorm").setLevel(logging.CRITICAL)

        @event_handler_async("tock.told", name="fail")
        async def fail() -> None:
            raise RuntimeError("not before tomorrow")

        from earnorm import emit

        emit("tock.told")
        self.database.drain(PATIENCE)
        engine = self.database.store.own_engine
        fresh = {
            "event": NEW_ID[engine.dialect.name],
            "key": "one.key || 'tock:' || n",
            "due": "one.due + 864000000000",
        }
        multiply(self.url, "earnorm_delivery", "id", self.size, "id > 0", fresh)
        with engine.begin() as connection:
            connection.execute(text("UPDATE earnorm_delivery SET due = due + 864000000000 WHERE id = 1"))


class Behind(Grown):
    """A backlog so long, filled by copying."""

    def fill(self, count: int) -> None:
        self.fill_by_copying(count)


class Snapshot(Grown):
    """Behind a transaction that has been reading since before so many events."""

    def after(self) -> None:
        level = "REPEATABLE READ" if self.database.engine.dialect.name == "postgresql" else None
        options: dict[str, Any] = {"isolation_level": level} if level else {}
        self._open = self.database.store._reader.execution_options(**options).connect()
        self._open.execute(text("SELECT count(*) FROM earnorm_log"))
        self.fill_by_copying(self.size)
        self.deliver(self.size)


class Subscriptions(Grown):
    """So many handlers, each of a name of its own; events of all of them in turn."""

    def listen(self) -> None:
        from earnorm import event_handler_async

        for number in range(self.size):

            @event_handler_async(f"tick.told{number}", name=f"hear {number}")
            async def hear() -> None: ...

    def tell(self, number: int) -> None:
        from earnorm import emit

        emit(f"tick.told{number % self.size}", number=number)


CONTESTANTS: dict[str, Callable[[str, int], Backlog]] = {
    "plain": Grown,
    "history": History,
    "aside": Aside,
    "behind": Behind,
    "snapshot": Snapshot,
    "subscriptions": Subscriptions,
}

if __name__ == "__main__":
    way, _, size = sys.argv[1].partition(":")
    serve(lambda: CONTESTANTS[way](sys.argv[2], int(size)))
