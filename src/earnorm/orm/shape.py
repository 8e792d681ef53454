"""The shape of a model class: what its class statement leaves open, and what tells the rows of a hierarchy apart."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Integer, String, inspect
from sqlalchemy.orm import MappedColumn, Mapper, mapped_column
from sqlalchemy.orm.instrumentation import opt_manager_of_class, unregister_class

from earnorm._uuid7 import uuid7
from earnorm.errors import InvalidField, InvalidName
from earnorm.names import plural, snake_case, validate_name
from earnorm.orm.fields import UUIDField

__all__ = ["complete", "stored_names"]

_KIND = "kind"
_VERSION = "version"


def complete(cls: type[Any], *, version: bool) -> None:
    """Event name, table name, primary key, version and discriminator, before the class is mapped."""
    if "__event_name__" not in cls.__dict__:
        cls.__event_name__ = snake_case(cls.__name__)
    _require_subject(cls)
    parent = next((base for base in cls.__mro__[1:] if "__mapper__" in base.__dict__), None)
    if parent is not None:
        _join_hierarchy(cls, inspect(parent))
        return
    if not hasattr(cls, "__tablename__") and "__table__" not in cls.__dict__:
        cls.__tablename__ = plural(snake_case(cls.__name__))
    if not _has_primary_key(cls):
        cls.id = UUIDField(primary_key=True, default=uuid7)
    if version:
        _count_versions(cls)


def stored_names(mapper: Mapper[Any]) -> tuple[str, ...]:
    """The attributes that are stored, but for the discriminator, which is the class itself."""
    return tuple(name for name, column in mapper.columns.items() if column is not mapper.polymorphic_on)


def _has_primary_key(cls: type[Any]) -> bool:
    if "__table__" in cls.__dict__:
        return True
    columns = [value for base in cls.__mro__ for value in vars(base).values() if isinstance(value, MappedColumn)]
    return any(column.column.primary_key for column in columns)


def _count_versions(cls: type[Any]) -> None:
    if hasattr(cls, _VERSION):
        why = f"the class has a {_VERSION!r} of its own; rename it, or set version_id_col in __mapper_args__"
        raise InvalidField(cls.__name__, _VERSION, True, why)
    column: MappedColumn[int] = mapped_column(Integer, nullable=False)
    cls.version = column
    cls.__mapper_args__ = {**getattr(cls, "__mapper_args__", {}), "version_id_col": column}


def _join_hierarchy(cls: type[Any], parent: Mapper[Any]) -> None:
    """A subclass of a concrete model has its parent's table, or one joined to it; the event name tells rows apart."""
    arguments = dict(cls.__dict__.get("__mapper_args__", {}))
    if arguments.get("concrete"):
        return
    if parent.base_mapper.polymorphic_on is None:
        _tell_apart(parent.base_mapper)
        # The parent's new column has reached this class too early: it is to be instrumented as its own.
        if opt_manager_of_class(cls) is not None:
            unregister_class(cls)  # type: ignore[no-untyped-call]  # SQLAlchemy's own, untyped
    arguments.setdefault("polymorphic_identity", cls.__event_name__)
    cls.__mapper_args__ = arguments


def _tell_apart(base: Mapper[Any]) -> None:
    """Give a model that turns out to have subclasses its discriminator."""
    cls: Any = base.class_
    name = _KIND if not hasattr(cls, _KIND) else f"model_{_KIND}"
    setattr(cls, name, mapped_column(name, String(64), nullable=False))
    base._set_polymorphic_on(base.columns[name])  # type: ignore[no-untyped-call]  # SQLAlchemy's own, untyped
    base.polymorphic_identity = cls.__event_name__
    base.polymorphic_map[cls.__event_name__] = base


def _require_subject(cls: type[Any]) -> None:
    try:
        validate_name(cls.__event_name__)
    except InvalidName as error:
        why = f"{error.why} (it is the subject of the events of {cls.__name__}: set __event_name__ there)"
        raise InvalidName(cls.__event_name__, why) from None
