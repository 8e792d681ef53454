"""Keeping: contestants that write rows, or read them, as users run them: commits wait for the disk.

Each runs in a process of its own on a file or schema of its own. `python -m benchmarks.keeping NAME URL` answers as
`benchmarks.saving` does, in seconds by the clock on the wall: what a commit waits for is part of it.
"""

import itertools
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
    """A plain model on an engine as EarnORM opens it; nothing of it is imported."""
    from benchmarks.saving import plain_engine, plain_model

    model, engine = plain_model(), plain_engine(url)
    model.metadata.create_all(engine)
    return model, engine


def row_alone(url: str) -> Turn:
    return _rows(*_plain(url), 1)


def hundred_rows_alone(url: str) -> Turn:
    return _rows(*_plain(url), 100)


def row_and_insert(url: str) -> Turn:
    return _rows_and_insert(url, 1)


def hundred_rows_and_insert(url: str) -> Turn:
    return _rows_and_insert(url, 100)


def _rows_and_insert(url: str, count: int) -> Turn:
    """The rows, and one bare INSERT of as many entries before each COMMIT: what no log can be cheaper than."""
    from sqlalchemy import event

    model, engine = _plain(url)
    table = _entries(model.metadata)
    table.create(engine)
    given = [column for column in table.c if column is not table.autoincrement_column]
    places = [
        "?" if engine.dialect.name == "sqlite" else f"%s::{column.type.compile(dialect=engine.dialect)}"
        for column in given
    ]
    names, values = ", ".join(column.name for column in given), f"({', '.join(places)})"
    statement = f"INSERT INTO {table.name} ({names}) VALUES {', '.join([values] * count)}"
    numbers = itertools.count()

    @event.listens_for(engine, "commit")
    def append(connection: Any) -> None:
        connection.exec_driver_sql(statement, tuple(v for _ in range(count) for v in _entry(next(numbers))))

    return _rows(model, engine, count)


def _entries(metadata: Any) -> Any:
    """A table with the columns and indexes of the log, and nothing else of it."""
    from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text

    position = BigInteger().with_variant(Integer, "sqlite")
    return Table(
        "entries",
        metadata,
        Column("position", position, primary_key=True, autoincrement=True),
        Column("id", LargeBinary(16), nullable=False),
        *(Column(name, Text, nullable=False) for name in ("name", "subject", "key")),
        Column("data", LargeBinary, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("correlation_id", LargeBinary(16), nullable=False),
        Column("causation_id", LargeBinary(16)),
        Column("depth", Integer, nullable=False),
        Column("tenant", Text),
        Column("version", Integer, nullable=False),
        Index("entries_id", "id", unique=True),
        Index("entries_key", "key", "position"),
        sqlite_autoincrement=True,
    )


def _entry(number: int) -> tuple[Any, ...]:
    """As many bytes as an event of the row has, without the work of making them."""
    id_ = number.to_bytes(16, "big")
    data = (
        b'{"identity":[123],"payload":{"id":123,"name":"name 123","email":"ada@example.com","visits":123},"changes":{}}'
    )
    return id_, "person.created", "person", f"person:{number}", data, number, id_, None, 0, None, 1


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
        row_and_insert,
        row_and_event,
        hundred_rows_alone,
        hundred_rows_and_insert,
        hundred_rows_and_events,
        plain_get,
        earnorm_get,
        plain_find,
        earnorm_find,
    )
}

if __name__ == "__main__":
    answer(lambda: CONTESTANTS[sys.argv[1]](sys.argv[2]), time.perf_counter)
