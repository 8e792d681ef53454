"""Slots: the 64 shares that records hash to, for ever. Workers divide the log among themselves by ranges of them."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

__all__ = ["LAST_SLOT", "SLOTS", "slot_of", "slots_of"]

SLOTS = 64
LAST_SLOT = SLOTS - 1


def slot_of(key: str, event: bytes) -> int:
    """The slot of a record; an event without one (key "") has that of its own id.

    Cursors and rows of the log remember it, so that this function never changes.
    """
    return crc32(key.encode() if key else event) & LAST_SLOT


def slots_of(keys: Iterable[str], events: Iterable[bytes]) -> list[int]:
    """The slot of each, in a third of the time."""
    keys = list(keys)
    if all(keys):
        return [number & LAST_SLOT for number in map(crc32, map(str.encode, keys))]
    return [crc32(key.encode() if key else event) & LAST_SLOT for key, event in zip(keys, events, strict=True)]
