"""Unloaded: what a record that is about to go holds without anybody having loaded it.

Deferred columns, and those of the tables below of a record that was found as one of its base class. Afterwards nobody
could load them, and its event and its snapshot would lack them.
"""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.shape import shape_of
from earnorm.backends.sqlalchemy.bulk.telling import reads
from earnorm.backends.sqlalchemy.mapping import Mapping, connection_of, mapping_of

__all__ = ["before_flush"]


def before_flush(session: Session) -> None:
    """Read it, where somebody will be given it."""
    partial: dict[tuple[Mapper[object], Connection], list[InstanceState[object]]] = defaultdict(list)
    for state in session._deleted:
        model = mapping_of(state.class_)
        if model is not None and _is_partial(state, model) and reads(session, model, "deleted"):
            partial[state.mapper, connection_of(session, state)].append(state)
    for (mapper, connection), states in partial.items():
        found = shape_of(mapper).read(connection, [tuple(state.key[1]) for state in states if state.key is not None])
        for state in states:
            row = None if state.key is None else found.get(tuple(state.key[1]))
            if row is not None:
                _fill_in(state, row.values)


def _is_partial(state: InstanceState[object], model: Mapping) -> bool:
    """Whether it has columns of which nothing is known here; those that a record made here never had set are NULL."""
    missing = model.stored - state.dict.keys()
    if not missing:
        return False
    was_made_here = state.insert_order is not None
    return not was_made_here or any(state.mapper.column_attrs[name].deferred for name in missing)


def _fill_in(state: InstanceState[object], values: dict[str, object]) -> None:
    missing = values.keys() - state.dict.keys()
    state.dict.update((name, values[name]) for name in missing)
    state.expired_attributes -= missing
