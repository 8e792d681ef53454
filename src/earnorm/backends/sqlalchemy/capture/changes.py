"""Changes: captured rows, as the occurrences that the same changes would have been in a Session."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs
from sqlalchemy import Connection

from earnorm.backends.sqlalchemy.capture import postgresql, sqlite
from earnorm.backends.sqlalchemy.capture.rows import Captured
from earnorm.backends.sqlalchemy.capture.target import Target
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.composition import compose
from earnorm.event import NO_CHANGES, Change
from earnorm.multitude import singly
from earnorm.occurrence import CHANGING, Kind, Occurrence, recast

__all__ = ["UNREADABLE", "Told", "Values", "merged", "read_values", "told_by"]

Values = dict[str, Any]
"""A record's values by attribute."""


class _Unreadable:
    """A stored value that the model's type cannot read, or must not. No codec takes it, so its name alone is kept."""


UNREADABLE = _Unreadable()

_log = logging.getLogger("earnorm.log")


@dataclass(frozen=True, slots=True)
class Told:
    """What triggers saw of one record. `looked_at` are the attributes that they look at."""

    key: str
    looked_at: frozenset[str]
    happened: list[Occurrence]


def told_by(
    connection: Connection, targets: Mapping[str, Target], rows: Sequence[Captured], *, whole: bool
) -> list[Told]:
    """What happened to each record, in the order in which the records were first changed.

    `whole`: the rows are of one transaction, so that one event, or none, is left of each record. Otherwise so for each
    transaction that the database numbers; where it numbers none, each row is its own.
    """
    documents = _documents(connection, targets, rows, whole=whole)
    groups: dict[tuple[str, str, str, int], list[Occurrence]] = {}
    for row, replaced in _without_replacements(rows):
        part = 0 if whole else row.transaction or row.id
        for occurrence in _occurrences(targets[row.subject], row, replaced, documents):
            groups.setdefault((row.subject, row.key, occurrence.key, part), []).append(occurrence)
    return [
        Told(key, _looked_at(targets[subject], happened[0]), list(singly(compose(happened))))
        for (subject, _, key, _), happened in groups.items()
    ]


def _looked_at(target: Target, occurrence: Occurrence) -> frozenset[str]:
    assert occurrence.info is not None
    names = _attributes(target, occurrence.info.cls, occurrence.info.fields)
    return frozenset(names[column] for column in (*target.kept, *target.hidden) if column in names)


def merged(known: Occurrence, told: Told) -> Occurrence | None:
    """One event of a record that a Session told of and triggers saw: what they saw, under its identity and cause.

    Of attributes that the triggers do not look at, the Session's word stands.
    """
    seen = told.happened[0] if told.happened else None
    others = {name: change for name, change in known.changes.items() if name not in told.looked_at}
    if seen is None:
        return _under(known, known, known.payload, others) if others and known.kind in CHANGING else None
    changes = {**others, **seen.changes} if seen.changes else NO_CHANGES
    return _under(known, seen, {**known.payload, **seen.payload}, changes)


def _under(
    known: Occurrence, seen: Occurrence, payload: Mapping[str, Any], changes: Mapping[str, Change]
) -> Occurrence:
    """What was seen, as the event that is known."""
    found = Occurrence(
        seen.name,
        known.subject,
        payload,
        kind=seen.kind,
        changes=changes,
        info=known.info,
        identity=seen.identity,
        event=recast(known.event, seen.name, changes, known.subject, structs.replace(seen.event, payload=payload)),
    )
    found.tenant, found.database = known.tenant, known.database
    return found


def _without_replacements(rows: Iterable[Captured]) -> Iterable[tuple[Captured, str | None]]:
    """Each row; with an insert, the document of the row that it replaced, if it did."""
    in_the_way: dict[tuple[str, str], str | None] = {}
    for row in rows:
        record = (row.subject, row.key)
        if row.operation == "R":
            in_the_way[record] = row.old
        else:
            replaced = in_the_way.pop(record, None)
            yield row, replaced if row.operation == "I" else None


# --- one row ---------------------------------------------------------------------------------


