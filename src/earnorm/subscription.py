"""Subscriptions: what one read of the log asks for, lane by lane, and what its outcomes come to. No I/O, no threads.

A `Window` goes from the lowest cursor to `end`. Its lanes are run; `fold` makes of their outcomes the settlement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from earnorm.bus import EventBus
from earnorm.declared import declared_of
from earnorm.delivery import Dead, Delivery, Done, Outcome, Retry, Skipped
from earnorm.errors import PayloadError
from earnorm.event import Change, Entry, Event
from earnorm.handler import Handler, Phase
from earnorm.occurrence import Kind
from earnorm.registry import TRASHING, ModelInfo, in_order
from earnorm.store import Advance, Seen, Settlement, Transaction

__all__ = ["Audience", "Counts", "Lane", "Pair", "Subscription", "Window", "due_for", "fold", "next_due", "plan"]

Lane = tuple[Delivery, ...]
Pair = tuple[str, str]

# Changes that are heard by their name alone, not by the fields they changed.
_WHOLE: dict[str, Kind] = {"created": "created", "deleted": "deleted"}
_SOME = Change(None, None)
# And those heard by the fields they changed as well.
_SOME_FIELDS: dict[str, Kind] = {"updated": "updated", "trashed": "trashed", "restored": "restored"}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A durable handler, seen from the log. With `ordered`, later events of a record wait for earlier ones."""

    name: str
    ordered: bool = True


# --- who hears an entry ----------------------------------------------------------------------


class Audience:
    """The durable handlers of a bus as subscriptions: their names, and who of them hears an entry, in handler order."""

    def __init__(self, bus: EventBus, events: Callable[[Entry, int], Event]) -> None:
        self._bus = bus
        self._events = events
        self._version = -1
        self._names: frozenset[str] = frozenset()
        self._ordered: frozenset[str] = frozenset()
        self._heard: dict[Pair, tuple[Subscription, ...]] = {}

    @property
    def names(self) -> frozenset[str]:
        self._look()
        return self._names

    @property
    def ordered(self) -> frozenset[str]:
        """Those in which later events of a record wait for earlier ones."""
        self._look()
        return self._ordered

    def hearing(self, entry: Entry) -> tuple[Subscription, ...]:
        self._look()
        info = self._bus.registry.models.get(entry.subject)
        verb = entry.name.removeprefix(f"{entry.subject}.")
        if entry.subject and (verb == "updated" or (info is not None and info.trash and verb in TRASHING)):
            return _subscriptions(self._hearing_update(entry, info, _SOME_FIELDS[verb]))
        # Looked up and written in the same dict: what was found before a handler came must not outlast its coming.
        heard, key = self._heard, (entry.subject, entry.name)
        found = heard.get(key)
        if found is None:
            found = heard[key] = _subscriptions(self._hearing_name(entry, info, verb))
        return found

    def _look(self) -> None:
        version = self._bus.registry.version
        if version != self._version:
            durable = self._bus.registry.durable()
            self._names = frozenset(handler.name for handler in durable)
            self._ordered = frozenset(handler.name for handler in durable if handler.ordered)
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


def _subscriptions(handlers: Iterable[Handler]) -> tuple[Subscription, ...]:
    return tuple(Subscription(h.name, h.ordered) for h in handlers if h.phase is Phase.DURABLE)


