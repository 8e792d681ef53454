"""Bulk writing: contestants that write 10,000 rows a turn, every one in a process of its own (see `saving`)."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.saving import Turn, _connected, _engine, answer, earnorm_model, plain_model

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


def _unconnected(model: Any, path: Path) -> Callable[[], Any]:
    from sqlalchemy.orm import Session

    engine = _engine(path)
    model.metadata.create_all(engine)
    return lambda: Session(engine)


def _bulk(make: Callable[[], Any], write: Callable[..., Turn], path: Path, *, connected: bool) -> Turn:
    model = make()
    return write(model, _connected(path).session if connected else _unconnected(model, path))


def bulk_insert_plain(path: Path) -> Turn:
    return _bulk(plain_model, _inserting, path, connected=False)


def bulk_insert_unheard(path: Path) -> Turn:
    return _bulk(earnorm_model, _inserting, path, connected=False)


def bulk_insert_log(path: Path) -> Turn:
    return _bulk(earnorm_model, _inserting, path, connected=True)


def bulk_insert_batch(path: Path) -> Turn:
    return _bulk(_batch_model, _inserting, path, connected=True)


def bulk_update_plain(path: Path) -> Turn:
    return _bulk(plain_model, _updating, path, connected=False)


def bulk_update_unheard(path: Path) -> Turn:
    return _bulk(earnorm_model, _updating, path, connected=False)


def bulk_update_log(path: Path) -> Turn:
    return _bulk(earnorm_model, _updating, path, connected=True)


def bulk_update_batch(path: Path) -> Turn:
    return _bulk(_batch_model, _updating, path, connected=True)


def _batch_model() -> Any:
    from earnorm import BaseModel, IntegerField, StringField

    class Person(BaseModel):
        __bulk__ = "batch"
        id = IntegerField(primary_key=True)
        name = StringField()
        email = StringField()
        visits = IntegerField()

    return Person


CONTESTANTS: dict[str, Callable[[Path], Turn]] = {
    build.__name__: build
    for build in (
        bulk_insert_plain,
        bulk_insert_unheard,
        bulk_insert_log,
        bulk_insert_batch,
        bulk_update_plain,
        bulk_update_unheard,
        bulk_update_log,
        bulk_update_batch,
    )
}

if __name__ == "__main__":
    chosen, place = sys.argv[1], Path(sys.argv[2])
    answer(lambda: CONTESTANTS[chosen](place / f"{chosen}.db"), time.process_time)
