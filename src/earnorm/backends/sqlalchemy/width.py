"""The width of a look into the log: in a backlog, columns that most entries leave as they are are not read.

A column takes as long to read as the handler of the entry to call. So a wide look asks for the last of them only where
the one before it has found an entry that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["NARROW", "Width"]

# How many of an entry's columns are read in any case; one more says whether that is all there is to it.
NARROW = 8
# Entries of a look that it pays for.
_MANY = 1024
# Looks after which it is tried again, at the most.
_PATIENCE = 64


class Width:
    """Says which columns to ask for, going by what was found before.

    Several threads may use one: at worst a look is wider than it need be, or made twice.
    """

    __slots__ = ("_pause", "_wide")

    def __init__(self) -> None:
        # Looks that are to be wide, and how many they will be once an entry is found again that needs it.
        self._wide = 0
        self._pause = 1

    def is_narrow(self, limit: int) -> bool:
        """Whether to ask for the first columns alone, in a look for so many entries."""
        if limit < _MANY:
            return False
        if self._wide:
            self._wide -= 1
            return False
        return True

    def taken(self, rows: Sequence[Any]) -> Sequence[Any] | None:
        """What was read; None if there is more to one of these, so that all are to be read again."""
        if not rows or len(rows[0]) > NARROW + 1:
            return rows
        if [row[NARROW] for row in rows].count(None) < len(rows):
            self._wide = self._pause
            self._pause = min(_PATIENCE, 2 * self._pause)
            return None
        self._pause = 1
        return rows
