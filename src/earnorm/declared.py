"""A declared event: a class whose fields are the payload of one event name, known to type checkers and the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from earnorm.errors import InvalidEventType, NotAnEvent, NotAnOption, PayloadError
from earnorm.names import validate_name

__all__ = ["Declared", "declaration", "declared_of", "event_type", "payload_of", "version_of"]

T = TypeVar("T")

_MARK = "__earnorm_event__"
_by_name: dict[str, Declared] = {}


@dataclass(frozen=True, slots=True)
class Declared:
    """What `@event_type` wrote down about a class."""

    cls: type
    name: str
    version: int
    fields: tuple[str, ...]

    def build(self, payload: Mapping[str, Any]) -> Any:
        """The event object from its payload; raises PayloadError if the payload does not fit the class."""
        values = {field: payload[field] for field in self.fields if field in payload}
        try:
            if hasattr(self.cls, "model_validate"):
                return self.cls.model_validate(values)
            return self.cls(**values)
        except (TypeError, ValueError) as error:
            raise PayloadError(self.name, dict(values), f"does not fit {self.cls.__name__}: {error}") from error


def event_type(name: str, *, version: int = 1) -> Callable[[type[T]], type[T]]:
    """Declare a dataclass, msgspec Struct or pydantic model as the payload of the event `name`.

    Emit an instance of it (`order.emit(OrderPlaced(total=...))`); a handler whose parameter is annotated with the
    class receives the instance. Raises InvalidName, InvalidEventType.
    """
    validate_name(name)
    if type(version) is not int or version < 1:
        raise InvalidEventType(f"event_type({name!r}, version={version!r})", "versions are whole numbers from 1")

    def declare(cls: type[T]) -> type[T]:
        declared = Declared(cls, name, version, _fields(cls))
        known = _by_name.get(name)
        if known is not None and _place(known.cls) != _place(cls):
            why = f"{name!r} is declared by {_place(known.cls)} already; choose another name"
            raise InvalidEventType(f"@event_type on {_place(cls)}", why)
        _by_name[name] = declared
        setattr(cls, _MARK, declared)
        return cls

    return declare


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _fields(cls: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    if hasattr(cls, "model_fields"):
        return tuple(cls.model_fields)
    why = "expected a dataclass, a msgspec.Struct or a pydantic model; put @event_type above @dataclass"
    raise InvalidEventType(f"@event_type on {cls.__name__}", why)


def declared_of(event: object) -> Declared | None:
    """The declaration of a class, or of an instance's class, or of an event name."""
    if isinstance(event, str):
        return _by_name.get(event)
    cls = event if isinstance(event, type) else type(event)
    found = cls.__dict__.get(_MARK)
    return found if isinstance(found, Declared) else None


def version_of(name: str) -> int:
    """Which version of the event's payload this program emits."""
    declared = _by_name.get(name)
    return 1 if declared is None else declared.version


def payload_of(event: object) -> Mapping[str, Any]:
    """The fields of a declared event object, by name."""
    declared = declared_of(event)
    assert declared is not None
    return {name: getattr(event, name) for name in declared.fields}


def declaration(event: object, payload: Mapping[str, Any]) -> Declared:
    """The declaration of an event object that is emitted, for which no other payload is given.

    Raises NotAnEvent, NotAnOption.
    """
    declared = declared_of(event)
    if declared is None or isinstance(event, type):
        raise NotAnEvent(event)
    if payload:
        keys = ", ".join(sorted(payload))
        raise NotAnOption(f"{declared.cls.__name__} carries its own payload; put {keys} into its fields")
    return declared
