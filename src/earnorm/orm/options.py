"""Options: what each kind of field takes, for type checkers and for the check at definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, TypedDict, TypeVar

__all__ = [
    "BooleanOptions",
    "BytesOptions",
    "DecimalOptions",
    "EnumOptions",
    "IntegerOptions",
    "JsonOptions",
    "Options",
    "RangeOptions",
    "TextOptions",
    "known",
]

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class Shared(TypedDict, total=False):
    sensitive: bool
    column: str


class Keyed(Shared, total=False):
    unique: bool
    index: bool
    primary_key: bool


class JsonOptions(Shared, total=False):
    default: Any
    validators: Iterable[Callable[[Any], object]]


class BooleanOptions(Shared, total=False):
    index: bool
    default: bool | Callable[[], bool]
    validators: Iterable[Callable[[bool], object]]


class Options(Keyed, Generic[T], total=False):
    default: T | Callable[[], T]
    validators: Iterable[Callable[[T], object]]


class RangeOptions(Options[T], Generic[T], total=False):
    min: T
    max: T


class IntegerOptions(RangeOptions[int], total=False):
    choices: Iterable[int]


class TextOptions(Options[str], total=False):
    min_length: int
    max_length: int
    pattern: str | re.Pattern[str]
    choices: Iterable[str]


class BytesOptions(Options[bytes], total=False):
    min_length: int
    max_length: int


class EnumOptions(Options[E], Generic[E], total=False):
    choices: Iterable[E]


class DecimalOptions(Keyed, total=False):
    precision: int
    scale: int
    min: Decimal | int
    max: Decimal | int
    choices: Iterable[Decimal | int]
    default: Decimal | int | Callable[[], Decimal]
    validators: Iterable[Callable[[Decimal], object]]


def known(options: type[Any]) -> frozenset[str]:
    # A TypedDict lists its keys, inherited ones as well.
    return frozenset({"required", *options.__optional_keys__})