# --- a window --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What there is to do now.

    end       the position every subscription in `cursors` moves to, unless it stands there already
    cursors   where the subscriptions of this process stand
    lanes     deliveries to run: in order within a lane, side by side across lanes
    behind    deliveries to set aside at once: an earlier one of their record is, or they were emitted for later
    seen      the last entry that was read for it
    """

    end: int = 0
    cursors: Mapping[str, int] = field(default_factory=dict[str, int])
    lanes: tuple[Lane, ...] = ()
    behind: tuple[Delivery, ...] = ()
    seen: Seen | None = None

    @property
    def is_empty(self) -> bool:
        return not self.lanes and all(cursor >= self.end for cursor in self.cursors.values())

    @property
    def pairs(self) -> list[Pair]:
        """The (subscription, record) whose later events wait for earlier ones."""
        return [_pair(lane[0]) for lane in self.lanes if lane[0].ordered]

    def hold_back(self, blocked: Collection[Pair]) -> Window:
        """The window without the lanes of `blocked` pairs: those wait behind what is set aside already."""
        if not blocked:
            return self
        held = [lane for lane in self.lanes if lane[0].ordered and _pair(lane[0]) in blocked]
        lanes = tuple(lane for lane in self.lanes if not lane[0].ordered or _pair(lane[0]) not in blocked)
        return replace(self, lanes=lanes, behind=(*self.behind, *(d for lane in held for d in lane)))

    def redeliver(self, due: Iterable[Delivery], ordered: Collection[str] = ()) -> Window:
        """The window and, before it, deliveries set aside whose time has come.

        Of ordered ones each is the first of its record. What was emitted for later waits for none and holds up none:
        of a subscription that is `ordered`, those of one record share a lane, in the order of their times.
        """
        lanes: dict[tuple[object, ...], list[Delivery]] = {}
        for delivery in due:
            later = not delivery.ordered and delivery.entry.key and delivery.subscription in ordered
            lanes.setdefault(_pair(delivery) if later else (delivery.id,), []).append(delivery)
        return replace(self, lanes=(*map(tuple, lanes.values()), *self.lanes))


def plan(
    entries: Iterable[Entry],
    end: int,
    cursors: Mapping[str, int],
    hearing: Callable[[Entry], Iterable[Subscription]],
    now: datetime,
) -> Window:
    """The window of `entries`, which are all there are up to position `end`.

    A subscription that is not in `cursors` gets nothing, one that stands past an entry does not get that entry again.
    """
    lanes: dict[tuple[object, ...], list[Delivery]] = {}
    later: list[Delivery] = []
    last: Entry | None = None
    for entry in entries:
        last = entry
        for subscription in hearing(entry):
            if cursors.get(subscription.name, end) >= entry.position:
                continue
            if entry.due is not None and entry.due > now:
                later.append(Delivery(subscription=subscription.name, entry=entry, due=entry.due, ordered=False))
                continue
            ordered = subscription.ordered and bool(entry.key)
            delivery = Delivery(subscription=subscription.name, entry=entry, due=now, ordered=ordered)
            place = _pair(delivery) if ordered else (subscription.name, entry.position, "")
            lanes.setdefault(place, []).append(delivery)
    seen = None if last is None else Seen(last.position, last.id)
    return Window(end, cursors, tuple(map(tuple, lanes.values())), tuple(later), seen)


def _pair(delivery: Delivery) -> Pair:
    return delivery.subscription, delivery.entry.key


def due_for(transaction: Transaction, names: frozenset[str], limit: int) -> list[Delivery]:
    """Deliveries due for these subscriptions. Others are left alone, however many of them stand in front."""
    asked = limit
    while True:
        found = transaction.due(asked)
        ours = [delivery for delivery in found if delivery.subscription in names]
        if ours or len(found) < asked:
            return ours[:limit]
        asked *= 4


def next_due(transaction: Transaction) -> float | None:
    """Seconds to the next delivery set aside, if it is yet to come."""
    _, due = transaction.open()
    seconds = (due - transaction.now()).total_seconds() if due is not None else 0.0
    return seconds if seconds > 0 else None


# --- what its outcomes come to ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An earlier delivery of the record is set aside, so this one is too."""


@dataclass(frozen=True, slots=True)
class _Unbegun:
    """The worker was stopped before this delivery began, or while it ran."""


_Fate = Outcome | _Waiting | _Unbegun


