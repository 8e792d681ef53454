"""Keeping: contestants that write rows, or read them, as users run them: commits wait for the disk.

Each runs in a process of its own on a file or schema of its own. `python -m benchmarks.keeping NAME URL` answers as
`benchmarks.saving` does, in seconds by the clock on the wall: what a commit waits for is part of it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.saving import Turn, answer

__all__ = ["CONTESTANTS"]


def _record(model: Any, number: int) -> Any:
    return model(name=f"name {number}", email="ada@example.com", visits=number)


# --- SQLAlchemy ------------------------------------------------------------------------------


def _plain(url: str) -> tuple[Any, Any]:
    """A plain model on an engine as EarnORM opens it, written out here, so that nothing of it is imported."""
    from sqlalchemy import create_engine, event

    from benchmarks.saving import plain_model

    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    model = plain_model()
    model.metadata.create_all(engine)
    return model, engine


def row_alone(url: str) -> Turn:
    return _rows(*_plain(url), 1)


def hundred_rows_alone(url: str) -> Turn:
    return _rows(*_plain(url), 100)


def _rows(model: Any, engine: Any, count: int) -> Turn:
    from sqlalchemy.orm import Session

    def turn(number: int) -> None:
        with Session(engine, expire_on_commit=False) as session:
            session.add_all(_record(model, number) for _ in range(count))
            session.commit()

    return turn


def plain_get(url: str) -> Turn:
    from sqlalchemy.orm import Session

    model, engine = _plain(url)
    _rows(model, engine, 1)(0)

    def turn(_: int) -> None:
        with Session(engine, expire_on_commit=False) as session:
            session.get(model, 1)

    return turn


def plain_find(url: str) -> Turn:
    from sqlalchemy import select
    from sqlalchemy.orm import Session

    model, engine = _plain(url)
    _rows(model, engine, 20)(0)

    def turn(_: int) -> None:
        with Session(engine, expire_on_commit=False) as session:
            list(session.scalars(select(model).where(model.visits == 0)))

    return turn


# --- EarnORM ---------------------------------------------------------------------------------


def _connected(url: str) -> tuple[Any, Any]:
    from benchmarks.saving import earnorm_model
    from earnorm import connect

    model, database = earnorm_model(), connect(url, worker=False)
    database.ready()
    return model, database.engine


def row_and_event(url: str) -> Turn:
    return _rows(*_connected(url), 1)


def hundred_rows_and_events(url: str) -> Turn:
    return _rows(*_connected(url), 100)


def earnorm_get(url: str) -> Turn:
    model, engine = _connected(url)
    _rows(model, engine, 1)(0)
    return lambda _: model.get(1)


def earnorm_find(url: str) -> Turn:
    model, engine = _connected(url)
    _rows(model, engine, 20)(0)
    return lambda _: model.find(model.visits == 0)


CONTESTANTS: dict[str, Callable[[str], Turn]] = {
    build.__name__: build
    for build in (
        row_alone,
        row_and_event,
        hundred_rows_alone,
        hundred_rows_and_events,
        plain_get,
        earnorm_get,
        plain_find,
        earnorm_find,
    )
}

if __name__ == "__main__":
    answer(lambda: CONTESTANTS[sys.argv[1]](sys.argv[2]), time.perf_counter)
