"""A screen for columns: values of one field, of many rows, that pass without a look at each.

As the screen of a record (`screen`), it never decides alone that something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from earnorm.orm.rules import rules_of
from earnorm.orm.screen import Passes
from earnorm.orm.spec import FieldSpec

__all__ = ["column_passes"]


def column_passes(spec: FieldSpec, may_be_none: bool, passes: Passes, values: Sequence[Any]) -> bool:  # noqa: FBT001  # as a screen is given them
    """Whether each value of the field passes; `passes` says it of one."""
    given = [value for value in values if value is not None] if may_be_none and None in values else values
    kind, holds = _KINDS.get(spec.kind, (None, _always))
    if {*map(type, given)} != {kind} or not holds(spec, given):
        return all(map(passes, given))
    rules = rules_of(spec)[1:]
    if kind is str and spec.max_length is not None and not spec.min_length:
        # Of a text's rules, that of its length stands behind that of its type.
        rules = rules[1:]
    return all(rule(value) is None for rule in rules for value in given)


def _always(_spec: FieldSpec, _values: Sequence[Any]) -> bool:
    return True


def _are_texts(spec: FieldSpec, values: Sequence[str]) -> bool:
    whole = "".join(values)
    if not whole.isascii() or "\0" in whole:
        return False
    return spec.max_length is None or bool(spec.min_length) or max(map(len, values)) <= spec.max_length


def _fit(bits: int) -> Callable[[FieldSpec, Sequence[int]], bool]:
    limit = 2 ** (bits - 1)
    return lambda _spec, values: min(values) >= -limit and max(values) < limit


# By kind of field: the type of its values, and what holds for them if its type rule has nothing against any.
_KINDS: dict[str, tuple[type, Callable[[FieldSpec, Sequence[Any]], bool]]] = {
    **dict.fromkeys(("StringField", "TextField", "EmailField", "URLField", "SlugField"), (str, _are_texts)),
    "IntegerField": (int, _fit(32)),
    "BigIntegerField": (int, _fit(64)),
    "BooleanField": (bool, _always),
    "DateField": (date, _always),
    "UUIDField": (UUID, _always),
}
