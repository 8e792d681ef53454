"""Bundles: entries that a commit left as one row, and those who come later make rows of the log of.

Their positions are theirs from the beginning, taken as any append takes them, under the horizon's lock. What they are
not is there to be read; so whoever asks for the horizon is told of one in front of the lowest bundle. That this loses
nothing, whatever happens in between: `dialects/horizon`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import json
from sqlalchemy import Connection, delete, select
from sqlalchemy.sql import Select

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import shared_row
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.bundle import Bundle
from earnorm.instants import to_time
from earnorm.multitude import Multitude

__all__ = ["BundleVerbs", "is_bundled"]

_bundle = tables.bundle
_SINCE: Select[Any] = select(_bundle.c.at).order_by(_bundle.c.first).limit(1)
# Whoever has taken it is about to remove it.
_LOWEST = select(_bundle).order_by(_bundle.c.first).limit(1).with_for_update(skip_locked=True)


class BundleVerbs(Verbs):
    """Leaving entries in a bundle, and making entries of it."""

    __slots__ = ()

    def append_bundled(self, many: Multitude) -> bool:
        """Append a multitude as bundles; False, with nothing done, where it has to be appended as entries."""
        # Made first: PostgreSQL holds the lock from the question on, in front of whoever asks for the horizon.
        if (bundles := many.bundles()) is None or not self._dialect.can_bundle(self._connection):
            return False
        for each in bundles:
            self._dialect.bundle(self._connection, len(each), (each.ids, each.content, *shared_row(each)))
        return True

    def bundled_since(self) -> datetime | None:
        """When what the lowest bundle tells of happened; None if there is none."""
        at = self._connection.execute(_SINCE).scalar()
        return None if at is None else to_time(at)

    def unbundle(self) -> bool:
        """Make entries of the lowest bundle that nobody else is at; whether there was one."""
        row = self._connection.execute(_LOWEST).first()
        if row is None:
            return False
        self._connection.execute(delete(_bundle).where(_bundle.c.first == row.first))
        self._dialect.append_at(self._connection, _positions(row), _bundle_of(row).entries())
        return True


def is_bundled(connection: Connection) -> bool:
    """Whether there is a bundle."""
    return connection.execute(_SINCE).first() is not None


def _positions(row: Any) -> list[int]:
    return list(range(row.first, row.last + 1)) if row.positions is None else json.decode(row.positions)


def _bundle_of(row: Any) -> Bundle:
    correlation, cause = row.correlation_id, row.causation_id
    return Bundle(
        ids=row.ids,
        content=row.content,
        name=row.name,
        subject=row.subject,
        at=to_time(row.at),
        correlation_id=None if correlation is None else UUID(bytes=correlation),
        causation_id=None if cause is None else UUID(bytes=cause),
        depth=row.depth,
        tenant=row.tenant,
        version=row.version,
    )
