"""The width of a look into the log: in a backlog, columns that most entries leave as they are are not read.

A column takes as long to read as the handler of the entry to call. So a look for many asks for the last of them only
where those before it have found an entry that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import to_entries
from earnorm.event import Entry
from earnorm.room import fitting

__all__ = ["LOT", "NARROW", "Width"]

LOT = 512
"""Rows that are made entries at a time: more, and each is out of the processor's reach by then (1.5 µs, not 1.35)."""

# How many of an entry's columns are read in any case; one more says whether that is all there is to it.
NARROW = 8
# Entries of a look that it pays for.
_MANY = 1024
# Looks after which it is tried again, at the most.
_PATIENCE = 64
# Where an entry read, a position, an id and the ENTRY_COLUMNS, has its data.
_DATA = 2 + tables.ENTRY_COLUMNS.index("data")


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

    def entries(self, lots: Iterable[Sequence[Any]], room: int) -> list[Entry] | None:
        """The entries that were read, up to the one that makes `room` full.

        None if there is more to one of them, or its data is large, so that they are to be read by themselves.
        """
        found: list[Entry] = []
        is_narrow = False
        for rows in lots:
            is_narrow = len(rows[0]) == NARROW + 1
            data = [row[_DATA] for row in rows]
            if is_narrow and [row[NARROW] for row in rows].count(None) < len(rows):
                self._wide = self._pause
                self._pause = min(_PATIENCE, 2 * self._pause)
                return None
            if None in data:
                return None
            count = fitting(map(len, data), room)
            found += to_entries(rows[:count])
            if count is not None:
                break
            room -= sum(map(len, data))
        if is_narrow:
            self._pause = 1
        return found
