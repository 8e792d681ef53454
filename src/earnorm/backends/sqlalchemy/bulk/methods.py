"""Bulk methods and writes by key: `bulk_save_objects`, `bulk_*_mappings`, and UPDATE with a list of dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.arrays import by_keys
from earnorm.backends.sqlalchemy.bulk.columns import Values, aligned, joined, updated_alike
from earnorm.backends.sqlalchemy.bulk.shape import Key, Plain, Row, Shape
from earnorm.backends.sqlalchemy.bulk.statements import changed
from earnorm.backends.sqlalchemy.bulk.telling import Fact, Facts, run_before
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.occurrence import Kind

__all__ = ["before_objects", "inserted_mappings", "key_columns_of", "keys_of", "prepared", "updated_by_key"]


def keys_of(model: Model, values: Iterable[Mapping[str, Any]]) -> list[Key]:
    """The primary keys among dictionaries of values; those that have none yet are left out."""
    keys = (tuple(given.get(name) for name in model.primary_key) for given in values)
    return [key for key in dict.fromkeys(keys) if None not in key]


def key_columns_of(model: Model, values: Sequence[Mapping[str, Any]]) -> Values:
    """`keys_of` as columns: thousands of tuples cost more to collect than all else that is done with them."""
    if len(model.primary_key) == 1:
        (name,) = model.primary_key
        found = dict.fromkeys([given.get(name) for given in values])
        found.pop(None, None)
        return [list(found)]
    return list(zip(*keys_of(model, values), strict=True)) or [()] * len(model.primary_key)


def updated_by_key(
    session: Session, shape: Shape, keys: Values, write: Callable[[], Any], require: Callable[[Mapping[Key, Row]], None]
) -> tuple[Any, Facts]:
    """Old and new values by SELECTs around the write: what it sets need not be what the database makes of it.

    `require` is asked about rows that may be of several classes, before they are written.
    """
    connection = session.connection(bind_arguments={"mapper": shape.mapper})
    if shape.plain is not None:
        return _updated_plain(connection, shape, shape.plain, keys, write)
    before = shape.read(connection, zip(*keys, strict=True), lock=True)
    require(before)
    result = write()
    return result, list(changed(before, shape.read(connection, before)))


def _updated_plain(
    connection: Connection, shape: Shape, plain: Plain, keys: Values, write: Callable[[], Any]
) -> tuple[Any, Facts]:
    """The same, of rows of one model: column by column, as long as nobody asks for one of them."""
    before = by_keys(connection, shape, keys, lock=True)
    found = [before[place] for place in plain.key]
    result = write()
    after = by_keys(connection, shape, found)
    written = [after[place] for place in plain.key]
    return result, updated_alike(plain, *aligned(before, joined(found), after, joined(written)))


def inserted_mappings(session: Session, shape: Shape, model: Model, values: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """The rows that were inserted from these, which have got their primary keys by now."""
    connection = session.connection(bind_arguments={"mapper": shape.mapper})
    return [Fact("created", row) for row in shape.read(connection, keys_of(model, values)).values()]


def before_objects(session: Session, model: Model, states: Sequence[InstanceState[Any]], kind: Kind) -> None:
    """Pre hooks and validation of objects that are about to be written in bulk."""
    for state in states:
        record = state.obj()
        changes = model.changes(state) if kind == "updated" else {}
        hooks = model.info.bulk == "rows" and model.bus.plans.flow(model.cls, kind).before
        if hooks and (changes or kind == "created"):
            run_before(session, Row(model, model.identity(state), model.values(state)), kind, record, changes)
            changes = model.changes(state) if kind == "updated" else {}
        if model.validate is not None:
            model.validate(record, None if kind == "created" else changes.keys())


def prepared(session: Session, model: Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a new row is given, after the pre hooks of a record made of it have seen and changed it."""
    record = model.cls(**values)
    state: InstanceState[Any] = record._sa_instance_state
    run_before(session, Row(model, model.identity(state), model.values(state)), "created", record)
    if model.validate is not None:
        model.validate(record, None)
    made = model.values(state)
    return {**values, **{name: value for name, value in made.items() if value is not None or name in values}}
