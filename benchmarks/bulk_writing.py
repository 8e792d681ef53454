"""Bulk writing: contestants that write 10,000 rows a turn, every one in a process of its own (see `saving`)."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.saving import UNSAFE, Turn, answer, earnorm_model, plain_engine, plain_model

__all__ = ["CONTESTANTS"]

BULK = 10_000


def _inserting(model: Any, sessions: Callable[[], Any]) -> Turn:
    from sqlalchemy import insert

    rows = [{"name": f"name {number}", "email": "ada@example.com", "visits": number} for number in range(BULK)]

    def turn(_number: int) -> None:
        with sessions() as session:
            session.execute(insert(model), rows)
            session.commit()

    return turn


def _updating(model: Any, sessions: Callable[[], Any]) -> Turn:
    from sqlalchemy import update

    _inserting(model, sessions)(0)

    def turn(_number: int) -> None:
        with sessions() as session:
            session.execute(update(model).values(visits=model.visits + 1))
            session.commit()

    return turn


def _unconnected(model: Any, url: str) -> Callable[[], Any]:
    from sqlalchemy.orm import Session

    engine = plain_engine(url, UNSAFE)
    model.metadata.create_all(engine)
    return lambda: Session(engine)


def _connected(url: str) -> Any:
    from earnorm import connect

    return connect(f"{url}?{UNSAFE}" if url.startswith("sqlite") else url, worker=False)


def _bulk(make: Callable[[], Any], write: Callable[..., Turn], url: str, *, connected: bool) -> Turn:
    model = make()
    return write(model, _connected(url).session if connected else _unconnected(model, url))


def _by_hand(write: Callable[..., Turn], url: str) -> Turn:
    """Beside the statement, rows into the log whose data cost nothing to make: no log of rows can do with less."""
    from earnorm._uuid7 import uuid7s
    from earnorm.event import Entries

    model, database = plain_model(), _connected(url)
    model.metadata.create_all(database.engine)
    turn = write(model, database.session)
    data = [
        b'{"identity":[%d],"payload":{"id":%d,"name":"name %d","email":"ada@example.com","visits":%d},"changes":{}}'
        % (number, number, number, number)
        for number in range(BULK)
    ]
    keys = [f"person:{number}" for number in range(BULK)]

    def both(number: int) -> None:
        turn(number)
        with database.store.begin() as transaction:
            ids, at = uuid7s(BULK), datetime.now(UTC)
            transaction.append_many(Entries(ids=ids, keys=keys, data=data, name="person.told", subject="person", at=at))

    return both


def bulk_insert_plain(url: str) -> Turn:
    return _bulk(plain_model, _inserting, url, connected=False)


def bulk_insert_unheard(url: str) -> Turn:
    return _bulk(earnorm_model, _inserting, url, connected=False)


def bulk_insert_log(url: str) -> Turn:
    return _bulk(earnorm_model, _inserting, url, connected=True)


def bulk_insert_batch(url: str) -> Turn:
    return _bulk(_batch_model, _inserting, url, connected=True)


def bulk_update_plain(url: str) -> Turn:
    return _bulk(plain_model, _updating, url, connected=False)


def bulk_update_unheard(url: str) -> Turn:
    return _bulk(earnorm_model, _updating, url, connected=False)


def bulk_update_log(url: str) -> Turn:
    return _bulk(earnorm_model, _updating, url, connected=True)


def bulk_update_batch(url: str) -> Turn:
    return _bulk(_batch_model, _updating, url, connected=True)


def bulk_insert_by_hand(url: str) -> Turn:
    return _by_hand(_inserting, url)


def bulk_update_by_hand(url: str) -> Turn:
    return _by_hand(_updating, url)


def _batch_model() -> Any:
    from earnorm import BaseModel, IntegerField, StringField

    class Person(BaseModel):
        __bulk__ = "batch"
        id = IntegerField(primary_key=True)
        name = StringField()
        email = StringField()
        visits = IntegerField()

    return Person


CONTESTANTS: dict[str, Callable[[str], Turn]] = {
    build.__name__: build
    for build in (
        bulk_insert_plain,
        bulk_insert_unheard,
        bulk_insert_log,
        bulk_insert_batch,
        bulk_insert_by_hand,
        bulk_update_plain,
        bulk_update_unheard,
        bulk_update_log,
        bulk_update_batch,
        bulk_update_by_hand,
    )
}

if __name__ == "__main__":
    chosen, target = sys.argv[1:]
    # The clock on the wall: a server's time is part of it.
    answer(lambda: CONTESTANTS[chosen](target), time.perf_counter)
