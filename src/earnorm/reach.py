"""A reach: what one worker can read next, by the shared cursors that it holds as of one look at the others. No I/O.

It is made between two events, so that only what the log holds is left to be found out when one comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from earnorm.following import Following
from earnorm.front import Front, fronts_of
from earnorm.glance import Span
from earnorm.room import ROOM
from earnorm.shares import View
from earnorm.store import Cursor

__all__ = ["Reach"]


@dataclass(frozen=True)
class Reach:
    """By `cursors`, which pass nobody by, so many entries at a time."""

    view: View
    following: Following
    limit: int
    cursors: Sequence[Cursor]

    @cached_property
    def span(self) -> Span | None:
        """What is read wherever the horizon is; None where cursors stand so far apart that it depends on that."""
        front = self._whole
        return None if front is None else Span(front.start, self.limit, front.slots, ROOM)

    def front(self, horizon: int, turn: int) -> Front:
        """The one to be read in this turn, with the cursors that are up to date."""
        if self._whole is not None:
            return self._whole
        fronts = fronts_of((c for c in self.cursors if c.position < horizon), self.limit)
        level = [c for c in self.cursors if c.position >= horizon]
        chosen = fronts[turn % len(fronts)] if fronts else []
        return Front([*chosen, *level], self.following.together)

    @cached_property
    def _whole(self) -> Front | None:
        """That of all cursors, if they stand close together."""
        fronts = fronts_of(self.cursors, self.limit)
        return Front(fronts[0], self.following.together) if len(fronts) == 1 else None
