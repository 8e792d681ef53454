"""Migrations: the numbered steps that bring a database's tables to this version.

A step may be killed anywhere, also on a database that commits each DDL statement by itself: every statement
does nothing when it was done before, and a step is noted only after its last one. So running `upgrade` again
always ends in the same schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import DDL, Connection, Table, create_mock_engine, exists, insert, inspect, literal, make_url, select
from sqlalchemy.schema import CreateIndex, CreateTable

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import dialect_named
from earnorm.errors import MissingTables, SchemaTooNew, UnknownStep

__all__ = ["Status", "check", "refuse_newer", "sql", "status", "step_name", "upgrade"]


@dataclass(frozen=True, slots=True)
class Status:
    """Which steps a database has, and which of ours it lacks."""

    applied: tuple[int, ...]
    pending: tuple[int, ...]

    @property
    def unknown(self) -> tuple[int, ...]:
        """Steps of a newer version than this one."""
        return tuple(step for step in self.applied if step > len(STEPS))


# A released step never changes. When a table in `tables` does, a new step alters it, and the step that made it
# takes a copy of its old shape.


def _make_log(connection: Connection) -> None:
    _create(connection, tables.log)
    # In the step that makes the table, so that no log is ever without them.
    for guard in dialect_named(connection.dialect).guards:
        connection.execute(DDL(guard))  # type: ignore[no-untyped-call]  # SQLAlchemy left it so


def _make_subscriptions(connection: Connection) -> None:
    for table in (tables.group, tables.subscription, tables.alias, tables.cursor):
        _create(connection, table)


def _make_workers(connection: Connection) -> None:
    _create(connection, tables.worker)


def _make_deliveries(connection: Connection) -> None:
    _create(connection, tables.delivery)
    _create(connection, tables.attempt)


def _make_interests(connection: Connection) -> None:
    _create(connection, tables.interest)


def _make_capture(connection: Connection) -> None:
    _create(connection, tables.capture)


def _make_idempotency_keys(connection: Connection) -> None:
    _create(connection, tables.idempotency)


def _quicken_the_horizon(connection: Connection) -> None:
    # The function alone, without a lock on the log: its trigger finds it by name, and writers may use either meanwhile.
    for guard in dialect_named(connection.dialect).guards[:1]:
        connection.execute(DDL(guard))  # type: ignore[no-untyped-call]  # as above


def _make_bundles(connection: Connection) -> None:
    _create(connection, tables.bundle)


def _compress_bundles(connection: Connection) -> None:
    for ddl in dialect_named(connection.dialect).bundle_storage:
        connection.execute(DDL(ddl))  # type: ignore[no-untyped-call]  # as above


Step = Callable[[Connection], None]
STEPS: tuple[Step, ...] = (
    _make_log,
    _make_subscriptions,
    _make_workers,
    _make_deliveries,
    _make_interests,
    _make_capture,
    _make_idempotency_keys,
    _quicken_the_horizon,
    _make_bundles,
    _compress_bundles,
)


def upgrade(connection: Connection, to: int | None = None) -> list[int]:
    """Run the steps not run yet, up to step `to`, in the caller's transaction; return their numbers.

    Any number of processes may call this at once: one works, the others wait and find nothing to do.
    Raises UnknownStep and SchemaTooNew, before changing anything.
    """
    if to is not None and to not in _numbers():
        raise UnknownStep(to, len(STEPS))
    dialect_named(connection.dialect).lock_schema(connection)
    _refuse_newer(_applied(connection))
    _create(connection, tables.schema)
    run = [step for step in status(connection).pending if to is None or step <= to]
    for step in run:
        _run(connection, step)
    return run


def status(connection: Connection) -> Status:
    """What `upgrade` would find; it reads only."""
    applied = _applied(connection)
    return Status(tuple(applied), tuple(step for step in _numbers() if step not in applied))


def check(connection: Connection) -> None:
    """Raise MissingTables or SchemaTooNew unless the tables are those of this version."""
    found = status(connection)
    _refuse_newer(found.applied)
    if found.pending:
        raise MissingTables([f"step {step} ({step_name(step)})" for step in found.pending])


def refuse_newer(connection: Connection) -> None:
    """Raise SchemaTooNew if a newer version has upgraded the tables; that they are there is not asked."""
    _refuse_newer(_applied(connection))


def step_name(step: int) -> str:
    """What a step does, in words of the code; of a newer version's step nothing is known."""
    return STEPS[step - 1].__name__.strip("_") if step in _numbers() else "unknown to this version"


def sql(dialect: str) -> str:
    """All steps as a script for the database `dialect` ("sqlite", "postgresql"), for those who run DDL by hand."""
    lines: list[str] = []

    def note(statement: Any, *_: object) -> None:
        text = statement.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
        lines.append(str(text).strip() + ";")

    engine: Any = create_mock_engine(make_url(f"{dialect}://"), note)
    _create(engine, tables.schema)
    for step in _numbers():
        lines.append(f"-- step {step}")
        _run(engine, step)
    return "\n".join(lines) + "\n"


def _run(connection: Connection, step: int) -> None:
    STEPS[step - 1](connection)
    _add_once(connection, tables.schema, step=step)


def _create(connection: Connection, table: Table) -> None:
    connection.execute(CreateTable(table, if_not_exists=True))
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        connection.execute(CreateIndex(index, if_not_exists=True))


def _add_once(connection: Connection, table: Table, **values: int | str) -> None:
    """Insert a row unless its primary key, the first value, is there."""
    key = next(iter(values))
    row = select(*(literal(value, table.c[name].type).label(name) for name, value in values.items()))
    row = row.where(~exists().where(table.c[key] == values[key]))
    connection.execute(insert(table).from_select(list(values), row))


def _applied(connection: Connection) -> list[int]:
    if not inspect(connection).has_table(tables.schema.name):
        return []
    return list(connection.scalars(select(tables.schema.c.step).order_by(tables.schema.c.step)))


def _refuse_newer(applied: Iterable[int]) -> None:
    found = max(applied, default=0)
    if found > len(STEPS):
        raise SchemaTooNew(found, len(STEPS))


def _numbers() -> range:
    return range(1, len(STEPS) + 1)
