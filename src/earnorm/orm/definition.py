"""Definition: a field's options become its spec; those that contradict each other are refused where they stand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from sqlalchemy.orm import MappedColumn, mapped_column
from sqlalchemy.schema import ForeignKey
from sqlalchemy.types import TypeEngine

from earnorm.errors import InvalidField
from earnorm.orm.rules import first_broken
from earnorm.orm.spec import MISSING, SPEC, FieldSpec
from earnorm.orm.types import aware

__all__ = ["Kind", "define"]

_FLAGS = ("required", "unique", "index", "sensitive", "primary_key")
_LENGTHS = ("min_length", "max_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of field: its name, the type of its values, its column's type, and the options that mean something."""

    name: str
    python_type: type[Any]
    column_type: Callable[[FieldSpec], TypeEngine[Any]]
    options: frozenset[str]
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def refuse(self, option: str, value: object, why: str) -> InvalidField:
        return InvalidField(self.name, option, value, why)


def define(kind: Kind, required: bool, options: Mapping[str, Any], *keys: ForeignKey) -> MappedColumn[Any]:  # noqa: FBT001  passed on
    """The column of a field, which carries its spec in `info`."""
    spec = _spec(kind, {**kind.given, "required": required, **options})
    return mapped_column(
        kind.column_type(spec),
        *keys,
        name=options.get("column"),
        nullable=not required,
        primary_key=spec.primary_key,
        unique=options.get("unique") or None,
        index=options.get("index", kind.given.get("index", False) and not spec.primary_key) or None,
        # SQLAlchemy would number an integer key, but never one that points at another table.
        autoincrement=False if kind.name == "ForeignKeyField" else "auto",
        info={SPEC: spec},
        **({"insert_default": spec.default} if spec.has_default else {}),
    )


def _spec(kind: Kind, options: Mapping[str, Any]) -> FieldSpec:
    _check_options(kind, options)
    _check_flags(kind, options)
    _check_lengths(kind, options)
    spec = FieldSpec(
        kind=kind.name,
        python_type=kind.python_type,
        required=options["required"],
        sensitive=options.get("sensitive", False),
        sensitive_given="sensitive" in options,
        primary_key=options.get("primary_key", False),
        min_length=options.get("min_length"),
        max_length=options.get("max_length"),
        precision=options.get("precision"),
        scale=options.get("scale"),
        validators=_validators(kind, options.get("validators", ())),
    )
    _check_digits(kind, spec)
    spec = _with_bounds(kind, spec, options)
    spec = replace(spec, pattern=_pattern(kind, options.get("pattern")))
    spec = replace(spec, choices=_choices(kind, spec, options.get("choices")))
    return replace(spec, default=_default(kind, spec, options))


# --- flags and numbers ----------------------------------------------------------------------


