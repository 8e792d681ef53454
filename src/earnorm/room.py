"""Room: how many bytes of events' data a worker has in hand at once, however many events that makes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

__all__ = ["ROOM", "fitting"]

ROOM = 16 * 1024 * 1024
"""Of the log, of what is set aside as much again, and of what handlers emit until it is settled. A payload is 256 KiB
at most, so it is dozens of the largest."""


def fitting(sizes: Iterable[int], room: int | None) -> int | None:
    """How many of them until one makes the room full, that one included; None if all fit in."""
    if room is None:
        return None
    sizes = tuple(sizes)
    if sum(sizes) < room:
        return None
    return next((count for count, taken in enumerate(accumulate(sizes), 1) if taken >= room), None)