def _occurrences(
    target: Target, row: Captured, replaced: str | None, documents: Mapping[tuple[str, str], Values]
) -> Iterator[Occurrence]:
    stored_old = row.old if replaced is None else replaced
    old = documents[row.subject, stored_old] if stored_old is not None else None
    new = documents[row.subject, row.new] if row.new is not None else None
    was, now = (None if values is None else target.mapping_for(values) for values in (old, new))
    if was is now or old is None or new is None:
        told = [_occurrence(target, row, now or was, old, new)]
    else:
        # By its discriminator it is a record of another class from now on, which goes by another key.
        told = [_occurrence(target, row, was, old, None), _occurrence(target, row, now, None, new)]
    return (occurrence for occurrence in told if occurrence is not None)


def _occurrence(
    target: Target, row: Captured, mapping: Model | None, old: Values | None, new: Values | None
) -> Occurrence | None:
    current = new if new is not None else old
    if mapping is None or current is None:
        return None
    names = _attributes(target, mapping.cls, mapping.columns)
    payload = {names[column]: value for column, value in current.items() if column in names}
    identity = tuple(payload.get(name) for name in mapping.primary_key)
    if UNREADABLE in identity or None in identity:
        _log.warning(_NO_KEY, target.name, mapping.cls.__name__, row.key)
        return None
    kind: Kind = "created" if old is None else "deleted"
    changes: Mapping[str, Change] = NO_CHANGES
    if old is not None and new is not None:
        changes = {
            names[column]: Change(old.get(column), value)
            for column, value in new.items()
            if column in names and _differ(old.get(column), value)
        }
        # Two objects that are not equal, so that composing them keeps the change.
        changes |= {
            names[column]: Change(_Unreadable(), _Unreadable()) for column in json.loads(row.hidden) if column in names
        }
        if not changes:
            return None
        kind = mapping.info.kind_of(changes)
    name = f"{mapping.info.subject}.{kind}"
    occurrence = Occurrence(name, None, payload, kind=kind, changes=changes, info=mapping.info, identity=identity)
    occurrence.at = row.at / 1_000_000
    return occurrence


_NO_KEY = "a row of %s has a key that %s cannot read, and its change is not told: %s"


def _differ(old: Any, new: Any) -> bool:
    return type(old) is not type(new) or old != new


def _attributes(target: Target, cls: type, names: Iterable[str]) -> dict[str, str]:
    """The attribute of a class for each column of the table."""
    mapper = next(mapper for mapper in target.mapper.self_and_descendants if mapper.class_ is cls)
    return {mapper.columns[name].name: name for name in names if mapper.columns[name].table is target.table}


# --- values ----------------------------------------------------------------------------------


def _documents(
    connection: Connection, targets: Mapping[str, Target], rows: Sequence[Captured], *, whole: bool
) -> dict[tuple[str, str], Values]:
    """Every document of the rows, read once. What our own transaction wrote is there: it need not be looked for."""
    found: dict[tuple[str, str], Values] = {}
    by_subject: dict[str, dict[str, None]] = {}
    for row in rows:
        wanted = by_subject.setdefault(row.subject, {})
        wanted.update({document: None for document in (row.old, row.new) if document is not None})
    for subject, documents in by_subject.items():
        target = targets[subject]
        is_there = whole or connection.dialect.name == "sqlite" or postgresql.is_there(connection, target)
        read = read_values(connection, target, list(documents), is_there=is_there)
        found.update(((subject, document), values) for document, values in zip(documents, read, strict=True))
    return found


def read_values(connection: Connection, target: Target, documents: list[str], *, is_there: bool = True) -> list[Values]:
    """The values in documents of a table, by column, as the model's types read them."""
    if connection.dialect.name == "sqlite":
        stored: list[tuple[Values, Mapping[str, Any]]] = [(values, {}) for values in sqlite.stored_values(documents)]
    else:
        stored = postgresql.stored_values(connection, target, documents, is_there=is_there)
    return [_read(connection, target, values, types) for values, types in stored]


def _read(connection: Connection, target: Target, stored: Values, types: Mapping[str, Any]) -> Values:
    found: Values = {}
    for name, value in stored.items():
        column = target.columns.get(name)
        if column is None:
            continue
        process = column.type._cached_result_processor(connection.dialect, types.get(name))
        try:
            found[name] = value if process is None else process(value)
        except Exception:  # noqa: BLE001  a value that no model could read; a log that stops at it would tell nothing more
            found[name] = UNREADABLE
    return found
