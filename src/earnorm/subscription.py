"""Subscriptions: what one read of the log asks for, lane by lane, and what its outcomes come to. No I/O, no threads.

A `Window` goes from a front's lowest cursor to `end`. Its lanes are run; `fold` makes of their outcomes the settlement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from earnorm.bus import EventBus
from earnorm.declared import declared_of
from earnorm.delivery import DONE, Attempt, Dead, Delivery, Done, Outcome, Retry, Skipped
from earnorm.errors import PayloadError
from earnorm.event import Change, Entry, Event
from earnorm.front import NOBODY, Front
from earnorm.handler import Handler, Phase
from earnorm.later import Pair, beside, pair_of
from earnorm.occurrence import Kind
from earnorm.registry import TRASHING, ModelInfo, Registry, in_order
from earnorm.slots import slot_of
from earnorm.store import DEFAULT_GROUP, Advance, Cursor, Plan, Registration, Seen, Settlement

__all__ = [
    "Audience",
    "Lane",
    "Pair",
    "Subscription",
    "Window",
    "advances_of",
    "fold",
    "passed",
    "plan",
    "registrations_of",
]

Lane = tuple[Delivery, ...]

# Changes that are heard by their name alone, not by the fields they changed.
_WHOLE: dict[str, Kind] = {"created": "created", "deleted": "deleted"}
_SOME = Change(None, None)
# And those heard by the fields they changed as well.
_SOME_FIELDS: dict[str, Kind] = {"updated": "updated", "trashed": "trashed", "restored": "restored"}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A durable handler, seen from the log. With `ordered`, later events of a record wait for earlier ones.

    `delay` is how many seconds after its event its first attempt is due.
    """

    name: str
    ordered: bool = True
    delay: float | None = None


# --- who hears an entry ----------------------------------------------------------------------


