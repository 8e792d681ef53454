"""Loading a record for a handler that runs after the commit: fresh by its key, or a snapshot if it is gone."""

from __future__ import annotations

from collections.abc import Mapping as Values
from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy import inspect, select, tuple_
from sqlalchemy.orm import Mapper, Session, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlalchemy.orm.exc import DetachedInstanceError

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.errors import ReadOnlySnapshot

__all__ = ["SNAPSHOT", "hint_of", "is_snapshot", "load", "load_together", "snapshot"]

# A class with this name in its body is no model of its own.
SNAPSHOT = "__earnorm_snapshot__"
_snapshots: dict[type, type] = {}


def load(session: Session, mapping: Mapping, identity: tuple[Any, ...]) -> Any | None:
    """The record as it is now, detached; None if its row is gone."""
    record = session.get(mapping.cls, mapping.native(identity))
    if record is not None:
        session.expunge(record)
    return record


def load_together(session: Session, mapping: Mapping, identities: Sequence[tuple[Any, ...]]) -> list[Any | None]:
    """`load` of many records by one query; what is asked for twice is given once."""
    keys: tuple[Any, ...] = inspect(mapping.cls).primary_key
    identities = [mapping.native(identity) for identity in identities]
    chosen = keys[0].in_([first for first, *_ in identities]) if len(keys) == 1 else tuple_(*keys).in_(identities)
    is_ours_alone = not session.identity_map
    records: list[Any] = list(session.scalars(select(mapping.cls).where(chosen)).unique())
    if is_ours_alone:
        # One by one takes as long as the query.
        session.expunge_all()
    else:
        for record in records:
            session.expunge(record)
    found = {key[1]: record for record in records if (key := instance_state(record).key) is not None}
    return [found.pop(identity, None) for identity in identities]


def snapshot(mapping: Mapping, identity: tuple[Any, ...], values: Values[str, Any]) -> Any:
    """The last values of a row that is gone, as a read-only record. Values not kept read as None."""
    cls = _snapshot_class(mapping.cls)
    mapper: Mapper[Any] = inspect(mapping.cls)
    record = mapper.class_manager.new_instance()
    for name in mapping.columns:
        set_committed_value(record, name, values.get(name))
    for name, part in zip(mapping.primary_key, mapping.native(identity), strict=False):
        set_committed_value(record, name, part)
    make_transient_to_detached(record)
    object.__setattr__(record, "__class__", cls)
    return record


def hint_of(error: BaseException) -> str | None:
    """What to do about an error that SQLAlchemy raises for a record without a session."""
    if not isinstance(error, DetachedInstanceError):
        return None
    return (
        "after the commit a handler's record is detached, so that no connection is held; load what it needs in a "
        "transaction of its own: with db.transaction(): order = Order.get(order.id)"
    )


def is_snapshot(record: object) -> bool:
    return SNAPSHOT in type(record).__dict__


def _snapshot_class(cls: type) -> type:
    found = _snapshots.get(cls)
    if found is None:
        names = {"__setattr__": _refuse, "__delattr__": _refuse, SNAPSHOT: True}
        # No table of its own for a base that would map each subclass, and no other layout than the record's.
        names |= {"__abstract__": True, "__slots__": ()}
        names |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        found = _snapshots[cls] = type.__new__(type(cls), cls.__name__, (cls,), names)
    return found


def _refuse(record: Any, *_: Any) -> NoReturn:
    raise ReadOnlySnapshot(repr(record))
