"""The tables of a database, ours and those of its models, as `connect(tables=...)` looks after them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, MetaData
from sqlalchemy import inspect as inspect_database
from sqlalchemy.orm import DeclarativeBase

from earnorm.backends.sqlalchemy import migrations
from earnorm.errors import MissingTables

__all__ = ["KEPT", "Tables", "count_tables", "keep_tables_of", "look_after"]

Tables = Literal["create", "check", "none"]

KEPT: list[MetaData] = []
"""The models' tables that databases look after."""


def keep_tables_of(base: type[DeclarativeBase]) -> None:
    """`connect(tables=...)` looks after the tables of this base."""
    KEPT.append(base.metadata)


def count_tables() -> int:
    count = 0
    for metadata in KEPT:
        count += len(metadata.tables)
    return count


def look_after(connection: Connection, how: Tables) -> None:
    """Make what is missing, refuse it or trust that nothing is. Raises MissingTables, SchemaTooNew."""
    if how == "create":
        # The lock that `upgrade` takes lasts until the end of this transaction, so the models' tables have it too.
        migrations.upgrade(connection)
        for metadata in KEPT:
            metadata.create_all(connection)
    elif how == "check":
        migrations.check(connection)
        tables = [table for metadata in KEPT for table in metadata.tables.values()]
        names = inspect_database(connection).get_table_names
        there = {schema: set(names(schema)) for schema in {table.schema for table in tables}}
        missing = sorted(table.fullname for table in tables if table.name not in there[table.schema])
        if missing:
            raise MissingTables(missing)
    else:
        # Of what a newer version keeps elsewhere than in the log, a worker of this one would deliver nothing.
        migrations.refuse_newer(connection)
