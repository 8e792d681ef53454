"""Hearing: contestants that tell in one process and hear in another, and say when they did.

`python -m benchmarks.hearing NAME URL` obeys lines on stdin, and answers each with one of JSON:

    tell FIRST COUNT   commit so many, fifty a second: when each was committed, by its number
    hear COUNT         wait until so many were heard: when each handler started, by its number
    rest SECONDS       do nothing for a while, and then so long: the share of a core that this took, in per cent

Times are of the clock that all processes of a host share.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["CONTESTANTS"]

APART = 0.02
PATIENCE = 60.0


class Ears:
    """What was heard, and when."""

    def __init__(self) -> None:
        self._heard: dict[int, float] = {}
        self._more = threading.Condition()

    def note(self, number: int) -> None:
        at = time.monotonic()
        with self._more:
            self._heard[number] = at
            self._more.notify_all()

    def take(self, count: int) -> dict[int, float]:
        with self._more:
            self._more.wait_for(lambda: len(self._heard) >= count, PATIENCE)
            heard, self._heard = self._heard, {}
        return heard


class Contestant:
    def __init__(self, url: str) -> None:
        self.url = url
        self.ears = Ears()
        self.listening = False

    def listen(self) -> None:
        """Begin to hear."""

    def tell(self, number: int) -> None:
        """Commit one."""

    def _note(self, rows: list[tuple[int, int]], last: int) -> int:
        """What a raw reader found; returns where it stands then."""
        for _, number in rows:
            self.ears.note(number)
        return rows[-1][0] if rows else last


class Ours(Contestant):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        from earnorm import event_handler_async

        @event_handler_async("tick.told", name="hear")
        async def hear(*, number: int) -> None:
            self.ears.note(number)

        self._database: Any = None

    def _connected(self, *, worker: bool) -> Any:
        if self._database is None:
            from earnorm import connect

            self._database = connect(self.url, worker=worker)
            self._database.ready()
        return self._database

    def listen(self) -> None:
        self._connected(worker=True)

    def tell(self, number: int) -> None:
        from earnorm import emit

        with self._connected(worker=False).transaction():
            emit("tick.told", number=number)


class Notified(Contestant):
    """LISTEN, and NOTIFY in the transaction that writes the row."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._teller = self._connect(autocommit=False)
        self._teller.execute("CREATE TABLE IF NOT EXISTS raw_tick (id BIGSERIAL PRIMARY KEY, number INT)")
        self._teller.commit()

    def _connect(self, *, autocommit: bool) -> Any:
        import psycopg
        from sqlalchemy import make_url

        plain = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=autocommit)

    def _channel(self) -> str:
        return f"raw_{self.url.rpartition('_')[2]}"

    def listen(self) -> None:
        ears = self._connect(autocommit=True)
        ears.execute(f"LISTEN {self._channel()}")
        threading.Thread(target=self._hear, args=(ears,), daemon=True).start()

    def _hear(self, ears: Any) -> None:
        reader, last = self._connect(autocommit=True), 0
        for _ in ears.notifies():
            rows = reader.execute("SELECT id, number FROM raw_tick WHERE id > %s ORDER BY id", (last,)).fetchall()
            last = self._note(rows, last)

    def tell(self, number: int) -> None:
        self._teller.execute("INSERT INTO raw_tick (number) VALUES (%s)", (number,))
        self._teller.execute("SELECT pg_notify(%s, '')", (self._channel(),))
        self._teller.commit()


class Watched(Contestant):
    """SQLite's data_version, asked every half millisecond."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._teller = self._connect()
        self._teller.execute("PRAGMA journal_mode = WAL")
        self._teller.execute("CREATE TABLE IF NOT EXISTS raw_tick (id INTEGER PRIMARY KEY, number INTEGER)")

    def _connect(self) -> Any:
        import sqlite3

        from sqlalchemy import make_url

        return sqlite3.connect(
            str(make_url(self.url).database), isolation_level=None, check_same_thread=False, timeout=10
        )

    def listen(self) -> None:
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        connection, last, seen = self._connect(), 0, None
        while True:
            version = connection.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                rows = connection.execute(
                    "SELECT id, number FROM raw_tick WHERE id > ? ORDER BY id", (last,)
                ).fetchall()
                last = self._note(rows, last)
            time.sleep(0.0005)

    def tell(self, number: int) -> None:
        self._teller.execute("INSERT INTO raw_tick (number) VALUES (?)", (number,))


class PgQueuer(Contestant):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        from benchmarks.delivering import PgQueuer as Queue

        self._queue: Any = object.__new__(Queue)
        try:
            self._queue.__init__(url)
        except Exception as error:
            # The other process has made the tables.
            if "already exists" not in str(error):
                raise
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._queries: Any = None

    def listen(self) -> None:
        asyncio.run_coroutine_threadsafe(self._hear(), self._loop)

    async def _hear(self) -> None:
        _, driver = await self._queue._connect()
        queue = self._queue._modules[1].PgQueuer(driver)

        @queue.entrypoint("hear")
        async def hear(job: Any) -> None:
            self.ears.note(int(job.payload))

        await queue.run()

    def tell(self, number: int) -> None:
        asyncio.run_coroutine_threadsafe(self._tell(number), self._loop).result()

    async def _tell(self, number: int) -> None:
        if self._queries is None:
            _, driver = await self._queue._connect()
            self._queries = self._queue._modules[1].Queries(driver)
        await self._queries.enqueue("hear", str(number).encode())


def serve(contestant: Contestant) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        verb, *numbers = line.split()
        print(json.dumps(VERBS[verb](contestant, *map(int, numbers))), flush=True)


def _tell(contestant: Contestant, first: int, count: int) -> dict[int, float]:
    told: dict[int, float] = {}
    began = time.monotonic()
    for number in range(first, first + count):
        time.sleep(max(0.0, began + (number - first) * APART - time.monotonic()))
        contestant.tell(number)
        told[number] = time.monotonic()
    return told


def _hear(contestant: Contestant, count: int) -> dict[int, float]:
    return contestant.ears.take(count)


def _listen(contestant: Contestant) -> str:
    contestant.listen()
    return "listening"


def _rest(_contestant: Contestant, seconds: int) -> float:
    # Until it has noticed that nothing happens any more.
    time.sleep(3)
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds * 100


VERBS: dict[str, Callable[..., Any]] = {"listen": _listen, "tell": _tell, "hear": _hear, "rest": _rest}
CONTESTANTS: dict[str, Callable[[str], Contestant]] = {
    "ours": Ours,
    "ours_here": Ours,
    "notified": Notified,
    "watched": Watched,
    "pgqueuer": PgQueuer,
}

if __name__ == "__main__":
    try:
        made = CONTESTANTS[sys.argv[1]](sys.argv[2])
    except ImportError as error:
        print(f"missing not installed ({error.name or error})", flush=True)
    else:
        serve(made)
