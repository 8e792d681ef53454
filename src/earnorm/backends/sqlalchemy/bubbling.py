"""Bubbling: an event of a part is told again about the whole (`class Line(BaseModel, bubbles_to="order")`).

`order_line.created` becomes `order.order_line.created` about the order, with the same payload and changes, after the
handlers of the part and unless one of them stopped it. In Order it is heard as `@on_event("order_line.created")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Mapper, RelationshipProperty, Session

from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of
from earnorm.errors import DelayedInProcess, InvalidField
from earnorm.event import Running
from earnorm.handle import Emission
from earnorm.occurrence import Occurrence

__all__ = ["bubble_in"]


def bubble_in(session: Session, mapping: Mapping) -> Callable[[Occurrence], Occurrence | None] | None:
    """What makes the whole's event out of the part's, or None if the model bubbles nowhere."""
    if mapping.info.bubbles_to is None:
        return None
    return lambda part: _told_again(session, mapping, part)


def _told_again(session: Session, mapping: Mapping, part: Occurrence) -> Occurrence | None:
    whole = _whole(session, mapping, part.subject)
    found = mapping_of(type(whole))
    if whole is None or found is None:
        return None
    name = f"{found.info.subject}.{part.name}"
    identity = found.identity(inspect(whole))
    again = Occurrence(name, whole, part.payload, changes=part.changes, info=found.info, identity=identity)
    again.session, again.async_session = part.session, part.async_session
    again.link = Running(part, "")
    again.handlers = found.bus.plans.custom(name, found.cls)
    found.bus.in_transaction(again)
    again.bubble = bubble_in(session, found)
    if part.emission is not None and part.due is not None:
        refuse_at_once(again)
        again.emission = Emission(waiter=part.emission.waiter, event=again.event, due=part.due)
    return again


def refuse_at_once(later: Occurrence) -> None:
    """Raises DelayedInProcess if somebody hears in this process what was emitted for later."""
    if at_once := later.in_process:
        raise DelayedInProcess(later.name, [handler.name for handler in at_once])


def _whole(session: Session, mapping: Mapping, part: Any) -> Any | None:
    """The record that the part belongs to, by its foreign key; no SQL if it is loaded."""
    name = mapping.info.bubbles_to
    assert name is not None
    mapper: Mapper[Any] = inspect(mapping.cls)
    relation = mapper.relationships.get(name)
    target, identity = _by_relation(relation, part) if relation is not None else _by_column(mapping, name, part)
    return None if None in identity else session.get(target, identity)


def _by_relation(relation: RelationshipProperty[Any], part: Any) -> tuple[type[Any], tuple[Any, ...]]:
    mapper: Mapper[Any] = inspect(type(part))
    pairs = relation.local_remote_pairs or ()
    values = {remote: getattr(part, mapper.get_property_by_column(local).key) for local, remote in pairs}
    return relation.mapper.class_, tuple(values.get(column) for column in relation.mapper.primary_key)


def _by_column(mapping: Mapping, name: str, part: Any) -> tuple[type[Any], tuple[Any, ...]]:
    mapper: Mapper[Any] = inspect(mapping.cls)
    column = mapper.columns.get(name)
    for key in column.foreign_keys if column is not None else ():
        target = next((m for m in mapper.registry.mappers if m.local_table is key.column.table), None)
        if target is not None:
            return target.class_, (getattr(part, name),)
    raise InvalidField(mapping.info.name, "bubbles_to", name, "name a many-to-one relationship or a foreign key field")
