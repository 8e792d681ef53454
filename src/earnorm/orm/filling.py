"""Filling: the values a record is made with, set as SQLAlchemy would, in a third of its time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.event.attr import _EmptyListener
from sqlalchemy.orm.attributes import _ScalarAttributeImpl
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.state import InstanceState

from earnorm.errors import UnknownField

__all__ = ["fill"]

_COLUMNS = "__earnorm_columns__"


def fill(self: Any, **values: Any) -> None:
    """The constructor of a model: defaults are made, attributes set. Raises UnknownField."""
    cls = self.__class__
    for name, make in cls.__earnorm_defaults__:
        if name not in values:
            values[name] = make()
    columns: dict[str, Any] | None = cls.__dict__.get(_COLUMNS)
    if columns is None:
        columns = _plain_columns(cls)
        setattr(cls, _COLUMNS, columns)
    state: InstanceState[Any] = self._sa_instance_state
    fresh = state.session_id is None and state.key is None
    given, committed = self.__dict__, state.committed_state
    for name, value in values.items():
        dispatch = columns.get(name)
        if dispatch is None or name in given or not fresh:
            _set(self, name, value)
            continue
        heard = dispatch.set
        # Somebody who listens (@validates, a mutable type, a listener added since) is told as ever. Asked without a
        # call, where there is none as a rule.
        if heard.parent_listeners if heard.__class__ is _EmptyListener else heard:
            _set(self, name, value)
        else:
            committed[name] = NO_VALUE
            given[name] = value
    if committed:
        state.modified = True


def _set(record: Any, name: str, value: Any) -> None:
    cls = type(record)
    # Only a relationship that another model's backref has yet to make is no attribute by now.
    if not hasattr(cls, name) and name not in inspect(cls).attrs:
        raise UnknownField(cls.__name__, name, inspect(cls).attrs.keys())
    setattr(record, name, value)


def _plain_columns(cls: type[Any]) -> dict[str, Any]:
    """Who listens to the attributes that only keep a value; none in a class that has a say in how they are set."""
    if any("__setattr__" in base.__dict__ for base in cls.__mro__[:-1]):
        return {}
    attributes = {column.key: getattr(cls, column.key).impl for column in inspect(cls).column_attrs}
    return {name: impl.dispatch for name, impl in attributes.items() if type(impl) is _ScalarAttributeImpl}
