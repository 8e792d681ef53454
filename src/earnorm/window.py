"""A window: what one read of the log asks for, lane by lane. No I/O, no threads.

It goes from a front's lowest cursor to `end`. Its lanes are run; `fold` makes of their outcomes the settlement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from earnorm.delivery import Delivery
from earnorm.event import Entry
from earnorm.front import NOBODY, Floor, Front
from earnorm.later import Pair, beside, pair_of
from earnorm.slots import slot_of
from earnorm.store import Seen
from earnorm.subscription import Subscription

__all__ = ["Lane", "Window", "plan"]

Lane = tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What there is to do now.

    end       the position that every cursor of the front moves to, unless it stands there already
    front     the cursors that were read for, and who follows them
    lanes     deliveries to run: in order within a lane, side by side across lanes
    behind    deliveries to set aside at once: an earlier one of their record is, or they are for later
    seen      the last entry that was read for it
    again     whether there are deliveries in its lanes that were set aside before
    """

    end: int = 0
    front: Front = NOBODY
    lanes: tuple[Lane, ...] = ()
    behind: tuple[Delivery, ...] = ()
    seen: Seen | None = None
    again: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.lanes and not self.behind and all(cursor.position >= self.end for cursor in self.front.cursors)

    @property
    def runs_alone(self) -> bool:
        """Whether it is one suspect and nothing else (`suspects`)."""
        return len(self.lanes) == 1 and self.lanes[0][0].suspect

    @property
    def pairs(self) -> list[Pair]:
        """The (subscription, record) whose later events wait for earlier ones."""
        return [pair_of(lane[0]) for lane in self.lanes if lane[0].ordered]

    def hold_back(self, blocked: Collection[Pair]) -> Window:
        """The window without the lanes of `blocked` pairs: those wait behind what is set aside already."""
        if not blocked:
            return self
        held = [lane for lane in self.lanes if lane[0].ordered and pair_of(lane[0]) in blocked]
        lanes = tuple(lane for lane in self.lanes if not lane[0].ordered or pair_of(lane[0]) not in blocked)
        return replace(self, lanes=lanes, behind=(*self.behind, *(d for lane in held for d in lane)))

    def redeliver(self, lanes: Iterable[Lane]) -> Window:
        """The window with lanes of deliveries set aside whose time has come."""
        return replace(self, lanes=beside(self.lanes, lanes), again=True)


class Hears(Protocol):
    """Who knows who hears an entry: the audience."""

    def by_name(self, entry: Entry, /) -> Iterable[Subscription] | None: ...

    def hearing(self, entry: Entry, /) -> Iterable[Subscription]: ...


def plan(entries: Sequence[Entry], end: int, front: Front, audience: Hears) -> Window:
    """The window of `entries`, which are all there are up to position `end` in the slots of the front.

    A subscription that follows none of its cursors gets nothing, and one that stands past an entry not that one again.
    """
    lanes: list[Sequence[Delivery]] = []
    by_record: dict[Pair, list[Delivery]] = {}
    later: list[Delivery] = []
    name, subject = "", ""
    by_name: Iterable[Subscription] | None = None
    given: list[tuple[Subscription, str, Floor]] = []
    for entry in entries:
        # Most are what the one before them is: it is looked up where they differ.
        if entry.name != name or entry.subject != subject:
            name, subject, by_name = entry.name, entry.subject, audience.by_name(entry)
            given = _given(by_name or (), front)
        if by_name is None:
            given = _given(audience.hearing(entry), front)
        key, position = entry.key, entry.position
        for subscription, handler, floor in given:
            if (floor if isinstance(floor, int) else floor[slot_of(key, entry.raw_id)]) >= position:
                continue
            if entry.raw_due is not None or subscription.delay is not None:
                later.append(_later(subscription, entry))
            elif key == "" or not subscription.ordered:
                lanes.append((Delivery(subscription=handler, entry=entry, ordered=False),))
            elif (lane := by_record.get((handler, key))) is not None:
                lane.append(Delivery(subscription=handler, entry=entry))
            else:
                lanes.append(by_record.setdefault((handler, key), [Delivery(subscription=handler, entry=entry)]))
    seen = Seen(entries[-1].position, entries[-1].id) if entries else None
    return Window(end, front, tuple(map(tuple, lanes)), tuple(later), seen)


def _given(heard: Iterable[Subscription], front: Front) -> list[tuple[Subscription, str, Floor]]:
    """Those that follow a cursor of the front, with their names, and where it stands."""
    floors = front.floors
    return [(one, one.name, floor) for one in heard if (floor := floors[one.name]) is not None]


def _later(subscription: Subscription, entry: Entry) -> Delivery:
    """Also where its time has come by now: it is run once it is set aside.

    What was emitted for later has no place in the order of its record, whoever reads it.
    """
    due = (entry.due or entry.at) + timedelta(seconds=subscription.delay or 0.0)
    ordered = subscription.ordered and entry.key != "" and entry.raw_due is None
    return Delivery(subscription=subscription.name, entry=entry, chosen=due, ordered=ordered)
