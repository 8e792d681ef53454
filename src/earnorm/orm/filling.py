"""Filling: the values a record is made with, set as SQLAlchemy would, in a third of its time.

Each function that a record's making calls is paid for by every save, so there are few, and they ask without a call.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.event.attr import _EmptyListener
from sqlalchemy.orm.attributes import _ScalarAttributeImpl, manager_of_class
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.state import InstanceState

from earnorm.errors import UnknownField

__all__ = ["fill", "shorten_constructor"]

_COLUMNS = "__earnorm_columns__"


def shorten_constructor(cls: type[Any]) -> None:
    """Let records of a mapped class be made by one function, where SQLAlchemy would call nine around `fill`.

    What it does for others goes through its own: a class with a constructor of its own or with listeners to `init`, a
    subclass, a hierarchy in one table, mappers that have yet to be configured.
    """
    manager: Any = manager_of_class(cls)
    wrapped = original = cls.__init__
    while (inner := getattr(original, "_sa_original_init", None)) is not None:
        original = inner
    if original is not fill:
        return

    @wraps(wrapped)
    def __init__(self: Any, **values: Any) -> None:  # noqa: N807  # it becomes one
        heard, mapper = manager.dispatch.init, manager.mapper
        if (
            self.__class__ is not cls
            or len(heard.listeners) != 1
            or heard.parent_listeners
            or mapper._set_polymorphic_identity
            or mapper.registry._new_mappers
            or "_sa_instance_state" in self.__dict__
        ):
            wrapped(self, **values)
            return
        state = self._sa_instance_state = manager._state_constructor(self, manager)
        try:
            _fill(self, values)
        except BaseException:
            manager.dispatch.init_failure(state, (), values)
            raise

    manager.install_member("__init__", __init__)


def fill(self: Any, **values: Any) -> None:
    """The constructor of a model: defaults are made, attributes set. Raises UnknownField."""
    _fill(self, values)


def _fill(self: Any, values: dict[str, Any]) -> None:
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
        # Somebody who listens (@validates, a mutable type, a listener added since) is told as ever.
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
