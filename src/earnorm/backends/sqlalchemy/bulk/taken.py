"""Taken: what the database takes along with the records that a flush deletes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Mapper, Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState
from sqlalchemy.sql import FromClause

from earnorm.backends.sqlalchemy.bulk.cascades import (
    Cascade,
    Reference,
    cascade_of,
    concerned,
    leave_out_repeated,
    listened_to,
    reached_from,
    require_told,
    run_pre_hooks,
    tell_cascades,
    topmost,
)
from earnorm.backends.sqlalchemy.bulk.given import attribute_of
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, Shape, shape_of
from earnorm.backends.sqlalchemy.bulk.telling import vetoable
from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.backends.sqlalchemy.mapping import mapping_of, root_of

__all__ = ["after_flush", "after_flush_postexec", "before_flush"]

_TAKEN = "earnorm_taken"

_State = InstanceState[Any]


@dataclass(slots=True)
class _Taken:
    """What a flush takes along, as far as is known: others may delete more once we have looked.

    deleted     the records that were looked at
    told        they and what was found, by table and key
    references  where rows that this very flush makes may be met
    made        those rows
    """

    deleted: set[_State] = field(default_factory=set[_State])
    told: set[tuple[FromClause, Key]] = field(default_factory=set[tuple[FromClause, Key]])
    cascades: list[Cascade] = field(default_factory=list[Cascade])
    references: dict[object, Reference] = field(default_factory=dict[object, Reference])
    made: list[_State] = field(default_factory=list[_State])


# --- before the SQL --------------------------------------------------------------------------


def before_flush(session: Session, context: UOWTransaction) -> None:
    """Look for it, by what is to be deleted now and was not when we looked before."""
    taken: _Taken = context.attributes.setdefault(_TAKEN, _Taken())
    states = [state for state in session._deleted if state.key is not None and state not in taken.deleted]
    taken.deleted.update(states)
    taken.told |= {(table, tuple(state.identity or ())) for state in states for table in state.mapper.tables}
    fresh: list[Cascade] = []
    for (mapper, table), some in _by_table(states).items():
        if concerned(session, table):
            connection = session.connection(bind_arguments={"mapper": mapper})
            rows = [_columns(mapper, table, state) for state in some]
            fresh += cascade_of(session, connection, table, rows, taken.told)
            taken.references.update((each.constraint, each) for each in reached_from(table))
    if fresh:
        run_pre_hooks(session, fresh, taken.cascades)
        taken.cascades += fresh


def _by_table(states: Iterable[_State]) -> dict[tuple[Mapper[Any], Table], list[_State]]:
    found: dict[tuple[Mapper[Any], Table], list[_State]] = {}
    for state in states:
        for table in state.mapper.tables:
            if isinstance(table, Table):
                found.setdefault((state.mapper, table), []).append(state)
    return found


def _columns(mapper: Mapper[Any], table: Table, state: _State) -> dict[str, Any]:
    """A record's values by column; its key is known even where nothing is loaded."""
    assert state.key is not None
    names = ((column.name, attribute_of(column, mapper)) for column in table.c)
    values = {column: state.dict[name] for column, name in names if name in state.dict}
    return {**values, **dict(zip((column.name for column in table.primary_key), state.key[1], strict=False))}


# --- after it --------------------------------------------------------------------------------


def after_flush(context: UOWTransaction) -> None:
    """Take down what this flush has made, while that can still be told from what was there."""
    taken: _Taken | None = context.attributes.get(_TAKEN)
    if taken is not None and taken.references:
        states = context.states.items()
        taken.made = [state for state, (deleted, listed) in states if state.key is None and not (deleted or listed)]


def after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    """Tell of what it took along."""
    taken: _Taken | None = context.attributes.get(_TAKEN)
    if taken is None:
        return
    # What the ORM had loaded it has written itself, and our hooks have told of it.
    written = {
        (root_of(s.mapper), tuple(s.key[1])) for s, (_, listed) in context.states.items() if not listed and s.key
    }
    for cascade in taken.cascades:
        base = root_of(cascade.shape.mapper)
        cascade.rows = {key: row for key, row in cascade.rows.items() if (base, key) not in written}
    if taken.cascades or taken.made:
        with flagged(session, flushing=False), vetoable(session):
            tell_cascades(session, [*taken.cascades, *_met(session, taken)])


def _met(session: Session, taken: _Taken) -> list[Cascade]:
    """Rows that this flush has made, and the database may have taken along or emptied at once."""
    found: list[Cascade] = []
    for reference in taken.references.values():
        made = [state for state in taken.made if reference.table in state.mapper.tables]
        for shape, some in _by_shape(made, reference.table).items():
            if listened_to(session, shape, emptied=reference.emptied):
                records = {tuple(state.key[1]): state.obj() for state in some if state.key is not None}
                found.append(Cascade(shape, dict(_rows(some, reference)), reference.emptied, records))
                require_told(found[-1])
    leave_out_repeated(found)
    return found


def _by_shape(states: Iterable[_State], table: Table) -> dict[Shape, list[_State]]:
    found: dict[Shape, list[_State]] = {}
    for state in states:
        found.setdefault(shape_of(topmost(state.mapper, table)), []).append(state)
    return found


def _rows(states: Iterable[_State], reference: Reference) -> Iterator[tuple[Key, Row]]:
    """As they were made; of those that may be emptied no more than what is emptied then."""
    for state in states:
        model = mapping_of(state.class_)
        if model is None:
            continue
        key, values = model.identity(state), model.values(state)
        if reference.emptied:
            names = {attribute_of(column, state.mapper) for column in reference.constraint.columns}
            values = {name: value for name, value in values.items() if name in names}
        yield key, Row(model, key, values)
