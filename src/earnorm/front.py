"""A front: cursors that stand close enough to be worked by one read of the log, and who is given what of it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from earnorm.event import Entry
from earnorm.slots import SLOTS, slot_of
from earnorm.store import Cursor, Follower, Range

__all__ = ["NOBODY", "Floor", "Front", "fronts_of"]

Floor = int | Sequence[int]
"""The position past which a subscription is given entries: one for all, or one for each slot."""

_NEVER = 1 << 62


@dataclass(frozen=True)
class Front:
    """Cursors held by one worker, and the subscriptions that follow them there."""

    cursors: Sequence[Cursor]
    followers: Sequence[Follower]

    @cached_property
    def start(self) -> int:
        return min((cursor.position for cursor in self.cursors), default=0)

    @cached_property
    def slots(self) -> list[Range]:
        """The ranges that somebody here works; those that meet are one."""
        found: list[Range] = []
        for first, last in sorted({cursor.slots for cursor in self.cursors}):
            if found and first <= found[-1][1] + 1:
                found[-1] = (found[-1][0], max(found[-1][1], last))
            else:
                found.append((first, last))
        return found

    @cached_property
    def floors(self) -> Mapping[str, Floor]:
        """By subscription. One that is not here is given nothing."""
        bases = {(c.group, c.name): self._base((c.group, c.name)) for c in self.cursors}
        return {f.name: _past(bases[at], f.start) for f in self.followers if (at := (f.group, f.cursor)) in bases}

    def _base(self, cursor: tuple[str, str]) -> Floor:
        """Where a cursor stands: in all the slots that are read alike, or in each."""
        rows = [c for c in self.cursors if (c.group, c.name) == cursor]
        covered = [slot for row in rows for slot in range(row.first, row.last + 1)]
        if len({row.position for row in rows}) == 1 and len(covered) == sum(b - a + 1 for a, b in self.slots):
            return rows[0].position
        places = [_NEVER] * SLOTS
        for row in rows:
            places[row.first : row.last + 1] = [row.position] * (row.last - row.first + 1)
        return places

    def cursor_of(self, subscription: str, entry: Entry) -> Cursor | None:
        """The cursor by which a subscription is given an entry."""
        at = self._following.get(subscription)
        slot = slot_of(entry.key, entry.id.bytes)
        return next((c for c in self.cursors if (c.group, c.name) == at and c.first <= slot <= c.last), None)

    @cached_property
    def _following(self) -> Mapping[str, tuple[str, str]]:
        return {follower.name: (follower.group, follower.cursor) for follower in self.followers}

    def slots_of(self, subscription: str) -> list[Range]:
        """The slots in which deliveries set aside for a subscription may run here."""
        at = self._following.get(subscription)
        return sorted(c.slots for c in self.cursors if (c.group, c.name) == at)


NOBODY = Front((), ())


def _past(base: Floor, start: int) -> Floor:
    if isinstance(base, int):
        return max(base, start)
    return [max(place, start) for place in base]


def fronts_of(cursors: Iterable[Cursor], reach: int) -> list[list[Cursor]]:
    """The cursors by where they stand: each front begins with the lowest that is left, and reaches so far."""
    fronts: list[list[Cursor]] = []
    for cursor in sorted(cursors, key=lambda cursor: cursor.position):
        if fronts and cursor.position <= fronts[-1][0].position + reach:
            fronts[-1].append(cursor)
        else:
            fronts.append([cursor])
    return fronts
