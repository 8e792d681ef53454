"""Refreshing: values read from the database are put into a record, as if SQLAlchemy had loaded them there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm.state import InstanceState

__all__ = ["refresh"]


def refresh(state: InstanceState[Any], values: Mapping[str, Any]) -> None:
    """Put them in, by attribute; what is made of them follows."""
    state.dict.update(values)
    state.expired_attributes.difference_update(values)
    # By this event `sqlalchemy.ext.mutable` begins to follow what is changed in place, and composites are made anew.
    if state.mapper.composites or any(isinstance(value, (dict, list, set)) for value in values.values()):
        state.manager.dispatch.refresh(state, None, values.keys())
