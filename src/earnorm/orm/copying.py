"""Copying: a second object of one row, as pickling would make it, without a copy of its values."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.state import InstanceState

__all__ = ["twin_of"]

T = TypeVar("T")
_STATE = "_sa_instance_state"


def twin_of(record: T) -> T:
    cls: type[T] = type(record)
    twin = cls.__new__(cls)
    vars(twin).update({name: value for name, value in vars(record).items() if name != _STATE})
    state: InstanceState[Any] = instance_state(record)
    kept: dict[str, Any] = {**state.__getstate__(), "instance": twin}
    if "committed_state" in kept:
        kept["committed_state"] = dict(kept["committed_state"])
    InstanceState.__new__(InstanceState).__setstate__(kept)
    return twin
