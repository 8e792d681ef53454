"""Bulk writing: contestants that write 10,000 rows a turn, every one in a process of its own (see `saving`)."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
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


def _updating_by_key(model: Any, sessions: Callable[[], Any]) -> Turn:
    """As an application does that has worked each value out: a dictionary for each row."""
    from sqlalchemy import select, update

    _inserting(model, sessions)(0)
    with sessions() as session:
        keys = session.scalars(select(model.id).order_by(model.id)).all()
    # In turns, so that every row changes every time.
    values = cycle([[{"id": key, "visits": key + more} for key in keys] for more in (1, 2)])

    def turn(_number: int) -> None:
        with sessions() as session:
            session.execute(update(model), next(values))
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


def _batch_model() -> Any:
    from earnorm import BaseModel, IntegerField, StringField

    class Person(BaseModel):
        __bulk__ = "batch"
        id = IntegerField(primary_key=True)
        name = StringField()
        email = StringField()
        visits = IntegerField()

    return Person


_WRITES: dict[str, Callable[..., Turn]] = {
    "bulk_insert": _inserting,
    "bulk_update_by_key": _updating_by_key,
    "bulk_update": _updating,
}
# How the model is made, and whether its events are kept.
_MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "plain": (plain_model, False),
    "unheard": (earnorm_model, False),
    "log": (earnorm_model, True),
    "batch": (_batch_model, True),
}
CONTESTANTS: dict[str, Callable[[str], Turn]] = {
    f"{name}_{kind}": partial(_bulk, make, write, connected=connected)
    for name, write in _WRITES.items()
    for kind, (make, connected) in _MODELS.items()
} | {f"{name}_by_hand": partial(_by_hand, write) for name, write in _WRITES.items()}

if __name__ == "__main__":
    chosen, target = sys.argv[1:]
    # The clock on the wall: a server's time is part of it.
    answer(lambda: CONTESTANTS[chosen](target), time.perf_counter)
