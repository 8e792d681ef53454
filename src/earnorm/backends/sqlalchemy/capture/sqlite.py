"""SQLite's triggers of a captured table, and its stored values as they write them down.

A value is kept as `quote()` writes it, which is exact for every storage class, where JSON knows no bytes and rounds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Table

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.capture.target import Target
from earnorm.errors import NotCapturable

__all__ = ["Triggers", "committed", "stored_values"]

_PREFIX = "earnorm_capture_"
# json_object takes 100 arguments before SQLite 3.48: fifty names with their values.
_NAMES_A_CALL = 50
_INSERT = f'INSERT INTO {tables.capture.name} (subject, "key", operation, old, new, hidden, "transaction", at)'
_NOW = "CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000"


class Triggers:
    """The triggers of a table, by its name."""

    def name_of(self, connection: Connection, table: Table) -> str:  # noqa: ARG002  PostgreSQL asks for a schema
        return table.name

    def specification(self, target: Target) -> str:
        return "\n".join(_statements(target))

    def require_fit(self, connection: Connection, target: Target) -> None:
        if not _file_of(connection):
            raise NotCapturable(target.name, "the database is in memory; capture needs a file")
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        if mode != "wal":
            why = f"journal_mode is {mode}, in which a writer's own changes cannot be told from others'"
            raise NotCapturable(target.name, f"{why}; run PRAGMA journal_mode = WAL once")

    def find(self, connection: Connection) -> dict[str, str]:
        """The captured tables, and the triggers that stand on each."""
        rows = connection.exec_driver_sql(
            "SELECT tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'earnorm\\_capture\\_%' "
            "ESCAPE '\\' ORDER BY rowid"
        )
        found: dict[str, list[str]] = {}
        for table, sql in rows:
            found.setdefault(table, []).append(sql)
        return {table: "\n".join(made) for table, made in found.items()}

    def install(self, connection: Connection, target: Target) -> None:
        self.remove(connection, target)
        for statement in _statements(target):
            connection.exec_driver_sql(statement)

    def remove(self, connection: Connection, target: Target) -> None:
        rows = connection.exec_driver_sql(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? AND substr(name, 1, ?) = ?",
            (target.table.name, len(_PREFIX), _PREFIX),
        ).fetchall()
        for (name,) in rows:
            connection.exec_driver_sql(f"DROP TRIGGER {_name(name)}")


# --- the triggers ----------------------------------------------------------------------------


def _statements(target: Target) -> Iterator[str]:
    old, new = _document("OLD", target.kept), _document("NEW", target.kept)
    same_key = " AND ".join(f"{_quoted('OLD', name)} IS {_quoted('NEW', name)}" for name in target.key)
    changed = " OR ".join(
        f"{_quoted('OLD', name)} IS NOT {_quoted('NEW', name)}" for name in (*target.kept, *target.hidden)
    )
    there = " AND ".join(f"{_name(name)} IS NEW.{_name(name)}" for name in target.key)
    row = _name(target.table.name)
    # REPLACE removes the row in the way and fires no DELETE trigger. This one fires for every insert that meets a row,
    # so what it wrote counts only if an insert of the same record comes next.
    values = f"{_key(target, row)}, 'R', {_document(row, target.kept)}, NULL, '[]', 0, {_NOW}"
    met = f"FROM {row} WHERE {there}"
    replaced = f"{_INSERT} SELECT {values} {met};"
    yield _trigger(target, "replace", "BEFORE INSERT", f"EXISTS (SELECT 1 {met})", replaced)
    yield _trigger(target, "insert", "AFTER INSERT", "", _written(target, "NEW", "I", "NULL", new))
    yield _trigger(
        target,
        "update",
        "AFTER UPDATE",
        f"({same_key}) AND ({changed})",
        _written(target, "NEW", "U", old, new),
    )
    moved = f"{_written(target, 'OLD', 'D', old, 'NULL')} {_written(target, 'NEW', 'I', 'NULL', new)}"
    yield _trigger(target, "move", "AFTER UPDATE", f"NOT ({same_key})", moved)
    yield _trigger(target, "delete", "AFTER DELETE", "", _written(target, "OLD", "D", old, "NULL"))


def _trigger(target: Target, what: str, when: str, condition: str, body: str) -> str:
    name = _name(f"{_PREFIX}{target.table.name}_{what}")
    only = f" WHEN {condition}" if condition else ""
    return f"CREATE TRIGGER {name} {when} ON {_name(target.table.name)} FOR EACH ROW{only} BEGIN {body} END"


def _written(target: Target, row: str, operation: str, old: str, new: str) -> str:
    hidden = _hidden(target.hidden) if operation == "U" else "'[]'"
    return f"{_INSERT} VALUES ({_key(target, row)}, '{operation}', {old}, {new}, {hidden}, 0, {_NOW});"


def _key(target: Target, row: str) -> str:
    return f"{_text(target.subject)}, json_array({', '.join(_quoted(row, name) for name in target.key)})"


def _document(row: str, names: tuple[str, ...]) -> str:
    pairs = [f"{_text(name)}, {_quoted(row, name)}" for name in names]
    starts = range(0, len(pairs), _NAMES_A_CALL)
    calls = (f"json_object({', '.join(pairs[start : start + _NAMES_A_CALL])})" for start in starts)
    return f"json_array({', '.join(calls)})"


def _hidden(names: tuple[str, ...]) -> str:
    return f"'[' || rtrim({' || '.join(map(_name_if_changed, names))}, ',') || ']'" if names else "'[]'"


def _name_if_changed(name: str) -> str:
    changed = f"{_quoted('OLD', name)} IS NOT {_quoted('NEW', name)}"
    return f"CASE WHEN {changed} THEN {_text(json.dumps(name) + ',')} ELSE '' END"


def _quoted(row: str, name: str) -> str:
    return f"quote({row}.{_name(name)})"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- what they wrote -------------------------------------------------------------------------


def stored_values(documents: Iterable[str]) -> list[dict[str, Any]]:
    """The stored values, by column, as the driver would give them."""
    return [
        {name: _unquoted(text) for part in json.loads(document) for name, text in part.items()}
        for document in documents
    ]


def _unquoted(text: str) -> Any:
    if text == "NULL":
        return None
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if text[:1] in ("X", "x"):
        return bytes.fromhex(text[2:-1])
    try:
        return int(text)
    except ValueError:
        return float(text)


def committed(connection: Connection) -> int:
    """The last captured row that others committed, while this connection holds the file's one write lock.

    Only another connection sees what is committed and not what is ours. It reads, in WAL mode, whoever writes.
    """
    with closing(sqlite3.connect(_file_of(connection), isolation_level=None)) as other:
        if other.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is None:
            return 0  # even our tables are not committed yet
        row = other.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (tables.capture.name,)).fetchone()
    return row[0] if row else 0


def _file_of(connection: Connection) -> str:
    rows = connection.exec_driver_sql("PRAGMA database_list").fetchall()
    return next((file for _, name, file in rows if name == "main"), "")
