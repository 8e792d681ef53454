"""What writing and reading share: limits, references, refusals, and the classes this process knows by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from earnorm.errors import PayloadError
from earnorm.names import real_module

MAX_LEVELS = 64  # of containers; the payload is the first
MAX_DEPTH = MAX_LEVELS + 1  # as the log keeps it, the payload lies beside the record's key
MAX_BYTES = 256 * 1024
MAX_RECORD_BYTES = 4 * 1024 * 1024  # all field values of one record together

TOO_DEEP = f"it is nested deeper than {MAX_LEVELS} levels, or holds itself"

E = TypeVar("E", bound=type[Enum])
C = TypeVar("C", bound=type[Any])


@dataclass(frozen=True, slots=True)
class Reference:
    """A record by its model's subject and its primary key."""

    subject: str
    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A part of a primary key that is no plain data, as its column stores it."""

    value: Any

    def __str__(self) -> str:
        return str(self.value)


Refer = Callable[[object], tuple[str, list[Any]] | None]
Resolve = Callable[[Reference], Any]


def no_model(_value: object) -> None:
    """`Refer` where there are no records."""


def itself(reference: Reference) -> Reference:
    """`Resolve` where nobody loads records."""
    return reference


class Refusal(Exception):
    """A value that cannot be; the path is put together on the way out, so a good value pays nothing for it."""

    def __init__(self, value: object, why: str) -> None:
        super().__init__(why)
        self.value = value
        self.why = why
        self.steps: list[str] = []

    def passing(self, key: object) -> None:
        """Note that the value lies under `key` of a dictionary."""
        self.steps.append(f".{key}" if type(key) is str and key.isidentifier() else f"[{_short(key)}]")

    def as_error(self) -> PayloadError:
        return PayloadError("".join(reversed(self.steps)).removeprefix("."), self.value, self.why)


def _short(key: object) -> str:
    return repr(key[:40]) if isinstance(key, (str, bytes)) else type(key).__name__


def too_large(what: str) -> str:
    return f"{what}, {MAX_BYTES:,} are allowed; store it and emit its key"


# --- classes by name ------------------------------------------------------------------------


_GIVEN_BACK = (str, int, float, Decimal, UUID, date, time, timedelta, bytes, Enum, NoneType, Stored)

enums: dict[str, type[Enum]] = {}
types: dict[str, type[Any]] = {}
_names: dict[type[Any], str] = {}


def register_enum(cls: E) -> E:
    """Let members of `cls` be read as such here. Writing one does so as well."""
    enums[path_of(cls)] = cls
    return cls


def register_type(cls: C, name: str | None = None) -> C:
    """Let a dataclass, Struct or pydantic model be read as such here; a `name` stays when the class moves."""
    _names[cls] = name or path_of(cls)
    types[_names[cls]] = cls
    return cls


def is_given_back(value: object) -> bool:
    """Whether it is read as it was written, in every process that knows its class."""
    return isinstance(value, _GIVEN_BACK) or type(value) in _names


def name_of(cls: type[Any]) -> str:
    return _names.get(cls) or path_of(cls)


def path_of(cls: type[Any]) -> str:
    return f"{real_module(cls.__module__)}.{cls.__qualname__}"


def is_pydantic(cls: type[Any]) -> bool:
    """By its methods: the library itself is never imported."""
    return hasattr(cls, "model_dump") and hasattr(cls, "model_validate")


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass, Struct or pydantic model by name; None for anything else."""
    if isinstance(value, type):
        return None
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value.model_dump()) if is_pydantic(type(value)) else None
