"""Loading a record for a handler that runs after the commit: fresh, by its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import inspect, select, tuple_
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.exc import DetachedInstanceError

from earnorm.backends.sqlalchemy.mapping import Mapping

__all__ = ["find", "hint_of", "load", "load_together"]


def find(session: Session, mapping: Mapping, identity: tuple[Any, ...]) -> Any | None:
    """The record in the session; None if its row is gone."""
    native = mapping.native(identity)
    apart = _apart(mapping)
    if not apart:
        return session.get(mapping.cls, native)
    keys: tuple[Any, ...] = inspect(mapping.cls).primary_key
    same = (column == part for column, part in zip(keys, native, strict=True))
    return session.scalars(select(mapping.cls).where(*same, *apart)).one_or_none()


def _apart(mapping: Mapping) -> list[Any]:
    """What tells a class's rows from those of others, where each has a table and keys of its own (concrete)."""
    mapper: Mapper[Any] = inspect(mapping.cls)
    if mapper.polymorphic_on is None or not any(each.concrete for each in mapper.self_and_descendants):
        return []
    return [mapper.polymorphic_on == mapper.polymorphic_identity]


def load(session: Session, mapping: Mapping, identity: tuple[Any, ...]) -> Any | None:
    """The record as it is now, detached; None if its row is gone."""
    record = find(session, mapping, identity)
    if record is not None:
        session.expunge(record)
    return record


def load_together(session: Session, mapping: Mapping, identities: Sequence[tuple[Any, ...]]) -> list[Any | None]:
    """`load` of many records by one query; what is asked for twice is given once."""
    keys: tuple[Any, ...] = inspect(mapping.cls).primary_key
    identities = [mapping.native(identity) for identity in identities]
    chosen = keys[0].in_([first for first, *_ in identities]) if len(keys) == 1 else tuple_(*keys).in_(identities)
    is_ours_alone = not session.identity_map
    records: list[Any] = list(session.scalars(select(mapping.cls).where(chosen, *_apart(mapping))).unique())
    if is_ours_alone:
        # One by one takes as long as the query.
        session.expunge_all()
    else:
        for record in records:
            session.expunge(record)
    found = {key[1]: record for record in records if (key := instance_state(record).key) is not None}
    return [found.pop(identity, None) for identity in identities]


def hint_of(error: BaseException) -> str | None:
    """What to do about an error that SQLAlchemy raises for a record without a session."""
    if not isinstance(error, DetachedInstanceError):
        return None
    return (
        "after the commit a handler's record is detached, so that no connection is held; load what it needs in a "
        "transaction of its own: with db.transaction(): order = Order.get(order.id)"
    )
