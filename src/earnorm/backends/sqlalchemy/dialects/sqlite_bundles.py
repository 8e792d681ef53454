"""Bundles on SQLite: their positions are taken by moving the log's counter on."""

from __future__ import annotations

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy import tables

__all__ = ["HORIZON", "insert_bundle"]

_LOG = f"'{tables.log.name}'"
_MOVED = f"UPDATE sqlite_sequence SET seq = seq + ? WHERE name = {_LOG}"  # noqa: S608  a name of ours
_BEGUN = f"INSERT INTO sqlite_sequence (name, seq) VALUES ({_LOG}, ?)"  # noqa: S608  as above
_INSERT = (
    f"INSERT INTO {tables.bundle.name} (first, last, {', '.join(tables.BUNDLE_COLUMNS)}) "  # noqa: S608  as above
    f"SELECT seq - ? + 1, seq, {', '.join('?' * len(tables.BUNDLE_COLUMNS))} FROM sqlite_sequence WHERE name = {_LOG}"
)

# One statement sees one state: a bundle is there, or its entries are. Not max(position), which falls back when the log
# is pruned.
HORIZON = (
    f"SELECT min(seq, coalesce((SELECT min(first) - 1 FROM {tables.bundle.name}), seq)) "  # noqa: S608  as above
    f"FROM sqlite_sequence WHERE name = {_LOG}"
)
"""The last position that is safe to read; no row where none was ever given out."""


def insert_bundle(connection: Connection, count: int, row: tuple[object, ...]) -> None:
    if connection.exec_driver_sql(_MOVED, (count,)).rowcount == 0:
        # The log has never had an entry.
        connection.exec_driver_sql(_BEGUN, (count,))
    connection.exec_driver_sql(_INSERT, (count, *row))
