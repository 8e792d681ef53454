"""Lists: many values in the IN lists of several statements, each below the parameters that any database takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["in_lists"]

# SQLite takes 32,766 in all.
_VALUES = 10_000

T = TypeVar("T")


def in_lists(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _VALUES):
        yield values[start : start + _VALUES]
