"""Alembic, for those whose own migrations it runs: leave our tables alone, and upgrade them from a migration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy import migrations
from earnorm.errors import MigrationWithoutConnection

__all__ = ["include_name", "upgrade"]

_PREFIX = "earnorm_"


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:  # noqa: ARG001  Alembic calls it so
    """Whether autogenerate should look at what the database holds under this name: not if it is a table of ours.

    Without it autogenerate finds tables that no model declares, and proposes to drop them.
    """
    return not (type_ == "table" and name is not None and name.startswith(_PREFIX))


def upgrade(bind: Connection, to: int | None = None) -> list[int]:
    """Bring the log's tables to step `to` of this version (to its last one), in the migration's transaction.

    Returns the steps that were run. A migration that names its step does the same for ever, whatever is installed.
    Raises MigrationWithoutConnection, UnknownStep, SchemaTooNew.
    """
    if not isinstance(bind, Connection):
        raise MigrationWithoutConnection(bind)
    return migrations.upgrade(bind, to)
