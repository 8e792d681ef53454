"""What a field promises about its values, kept beside its column in `column.info["earnorm"]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.orm import Mapper
from sqlalchemy.sql import ColumnElement

__all__ = ["MISSING", "SPEC", "FieldSpec", "Missing", "spec_of", "specs_of"]

SPEC: Final = "earnorm"


class Missing:
    """No value given, where None would be one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


# Compared and hashed by identity: rules are compiled once per spec, and a default need not be hashable.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FieldSpec:
    """One field's rules. `kind` is the name it was made with, such as "EmailField"."""

    kind: str
    python_type: type[Any]
    required: bool = True
    sensitive: bool = False
    sensitive_given: bool = False
    """Whether `sensitive=` was written at all: `sensitive=False` says that a secret-looking field is none."""
    primary_key: bool = False
    default: Any = field(default=MISSING, repr=False)
    min: Any = None
    max: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[Any, ...] = ()
    validators: tuple[Callable[[Any], object], ...] = ()
    precision: int | None = None
    scale: int | None = None

    @property
    def has_default(self) -> bool:
        return self.default is not MISSING

    def make_default(self) -> Any:
        """A default for one new record: what a callable returns is made anew each time."""
        return self.default() if callable(self.default) else self.default


def spec_of(column: ColumnElement[Any]) -> FieldSpec | None:
    """The spec of a column made by one of our fields; None for a plain SQLAlchemy column."""
    spec = getattr(column, "info", {}).get(SPEC)
    return spec if isinstance(spec, FieldSpec) else None


def specs_of(mapper: Mapper[Any]) -> dict[str, FieldSpec]:
    """Of the attributes made by our fields. A key that joins a table to its parent's is what it is there."""
    # Not through `mapper.attrs`: that configures all mappers, and a model must be definable before those it relates to.
    found: dict[str, FieldSpec] = {}
    for name, column in mapper.columns.items():
        specs = [spec for each in mapper.get_property_by_column(column).columns if (spec := spec_of(each)) is not None]
        if specs:
            found[name] = specs[-1]
    return found
