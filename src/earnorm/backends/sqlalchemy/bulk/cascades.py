"""Cascades: rows that the database deletes, or whose foreign keys it empties, when rows they refer to are deleted.

`ON DELETE CASCADE` and `SET NULL` run inside the database, where no hook is. So the rows are looked up before the SQL
by the foreign keys of the tables, down to the last table, and after it those that the database has really changed
are told: without foreign keys switched on nothing was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, ForeignKeyConstraint, Table, inspect, select
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.sql import FromClause

from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, Shape, among, in_chunks, shape_of
from earnorm.backends.sqlalchemy.bulk.telling import (
    Fact,
    differences,
    fetch,
    forget,
    hears,
    loads,
    run_before,
    tell,
    tell_batch,
)
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.backends.sqlalchemy.mapping import mappings, root_of
from earnorm.errors import BulkRefused
from earnorm.occurrence import Kind

__all__ = [
    "Cascade",
    "Reference",
    "cached_on_table",
    "cascade_of",
    "cascades_of_rows",
    "concerned",
    "key_of_row",
    "leave_out_repeated",
    "listened_to",
    "reached_from",
    "refers_to",
    "require_told",
    "run_pre_hooks",
    "shapes_of",
    "tell_cascades",
    "tell_facts",
    "topmost",
]

_REFERRING = "earnorm_referring"
_EMPTYING = ("SET NULL", "SET DEFAULT")


@dataclass(slots=True)
class Cascade:
    """Rows of one mapper that the database is about to delete (or, of `emptied`, to change) by itself."""

    shape: Shape
    rows: dict[Key, Row]
    emptied: bool
    records: dict[Key, Any] = field(default_factory=dict[Key, Any])


# --- which tables ----------------------------------------------------------------------------


class Reference(NamedTuple):
    """A table whose rows change when rows of another are deleted; `emptied` if they stay."""

    table: Table
    constraint: ForeignKeyConstraint
    emptied: bool


def _referring(table: Table) -> list[Reference]:
    found: list[Reference] = cached_on_table(table, _REFERRING, _look_for_references)
    return found


def cached_on_table(table: Table, name: str, look: Callable[[Table], Iterable[Any]]) -> list[Any]:
    """Worked out once for as many tables as there are, and kept on the table."""
    tables = table.metadata.tables
    state = (len(tables), next(reversed(tables.values())))
    known = vars(table).get(name)
    if known is None or known[0] != state:
        known = vars(table)[name] = state, list(look(table))
    found: list[Any] = known[1]
    return found


def _look_for_references(table: Table) -> Iterator[Reference]:
    for other in table.metadata.tables.values():
        for constraint in sorted(other.foreign_key_constraints, key=lambda found: list(found.column_keys)):
            action = (constraint.ondelete or "").upper()
            if action in ("CASCADE", *_EMPTYING) and refers_to(constraint, table):
                yield Reference(other, constraint, action != "CASCADE")


def refers_to(constraint: ForeignKeyConstraint, table: Table) -> bool:
    # By name: a key may point at a table that is defined later, or never.
    return all(element.target_fullname.rpartition(".")[0] == table.fullname for element in constraint.elements)


def concerned(session: Session, table: Table) -> bool:
    """Whether the database changes rows of models that somebody listens to when rows of this table are deleted."""
    return any(
        listened_to(session, shape, emptied=reference.emptied)
        for reference in reached_from(table)
        for shape in shapes_of(reference.table)
    )


def reached_from(table: Table) -> Iterator[Reference]:
    """All that deletions of its rows may lead to, down to the last table."""
    seen, ahead = {table}, [table]
    while ahead:
        for reference in _referring(ahead.pop()):
            yield reference
            if not reference.emptied and reference.table not in seen:
                seen.add(reference.table)
                ahead.append(reference.table)


def listened_to(session: Session, shape: Shape, *, emptied: bool) -> bool:
    kind: Kind = "updated" if emptied else "deleted"
    return (
        hears(session, shape.known, kind)
        or _has_pre(shape, emptied=emptied)
        or any(m.info.bulk != "rows" for m in shape.known)
    )


def _has_pre(shape: Shape, *, emptied: bool) -> bool:
    return not emptied and any(model.bus.plans.flow(model.cls, "deleted").before for model in shape.known)


def shapes_of(table: Table) -> set[Shape]:
    """The models whose rows the table holds: the topmost mapper of them."""
    # A class may have been unmapped since, as tests do.
    mappers: Iterator[Mapper[Any] | None] = (inspect(model.cls, raiseerr=False) for model in mappings())
    return {shape_of(topmost(found, table)) for found in mappers if found is not None and found.local_table is table}


def topmost(mapper: Mapper[Any], table: Table) -> Mapper[Any]:
    while mapper.inherits is not None and mapper.inherits.local_table is table:
        mapper = mapper.inherits
    return mapper


# --- before the SQL --------------------------------------------------------------------------


def cascade_of(
    session: Session,
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    deleted: set[tuple[FromClause, Key]],
) -> list[Cascade]:
    """What the deletion of these rows (values by column name) takes along; rows in `deleted` are told already."""
    found: list[Cascade] = []
    for other, constraint, emptied in _referring(table):
        for some in in_chunks(_referred(constraint, rows)):
            below = _rows_of(connection, other, constraint, some)
            fresh = [row for row in below if (other, key_of_row(other, row)) not in deleted]
            if not fresh:
                continue
            if not emptied:
                deleted |= {(other, key_of_row(other, row)) for row in fresh}
            found += _as_models(session, connection, other, fresh, emptied=emptied)
            if not emptied:
                found += cascade_of(session, connection, other, fresh, deleted)
    return found


def _referred(constraint: ForeignKeyConstraint, rows: Iterable[Mapping[str, Any]]) -> Iterator[Key]:
    names = [element.column.name for element in constraint.elements]
    keys = (tuple(row.get(name) for name in names) for row in rows)
    return (key for key in dict.fromkeys(keys) if None not in key)


def _rows_of(
    connection: Connection, table: Table, constraint: ForeignKeyConstraint, keys: Sequence[Key]
) -> list[Mapping[str, Any]]:
    columns = [element.parent for element in constraint.elements]
    looked = select(*table.c).where(among(columns, keys)).with_for_update()
    return [{c.name: value for c, value in zip(table.c, row, strict=True)} for row in connection.execute(looked).all()]


def key_of_row(table: Table, row: Mapping[str, Any]) -> Key:
    return tuple(row[column.name] for column in table.primary_key) or tuple(row.values())


def _as_models(
    session: Session, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, emptied: bool
) -> Iterator[Cascade]:
    for shape in shapes_of(table):
        if not listened_to(session, shape, emptied=emptied):
            continue
        keys = [tuple(row[column.name] for column in table.primary_key) for row in rows]
        there = shape.read(connection, keys)
        # What is left of one that was deleted before has been told then.
        found = Cascade(shape, {key: row for key, row in there.items() if emptied or row.is_whole}, emptied)
        require_told(found)
        yield found


def require_told(cascade: Cascade) -> None:
    """Raises BulkRefused if one of the models is to be written record by record."""
    for model in {row.mapping.info.subject: row.mapping for row in cascade.rows.values()}.values():
        if model.info.bulk == "refuse":
            emptied = "a foreign key set to NULL by the database"
            what = emptied if cascade.emptied else "a deletion cascaded by the database"
            why = "its __bulk__ is 'refuse'; delete its records first, or let the ORM cascade (cascade='all, delete')"
            raise BulkRefused(model.info.name, what, why)


def run_pre_hooks(session: Session, cascades: Sequence[Cascade], before: Sequence[Cascade] = ()) -> None:
    """Load the records that somebody is handed, and let their pre_delete hooks veto; those `before` had them."""
    leave_out_repeated([*before, *cascades])
    for cascade in cascades:
        pre = _has_pre(cascade.shape, emptied=cascade.emptied)
        if not cascade.emptied and (pre or loads(cascade.shape.known, "deleted")):
            cascade.records = fetch(session, cascade.shape, cascade.rows)
        if pre:
            for key, row in cascade.rows.items():
                run_before(session, row, "deleted", cascade.records.get(key))


def leave_out_repeated(cascades: Sequence[Cascade]) -> None:
    """A row of joined tables is found by each of them, one with two foreign keys by both."""
    seen: set[tuple[object, bool, Key]] = set()
    for cascade in cascades:
        kind = root_of(cascade.shape.mapper), cascade.emptied
        cascade.rows = {key: row for key, row in cascade.rows.items() if (*kind, key) not in seen}
        seen.update((*kind, key) for key in cascade.rows)


# --- after it --------------------------------------------------------------------------------


def tell_cascades(session: Session, cascades: Sequence[Cascade]) -> None:
    """What the database has really done: rows that are gone, keys that are empty now."""
    # The deepest first, as records go.
    for cascade in reversed(cascades):
        connection = session.connection(bind_arguments={"mapper": cascade.shape.mapper})
        there = cascade.shape.read(connection, cascade.rows)
        facts = list(_emptied(cascade, there)) if cascade.emptied else _gone(cascade, there)
        if not cascade.emptied:
            forget(session, [cascade.records[fact.row.key] for fact in facts if fact.row.key in cascade.records])
        tell_facts(session, connection, cascade.shape, facts, cascade.records)


def tell_facts(
    session: Session, connection: Connection, shape: Shape, facts: Sequence[Fact], records: Mapping[Key, Any]
) -> None:
    """What the database did to rows by itself: as an event of each, or of all where the model says so."""
    by_row = [fact for fact in facts if fact.row.mapping.info.bulk == "rows"]
    tell(session, connection, shape, by_row, records)
    for model, some in _by_model(fact for fact in facts if fact.row.mapping.info.bulk == "batch"):
        fields = sorted({name for fact in some for name in fact.changes})
        tell_batch(session, connection, model, some[0].kind, {"count": len(some), "fields": fields, "criteria": ""})


def _by_model(facts: Iterable[Fact]) -> Iterator[tuple[Model, list[Fact]]]:
    found: dict[type, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.row.mapping.cls, []).append(fact)
    return ((some[0].row.mapping, some) for some in found.values())


def _gone(cascade: Cascade, there: Mapping[Key, Row]) -> list[Fact]:
    return [Fact("deleted", row) for key, row in cascade.rows.items() if key not in there]


def _emptied(cascade: Cascade, there: Mapping[Key, Row]) -> Iterator[Fact]:
    for key, row in there.items():
        if changes := differences(cascade.rows[key], row):
            yield Fact(row.mapping.info.kind_of(changes), row, changes)


# --- amid a statement ------------------------------------------------------------------------


def cascades_of_rows(
    session: Session, connection: Connection, shape: Shape, rows: Sequence[Mapping[str, Any]]
) -> list[Cascade]:
    """What a DELETE statement of these rows (values by column name) takes along, if pre hooks do not veto it."""
    # In the tables of a hierarchy the same key is the same record.
    root = root_of(shape.mapper)
    tables = {table for each in root.self_and_descendants if root_of(each) is root for table in each.tables}
    told: set[tuple[FromClause, Key]] = {(table, key_of_row(shape.table, row)) for row in rows for table in tables}
    found = cascade_of(session, connection, shape.table, rows, told)
    run_pre_hooks(session, found)
    return found