def fold(window: Window, outcomes: Sequence[Sequence[Outcome]], now: datetime) -> Settlement:
    """The settlement of `window`: `outcomes[i]` are those of lane i, as far as it came.

    What was not begun stays in the log, and its subscription's cursor before it. Only where a later delivery
    of that subscription has ended is it set aside instead, its attempt not counted, so that nothing runs twice.
    """
    fates = list(_fates(window.lanes, outcomes))
    fresh = [(delivery, fate) for delivery, fate in fates if not delivery.id]
    ends = _ends(fresh, window.end)
    fresh += [(delivery, _Waiting()) for delivery in window.behind]
    reached = [(d, f) for d, f in fresh if d.entry.position <= ends.get(d.subscription, window.end)]
    again = [(delivery, fate) for delivery, fate in fates if delivery.id]
    return Settlement(
        advances=_advances(window, ends),
        set_aside=_kept(sorted(reached, key=lambda pair: pair[0].entry.position), now),
        rescheduled=_kept([(d, f) for d, f in again if not isinstance(f, _Unbegun)], now),
        finished=[delivery.id for delivery, fate in again if isinstance(fate, (Done, Skipped))],
        emitted=[entry for _, fate in fates if isinstance(fate, Done) for entry in fate.emitted],
        keys=[key for _, fate in fates if isinstance(fate, Done) for key in fate.keys],
        seen=window.seen,
    )


def _fates(lanes: Iterable[Lane], outcomes: Iterable[Sequence[Outcome]]) -> Iterator[tuple[Delivery, _Fate]]:
    for lane, ended in zip(lanes, outcomes, strict=True):
        rest: _Fate = _Waiting() if ended and isinstance(ended[-1], Retry) else _Unbegun()
        for index, delivery in enumerate(lane):
            yield delivery, ended[index] if index < len(ended) else rest


def _ends(fresh: Iterable[tuple[Delivery, _Fate]], end: int) -> dict[str, int]:
    """Where the subscriptions stop that do not reach the window's end."""
    unbegun: dict[str, int] = {}
    ended: dict[str, int] = {}
    for delivery, fate in fresh:
        name, position = delivery.subscription, delivery.entry.position
        if isinstance(fate, _Unbegun):
            unbegun[name] = min(unbegun.get(name, end), position)
        elif not isinstance(fate, _Waiting):
            ended[name] = max(ended.get(name, 0), position)
    return {name: max(first - 1, ended.get(name, 0)) for name, first in unbegun.items()}


def _advances(window: Window, ends: Mapping[str, int]) -> dict[str, Advance]:
    moves = ((name, cursor, ends.get(name, window.end)) for name, cursor in window.cursors.items())
    return {name: Advance(cursor, position) for name, cursor, position in moves if cursor < position}


def _kept(fates: Iterable[tuple[Delivery, _Fate]], now: datetime) -> list[Delivery]:
    """The deliveries that are not over, as they stand from now on."""
    return [kept for delivery, fate in fates if (kept := _after(delivery, fate, now)) is not None]


def _after(delivery: Delivery, fate: _Fate, now: datetime) -> Delivery | None:
    match fate:
        case Retry(after, error):
            due = now + timedelta(seconds=after)
            return replace(delivery, attempt=delivery.attempt + 1, due=due, error=error)
        case Dead(error):
            return replace(delivery, due=now, state="dead", error=error)
        case _Waiting() | _Unbegun():
            return replace(delivery, due=max(now, delivery.due))
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many deliveries ended in which outcome."""

    done: int = 0
    retry: int = 0
    dead: int = 0
    skipped: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Counts:
        names = [type(outcome).__name__ for outcome in outcomes]
        return cls(*(names.count(name) for name in ("Done", "Retry", "Dead", "Skipped")))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(mine - theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def _tuple(self) -> tuple[int, int, int, int]:
        return self.done, self.retry, self.dead, self.skipped

    def as_dict(self) -> dict[str, int]:
        return {"done": self.done, "retry": self.retry, "dead": self.dead, "skipped": self.skipped}
