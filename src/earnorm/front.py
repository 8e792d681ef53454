"""A front: cursors that stand close enough to be worked by one read of the log, and who is given what of it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from earnorm.event import Entry
from earnorm.fleet import by_name
from earnorm.slots import SLOTS, slot_of
from earnorm.store import Cursor, Follower, Range

__all__ = ["NOBODY", "Floor", "Front", "fronts_of"]

Floor = int | Sequence[int]
"""The position past which a subscription is given entries: one for all, or one for each slot."""

_NEVER = 1 << 62


@dataclass(frozen=True)
class Front:
    """Cursors held by one worker, and by name the subscriptions that follow them there, and maybe others."""

    cursors: Sequence[Cursor]
    followers: Mapping[str, Follower]

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
    def floors(self) -> Mapping[str, Floor | None]:
        """By subscription, found as they are asked for: of many, few hear what is read. None is given nothing."""
        return _Floors(self)

    def base(self, follower: Follower) -> Floor | None:
        """Where its cursor stands: in all the slots that are read alike, or in each."""
        rows = self._rows.get((follower.group, follower.cursor))
        if rows is None:
            return None
        covered = sum(row.last - row.first + 1 for row in rows)
        if len({row.position for row in rows}) == 1 and covered == sum(b - a + 1 for a, b in self.slots):
            return rows[0].position
        places = [_NEVER] * SLOTS
        for row in rows:
            places[row.first : row.last + 1] = [row.position] * (row.last - row.first + 1)
        return places

    def cursor_of(self, subscription: str, entry: Entry) -> Cursor | None:
        """The cursor by which a subscription is given an entry."""
        slot = slot_of(entry.key, entry.raw_id)
        return next((c for c in self._followed(subscription) if c.first <= slot <= c.last), None)

    def slots_of(self, subscription: str) -> list[Range]:
        """The slots in which deliveries set aside for a subscription may run here."""
        return sorted(cursor.slots for cursor in self._followed(subscription))

    def _followed(self, subscription: str) -> Sequence[Cursor]:
        follower = self.followers.get(subscription)
        return () if follower is None else self._rows.get((follower.group, follower.cursor), ())

    @cached_property
    def _rows(self) -> Mapping[tuple[str, str], Sequence[Cursor]]:
        return by_name(self.cursors)


class _Floors(dict[str, Floor | None]):
    def __init__(self, front: Front) -> None:
        self._front = front
        self._bases: dict[tuple[str, str], Floor | None] = {}

    def __missing__(self, name: str) -> Floor | None:
        follower = self._front.followers.get(name)
        found = self[name] = None if follower is None else self._of(follower)
        return found

    def _of(self, follower: Follower) -> Floor | None:
        at = follower.group, follower.cursor
        if at not in self._bases:
            self._bases[at] = self._front.base(follower)
        base = self._bases[at]
        return None if base is None else _past(base, follower.start)


NOBODY = Front((), {})


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
