"""Expressions: values that the database works out amid a flush, read back so that its events hold them.

`user.visits = User.visits + 1`, generated columns, `onupdate`: SQLAlchemy forgets old and new alike once the UPDATE is
done, and loads them when somebody asks. Our hooks ask at once, so they are put back where the hooks will look.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Mapper, Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.bulk.given import attribute_of, is_sql
from earnorm.backends.sqlalchemy.bulk.shape import Row, shape_of
from earnorm.backends.sqlalchemy.bulk.telling import CHANGES, reads
from earnorm.backends.sqlalchemy.mapping import Mapping, connection_of, mapping_of
from earnorm.backends.sqlalchemy.refreshing import refresh

__all__ = ["after_flush", "before_flush"]

_OLD = "earnorm_old_values"
_VERSIONS = "earnorm_old_versions"
_GENERATED = "earnorm_generated"
_Old = dict[InstanceState[Any], dict[str, Any]]
_PLAIN = (str, int, float, bool, type(None))


def before_flush(session: Session, context: UOWTransaction) -> None:
    """Keep the old values of what this flush will have the database work out."""
    unknown: dict[tuple[Mapper[Any], Connection], list[InstanceState[Any]]] = defaultdict(list)
    for state in session.identity_map._modified:
        model = mapping_of(state.class_)
        if model is None:
            continue
        if state.mapper.version_id_col is not None and state.key is not None and model.changes(state):
            _keep_version(session, context, model, state)
        worked_out, unread = _worked_out(model, state), _is_unread(model, state)
        if (worked_out or unread) and any(reads(session, model, kind) for kind in CHANGES):
            context.attributes.setdefault(_OLD, {}).setdefault(state, {}).update(worked_out)
            if unread:
                unknown[state.mapper, connection_of(session, state)].append(state)
    for (mapper, connection), states in unknown.items():
        _recall(connection, mapper, states, context.attributes[_OLD])


def _keep_version(session: Session, context: UOWTransaction, model: Mapping, state: InstanceState[Any]) -> None:
    """SQLAlchemy sets the next one past what keeps old values. If it is not loaded, the flush would load it as well."""
    if any(reads(session, model, kind) for kind in CHANGES):
        mapper: Any = state.mapper
        old = mapper._get_committed_state_attr_by_column(state, state.dict, mapper.version_id_col)
        context.attributes.setdefault(_VERSIONS, {})[state] = old


def _is_unread(model: Mapping, state: InstanceState[Any]) -> bool:
    """Whether something that an UPDATE changes by itself is not loaded, such as after a commit, and one is due."""
    generated = _generated(state.mapper)
    if not generated or state.key is None or not any(_is_unknown(state, name) for name in generated):
        return False
    return bool(model.changes(state))


def _is_unknown(state: InstanceState[Any], name: str) -> bool:
    return name not in state.dict and name not in state.committed_state


def _recall(connection: Connection, mapper: Mapper[Any], states: list[InstanceState[Any]], old: _Old) -> None:
    by_key = {tuple(state.key[1]): state for state in states if state.key is not None}
    for key, row in shape_of(mapper).read(connection, by_key).items():
        state = by_key[key]
        names = (name for name in _generated(mapper) if name in row.values and _is_unknown(state, name))
        old[state] |= {name: row.values[name] for name in names if name not in old[state]}


def _worked_out(model: Mapping, state: InstanceState[Any]) -> dict[str, Any]:
    unsaved, current = state.committed_state, state.dict
    found = {
        name: old
        for name, old in unsaved.items()
        if name in model.stored and type(value := current.get(name)) not in _PLAIN and is_sql(value)
    }
    generated = _generated(state.mapper)
    if generated and unsaved:
        found.update((name, current[name]) for name in generated if name in current and name not in unsaved)
    return found


def _generated(mapper: Mapper[Any]) -> tuple[str, ...]:
    """Attributes that an UPDATE changes without being told to; worked out once for a mapper, and kept on it."""
    found: tuple[str, ...] | None = vars(mapper).get(_GENERATED)
    if found is None:
        attributes = mapper.column_attrs
        found = vars(mapper)[_GENERATED] = tuple(a.key for a in attributes if any(map(_is_generated, a.columns)))
    return found


def _is_generated(column: Any) -> bool:
    return getattr(column, "onupdate", None) is not None or getattr(column, "server_onupdate", None) is not None


def after_flush(session: Session, context: UOWTransaction) -> None:
    """Read back what it worked out, and what it gave to new rows."""
    _put_versions_back(context)
    old: _Old = context.attributes.get(_OLD, {})
    if not old and not any(state.expired_attributes for state in context.states):
        return
    unread: dict[tuple[Mapper[Any], Connection], list[InstanceState[Any]]] = defaultdict(list)
    for state, (deleted, listed_only) in context.states.items():
        made = state.key is None and state.expired_attributes
        if (made or state in old) and not deleted and not listed_only:
            model = mapping_of(state.class_)
            if model is not None and (state in old or reads(session, model, "created")):
                unread[state.mapper, connection_of(session, state)].append(state)
    for (mapper, connection), states in unread.items():
        _read(connection, mapper, states, old)


def _read(connection: Connection, mapper: Mapper[Any], states: list[InstanceState[Any]], old: _Old) -> None:
    by_key = {model.identity(state): state for state in states if (model := mapping_of(state.class_)) is not None}
    for key, row in shape_of(mapper).read(connection, by_key).items():
        _put_back(by_key[key], row, old.get(by_key[key]))


def _put_back(state: InstanceState[Any], row: Row, old: dict[str, Any] | None) -> None:
    names = state.expired_attributes.intersection(row.values) if old is None else old.keys() & row.values.keys()
    refresh(state, {name: row.values[name] for name in names})
    if old is not None:
        state.committed_state.update((name, old[name]) for name in names)


def _put_versions_back(context: UOWTransaction) -> None:
    versions: dict[InstanceState[Any], Any] = context.attributes.get(_VERSIONS, {})
    for state, old in versions.items():
        name = attribute_of(state.mapper.version_id_col, state.mapper)
        if name is not None and name in state.dict and state.dict[name] != old:
            state.committed_state.setdefault(name, old)