class Audience:
    """The durable handlers of a bus as subscriptions: their names, and who of them hears an entry, in handler order."""

    def __init__(self, bus: EventBus, events: Callable[[Entry, int], Event]) -> None:
        self._bus = bus
        self._events = events
        self._version = -1
        self._names: frozenset[str] = frozenset()
        self._recorded: Mapping[str, str] = {}
        self._heard: dict[Pair, tuple[Subscription, ...]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of the handlers, as this process calls them."""
        self._look()
        return self._names

    def registrations(self) -> list[Registration]:
        return registrations_of(self._bus.registry)

    def record(self, names: Mapping[str, str]) -> None:
        """From now on its subscriptions go by their recorded names, given here by those of their handlers."""
        self._recorded = dict(names)
        self._heard = {}

    def hearing(self, entry: Entry) -> tuple[Subscription, ...]:
        if self._bus.registry.version != self._version:
            self._look()
        # Looked up and written in the same dict: what was found before a handler came must not outlast its coming.
        heard, name = self._heard, (entry.subject, entry.name)
        found = heard.get(name)
        if found is not None:
            return found
        info = self._bus.registry.models.get(entry.subject)
        verb = entry.name.removeprefix(f"{entry.subject}.")
        if entry.subject and (verb == "updated" or (info is not None and info.trash and verb in TRASHING)):
            # By what it changed, and so by each entry anew.
            return self._subscriptions(self._hearing_update(entry, info, _SOME_FIELDS[verb]))
        found = heard[name] = self._subscriptions(self._hearing_name(entry, info, verb))
        return found

    def _look(self) -> None:
        version = self._bus.registry.version
        if version != self._version:
            self._names = frozenset(handler.name for handler in self._bus.registry.durable())
            self._heard = {}
            self._version = version

    def _hearing_name(self, entry: Entry, info: ModelInfo | None, verb: str) -> Sequence[Handler]:
        plans = self._bus.plans
        if info is not None and verb in _WHOLE:
            return plans.after(info.cls, _WHOLE[verb])
        if entry.subject and verb == "created":
            return self._hearing_unknown(entry, ())
        declared = declared_of(entry.name)
        return plans.custom(entry.name, info.cls if info else None, declared.cls if declared else None)

    def _hearing_update(self, entry: Entry, info: ModelInfo | None, kind: Kind) -> Sequence[Handler]:
        if info is None:
            return self._hearing_unknown(entry, self._changed(entry, ()))
        viewed = self._bus.plans._viewed(info.cls)
        changed = self._changed(entry, viewed) if viewed else ()
        return self._bus.plans.after(info.cls, kind, dict.fromkeys(changed, _SOME))

    def _hearing_unknown(self, entry: Entry, changed: Iterable[str]) -> Sequence[Handler]:
        """A lifecycle event of a model that this process has not imported, for handlers that name it."""
        views = [f"{entry.subject}.saved", *(f"{entry.subject}.{name}.changed" for name in changed)]
        found = self._bus.registry.hearing(entry.name)
        for view in views:
            found += self._bus.registry.viewing(view, object)
        return in_order(dict.fromkeys(found))

    def _changed(self, entry: Entry, otherwise: Collection[str]) -> Collection[str]:
        """The fields an update changed. Of damaged data all might be: the runner makes dead letters of those."""
        try:
            return self._events(entry, 1).changes
        except PayloadError:
            return otherwise

    def _subscriptions(self, handlers: Iterable[Handler]) -> tuple[Subscription, ...]:
        named = self._recorded
        return tuple(
            Subscription(named.get(h.name, h.name), h.ordered, h.options.delay)
            for h in handlers
            if h.phase is Phase.DURABLE
        )


def registrations_of(registry: Registry) -> list[Registration]:
    """What is to be recorded of the durable handlers known here."""
    return [_registration(handler) for handler in registry.durable()]


def _registration(handler: Handler) -> Registration:
    options = handler.options
    group = options.group or DEFAULT_GROUP
    return Registration(name=handler.name, group=group, since=options.since, formerly=options.formerly)


# --- a window --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What there is to do now.

    end       the position that every cursor of the front moves to, unless it stands there already
    front     the cursors that were read for, and who follows them
    lanes     deliveries to run: in order within a lane, side by side across lanes
    behind    deliveries to set aside at once: an earlier one of their record is, or they are for later
    seen      the last entry that was read for it
    """

    end: int = 0
    front: Front = NOBODY
    lanes: tuple[Lane, ...] = ()
    behind: tuple[Delivery, ...] = ()
    seen: Seen | None = None

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
        return replace(self, lanes=beside(self.lanes, lanes))


def plan(
    entries: Sequence[Entry], end: int, front: Front, hearing: Callable[[Entry], Iterable[Subscription]]
) -> Window:
    """The window of `entries`, which are all there are up to position `end` in the slots of the front.

    A subscription that follows none of its cursors gets nothing, and one that stands past an entry not that one again.
    """
    lanes: list[Sequence[Delivery]] = []
    by_record: dict[Pair, list[Delivery]] = {}
    later: list[Delivery] = []
    floors = front.floors
    for entry in entries:
        key, position = entry.key, entry.position
        for subscription in hearing(entry):
            name = subscription.name
            floor = floors[name]
            if floor is None:
                continue
            if (floor if isinstance(floor, int) else floor[slot_of(key, entry.id.bytes)]) >= position:
                continue
            ordered = subscription.ordered and key != ""
            if entry.due is not None or subscription.delay is not None:
                # Also where its time has come by now: it is run once it is set aside. What was emitted for later has
                # no place in the order of its record, whoever reads it.
                due = (entry.due or entry.at) + timedelta(seconds=subscription.delay or 0.0)
                ordered = ordered and entry.due is None
                later.append(Delivery(subscription=name, entry=entry, due=due, ordered=ordered))
                continue
            delivery = Delivery(subscription=name, entry=entry, due=entry.at, ordered=ordered)
            if not ordered:
                lanes.append((delivery,))
            elif (lane := by_record.get((name, key))) is not None:
                lane.append(delivery)
            else:
                lanes.append(by_record.setdefault((name, key), [delivery]))
    seen = Seen(entries[-1].position, entries[-1].id) if entries else None
    return Window(end, front, tuple(map(tuple, lanes)), tuple(later), seen)


# --- what its outcomes come to ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An earlier delivery of the record is set aside, so this one is too."""


@dataclass(frozen=True, slots=True)
class _Unbegun:
    """The worker was stopped before this delivery began, or while it ran."""


@dataclass(frozen=True, slots=True)
class _Apart:
    """It runs on while the others are settled."""


_Fate = Outcome | _Waiting | _Unbegun | _Apart


def passed(
    window: Window, outcomes: Sequence[Sequence[Outcome]], worker: str, plans: Mapping[str, Plan]
) -> Settlement | None:
    """The settlement of a window of which nothing is to be written but the cursors, as is so of most; else None."""
    if window.behind or _undone(window.lanes, outcomes):
        return None
    return Settlement(worker=worker, advances=advances_of(window, {}), plans=plans, seen=window.seen)


def _undone(lanes: Sequence[Lane], outcomes: Sequence[Sequence[Outcome]]) -> list[int]:
    """The lanes of which more is to be written down than that all of it is done."""
    found: list[int] = []
    for number, (lane, ended) in enumerate(zip(lanes, outcomes, strict=True)):
        if len(ended) != len(lane) or lane[-1].id:
            found.append(number)
            continue
        for outcome in ended:
            if outcome is not DONE and (type(outcome) is not Done or outcome.emitted):
                found.append(number)
                break
    return found


def fold(
    window: Window,
    outcomes: Sequence[Sequence[Outcome]],
    now: datetime,
    worker: str,
    plans: Mapping[str, Plan],
    *,
    apart: Collection[int] = (),
) -> Settlement:
    """The settlement of `window`: `outcomes[i]` are those of lane i, as far as it came.

    In the lanes `apart` the next delivery runs on, and is settled by itself when it has ended.

    What was not begun stays in the log, and its cursor before it. Only where a later delivery by that cursor has
    ended is it set aside instead, its attempt not counted, so that nothing runs twice.
    """
    # Those that are done have no part in it, unless a cursor stops short of one.
    fates = list(_fates(window.lanes, outcomes, apart, _undone(window.lanes, outcomes)))
    if any(isinstance(fate, _Unbegun) for _, fate in fates):
        fates = list(_fates(window.lanes, outcomes, apart, range(len(window.lanes))))
    fresh = [(delivery, fate) for delivery, fate in fates if not delivery.id]
    ends = _ends(window.front, fresh, window.end) if any(isinstance(f, _Unbegun) for _, f in fresh) else {}
    fresh += [(delivery, _Waiting()) for delivery in window.behind]
    reached = [(d, f) for d, f in fresh if d.entry.position <= _end_of(window, ends, d)]
    again = [(delivery, fate) for delivery, fate in fates if delivery.id]
    return Settlement(
        worker=worker,
        advances=advances_of(window, ends, [delivery for delivery, _ in again if not delivery.worker]),
        plans=plans,
        set_aside=_kept(sorted(reached, key=lambda pair: pair[0].entry.position), now, worker),
        rescheduled=_kept([(d, f) for d, f in again if d.worker or not isinstance(f, _Unbegun)], now, worker),
        finished=[delivery.id for delivery, fate in again if isinstance(fate, (Done, Skipped))],
        running=[delivery.id for delivery, _ in again if delivery.worker],
        attempts=_attempts((*reached, *again), worker),
        emitted=[entry for _, fate in fates if isinstance(fate, Done) for entry in fate.emitted],
        keys=[key for _, fate in fates if isinstance(fate, Done) for key in fate.keys],
        seen=window.seen,
    )


def _fates(
    lanes: Sequence[Lane], outcomes: Sequence[Sequence[Outcome]], apart: Collection[int], numbers: Iterable[int]
) -> Iterator[tuple[Delivery, _Fate]]:
    """What became of each delivery of these lanes."""
    for number in numbers:
        lane, ended = lanes[number], outcomes[number]
        rest: _Fate = _Waiting() if number in apart or (ended and isinstance(ended[-1], Retry)) else _Unbegun()
        for index, delivery in enumerate(lane):
            if index == len(ended) and number in apart:
                yield delivery, _Apart()
            else:
                yield delivery, ended[index] if index < len(ended) else rest


def _ends(front: Front, fresh: Iterable[tuple[Delivery, _Fate]], end: int) -> dict[Cursor, int]:
    """Where the cursors stop that do not reach the window's end."""
    unbegun: dict[Cursor, int] = {}
    ended: dict[Cursor, int] = {}
    for delivery, fate in fresh:
        cursor, position = front.cursor_of(delivery.subscription, delivery.entry), delivery.entry.position
        assert cursor is not None
        if isinstance(fate, _Unbegun):
            unbegun[cursor] = min(unbegun.get(cursor, end), position)
        elif not isinstance(fate, _Waiting):
            ended[cursor] = max(ended.get(cursor, 0), position)
    return {cursor: max(first - 1, ended.get(cursor, 0)) for cursor, first in unbegun.items()}


def _end_of(window: Window, ends: Mapping[Cursor, int], delivery: Delivery) -> int:
    if not ends:
        return window.end
    cursor = window.front.cursor_of(delivery.subscription, delivery.entry)
    assert cursor is not None
    return ends.get(cursor, window.end)


def advances_of(window: Window, ends: Mapping[Cursor, int], again: Iterable[Delivery] = ()) -> list[Advance]:
    """How the cursors move; those that do not are named too where deliveries set aside ran under their lease."""
    front = window.front
    under = {front.cursor_of(delivery.subscription, delivery.entry) for delivery in again}
    reached = ((cursor, max(cursor.position, ends.get(cursor, window.end))) for cursor in front.cursors)
    return [Advance(cursor, to) for cursor, to in reached if to > cursor.position or cursor in under]


def _kept(fates: Iterable[tuple[Delivery, _Fate]], now: datetime, worker: str) -> list[Delivery]:
    """The deliveries that are not over, as they stand from now on."""
    changes = ((delivery, _after(delivery, fate, now, worker)) for delivery, fate in fates)
    return [structs.replace(delivery, **changed) for delivery, changed in changes if changed is not None]


def _after(delivery: Delivery, fate: _Fate, now: datetime, worker: str) -> dict[str, Any] | None:
    """What of it is another than before; None if it is over."""
    match fate:
        case Retry(after, error, made):
            again = {"attempt": delivery.attempt + 1, "due": now + timedelta(seconds=after)}
            return {"worker": "", **again, "error": error, "fingerprint": _fingerprint(made)}
        case Dead(error, made):
            return {"worker": "", "due": now, "state": "dead", "error": error, "fingerprint": _fingerprint(made)}
        case _Waiting() | _Unbegun() | _Apart():
            # A time after its event's own is one that was chosen, and so is any of what was emitted for later.
            due = delivery.due if delivery.entry.due is not None or delivery.due > delivery.entry.at else now
            return {"worker": worker if isinstance(fate, _Apart) else "", "due": due}
        case _:
            return None


def _attempts(fates: Iterable[tuple[Delivery, _Fate]], worker: str) -> list[Attempt]:
    failed = (fate.attempt for _, fate in fates if isinstance(fate, (Retry, Dead)))
    return [replace(made, worker=worker) for made in failed if made is not None]


def _fingerprint(made: Attempt | None) -> str:
    return made.fingerprint if made is not None else ""
