"""A snapshot: the last values of a record that is gone, or that a rollback has undone, to be read and no more."""

from __future__ import annotations

from collections.abc import Mapping as Values
from typing import Any, NoReturn

from sqlalchemy import inspect
from sqlalchemy.orm import Mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.errors import ReadOnlySnapshot

__all__ = ["SNAPSHOT", "is_snapshot", "snapshot"]

# A class with this name in its body is no model of its own.
SNAPSHOT = "__earnorm_snapshot__"
_snapshots: dict[type, type] = {}


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