def _check_options(kind: Kind, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if option not in kind.options:
            raise kind.refuse(option, value, f"no such option here; options: {', '.join(sorted(kind.options))}")
    column = options.get("column")
    if column is not None and (not isinstance(column, str) or not column):
        raise kind.refuse("column", column, "expected the column's name")


def _check_flags(kind: Kind, options: Mapping[str, Any]) -> None:
    for flag in _FLAGS:
        if not isinstance(options.get(flag, False), bool):
            raise kind.refuse(flag, options[flag], "expected True or False")
    if not options.get("primary_key"):
        return
    if not options["required"]:
        raise kind.refuse("required", False, "a primary key is never None; drop required=False or primary_key=True")
    if options.get("unique"):
        raise kind.refuse("unique", True, "a primary key is unique already")
    if options.get("sensitive"):
        raise kind.refuse("sensitive", True, "a primary key names its record in every event; use another key")


def _check_lengths(kind: Kind, options: Mapping[str, Any]) -> None:
    low, high = (_length(kind, option, options.get(option)) for option in _LENGTHS)
    if high == 0:
        raise kind.refuse("max_length", 0, "nothing but emptiness would fit")
    if low is not None and high is not None and low > high:
        raise kind.refuse("min_length", low, f"is more than max_length={high}")


def _length(kind: Kind, option: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise kind.refuse(option, value, "expected a whole number, 0 or more")
    return value


def _check_digits(kind: Kind, spec: FieldSpec) -> None:
    precision, scale = (_length(kind, option, getattr(spec, option)) for option in ("precision", "scale"))
    if precision is None or scale is None:
        return
    if not 1 <= precision <= 1000:
        raise kind.refuse("precision", precision, "expected the number of digits in all, 1 to 1000")
    if scale > precision:
        raise kind.refuse("scale", scale, f"expected the digits after the point, 0 to precision={precision}")


# --- values ---------------------------------------------------------------------------------


def _with_bounds(kind: Kind, spec: FieldSpec, options: Mapping[str, Any]) -> FieldSpec:
    low, high = (_bound(kind, spec, option, options.get(option)) for option in ("min", "max"))
    if low is not None and high is not None and low > high:
        raise kind.refuse("min", options["min"], f"is more than max={options['max']!r}")
    return replace(spec, min=low, max=high)


def _bound(kind: Kind, spec: FieldSpec, option: str, value: Any) -> Any:
    if value is None:
        return None
    _check_value(kind, spec, option, value)
    return aware(value) if isinstance(value, datetime) else value


def _check_value(kind: Kind, spec: FieldSpec, option: str, value: Any) -> None:
    """A default, bound or choice must itself pass the rules known so far."""
    if (broken := first_broken(spec, value)) is not None:
        raise kind.refuse(option, value, f"{value!r}{broken.says}")


def _pattern(kind: Kind, pattern: Any) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled: re.Pattern[Any] = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise kind.refuse("pattern", pattern, f"is no regular expression: {error}") from error
    if not isinstance(compiled.pattern, str):
        raise kind.refuse("pattern", pattern, "matches bytes; write it without the b")
    return compiled


def _choices(kind: Kind, spec: FieldSpec, choices: Any) -> tuple[Any, ...]:
    if choices is None:
        return ()
    if isinstance(choices, str) or not isinstance(choices, Iterable):
        raise kind.refuse("choices", choices, "expected a list of values")
    listed: tuple[Any, ...] = tuple(choices)
    if not listed:
        raise kind.refuse("choices", choices, "no value would be allowed")
    for choice in listed:
        _check_value(kind, spec, "choices", choice)
    return listed


def _validators(kind: Kind, validators: Any) -> tuple[Callable[[Any], object], ...]:
    if not isinstance(validators, Iterable):
        raise kind.refuse("validators", validators, "expected a list of functions")
    listed: tuple[Any, ...] = tuple(validators)
    for validator in listed:
        if not callable(validator) or inspect.iscoroutinefunction(validator):
            raise kind.refuse("validators", validator, "expected a plain function that takes the value")
    return listed


# --- defaults -------------------------------------------------------------------------------


def _default(kind: Kind, spec: FieldSpec, options: Mapping[str, Any]) -> Any:
    default = options.get("default", MISSING)
    if default is MISSING:
        return MISSING
    if default is None:
        return _no_default(kind, spec)
    if callable(default) and not isinstance(default, Enum):
        return _maker(kind, default)
    if isinstance(default, (list, dict, set, bytearray)):
        how = f"default={type(default).__name__}" if not default else "default=lambda: ..."
        raise kind.refuse("default", default, f"would be shared by every record; pass a callable, such as {how}")
    if spec.primary_key or options.get("unique"):
        raise kind.refuse("default", default, "every record would get the same; pass a callable that makes a new one")
    _check_value(kind, spec, "default", default)
    return Decimal(default) if isinstance(default, int) and spec.python_type is Decimal else default


def _no_default(kind: Kind, spec: FieldSpec) -> Any:
    if spec.required:
        raise kind.refuse("default", None, "the field is required; drop the default, or add required=False")
    return MISSING


def _maker(kind: Kind, default: Callable[[], Any]) -> Callable[[], Any]:
    try:
        inspect.signature(default).bind()
    except TypeError:
        raise kind.refuse("default", default, "takes arguments; a default is made without any") from None
    except ValueError:  # a callable written in C may hide its signature
        return default
    if inspect.iscoroutinefunction(default):
        raise kind.refuse("default", default, "is async, and a record is made without awaiting")
    return default
