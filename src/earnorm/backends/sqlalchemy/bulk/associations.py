"""Associations: what a flush adds to and removes from a many-to-many relationship, as `order.tags.changed`.

The rows of a secondary table belong to no model, so no lifecycle event tells of them. The event is a custom one about
each record whose side of the relationship changed, with the records `added` and `removed`. What a deleted record was
associated with goes with its `deleted`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy.orm import RelationshipProperty, Session, UOWTransaction
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE, PassiveFlag
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.boundary import outbox_of
from earnorm.backends.sqlalchemy.bubbling import bubble_in
from earnorm.backends.sqlalchemy.bulk.telling import vetoable
from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.backends.sqlalchemy.hooks import attach_session
from earnorm.backends.sqlalchemy.mapping import Mapping, connection_of, mapping_of, refer
from earnorm.backends.sqlalchemy.relations import associations_of
from earnorm.backends.sqlalchemy.scope import scope_of, within
from earnorm.occurrence import Occurrence

__all__ = ["after_flush", "after_flush_postexec"]

_FOUND = "earnorm_associations"
# Of a side that nobody has loaded too: what was appended to the other one waits there.
_AS_FAR_AS_KNOWN = PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS


class _Found(NamedTuple):
    """One side of one relationship of one record, and what is other there now."""

    model: Mapping
    state: InstanceState[Any]
    name: str
    changed: dict[str, list[Any]]


def after_flush(context: UOWTransaction) -> None:
    """Take the differences down while SQLAlchemy still knows them."""
    found: list[_Found] = []
    for state, (deleted, _) in context.states.items():
        relations = associations_of(state.mapper)
        if relations and not deleted and (model := mapping_of(state.class_)) is not None:
            found += [_Found(model, state, name, changed) for name, changed in _changed(state, relations)]
    if found:
        context.attributes[_FOUND] = sorted(found, key=_place)


def _place(found: _Found) -> tuple[str, str, str]:
    return found.model.info.subject, str(found.model.identity(found.state)), found.name


def _changed(
    state: InstanceState[Any], relations: tuple[RelationshipProperty[Any], ...]
) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    for relation in relations:
        history = state.get_history(relation.key, _AS_FAR_AS_KNOWN)
        added, removed = ([r for r in part or () if _is_written(r)] for part in (history.added, history.deleted))
        if added or removed:
            yield relation.key, {"added": added, "removed": removed}


def _is_written(record: Any) -> bool:
    """SQLAlchemy lets None and records that no Session has stand in a collection, and writes nothing for them."""
    return record is not None and not record._sa_instance_state.transient


def after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    """Tell of them."""
    found = context.attributes.get(_FOUND, ())
    if not found:
        return
    with flagged(session, flushing=False), vetoable(session):
        for each in found:
            _tell(session, each)


def _tell(session: Session, found: _Found) -> None:
    bus, model = found.model.bus, found.model
    occurrence = _occurrence(session, found)
    if not (occurrence.handlers or occurrence.bubble or bus.attentive):
        return
    if bus.observed and bus.watch.silences(occurrence):
        return
    outbox = outbox_of(connection_of(session, found.state), bus, f"a change of {model.info.name}.{found.name}")
    outbox.serve(session)
    scope = scope_of(session)
    with within(scope):
        outbox.emit(bus.in_transaction(occurrence), bus.caller, scope.dispatcher)


def _occurrence(session: Session, found: _Found) -> Occurrence:
    model, name = found.model, f"{found.model.info.subject}.{found.name}.changed"
    changed = {which: [_reference(record) for record in records] for which, records in found.changed.items()}
    handlers = model.bus.plans.custom(name, model.cls)
    identity = model.identity(found.state)
    occurrence = Occurrence(name, found.state.obj(), changed, info=model.info, identity=identity, handlers=handlers)
    attach_session(occurrence, session)
    occurrence.bubble = bubble_in(session, model)
    return occurrence


def _reference(record: Any) -> Any:
    """A record as it is where it can go into a payload by reference; another as its primary key."""
    return record if refer(record) is not None else list(record._sa_instance_state.key[1])
