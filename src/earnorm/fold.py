"""Folding: what the outcomes of a window come to, as the settlement that is to be written. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from earnorm.batch import ALL_DONE
from earnorm.delivery import DONE, Attempt, Dead, Delivery, Done, Outcome, Retry, Skipped
from earnorm.front import Front
from earnorm.store import Advance, Cursor, Plan, Settlement
from earnorm.window import Lane, Window

__all__ = ["advances_of", "fold", "passed"]


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
    if window.behind or (not _all_done(window, outcomes) and _undone(window.lanes, outcomes)):
        return None
    return Settlement(worker=worker, advances=advances_of(window, {}), plans=plans, seen=window.seen)


def _all_done(window: Window, outcomes: Sequence[Sequence[Outcome]]) -> bool:
    """Whether each lane is of one delivery, from the log, and done, as most windows are: seen at once."""
    lanes = window.lanes
    return not window.again and outcomes.count(ALL_DONE) == len(lanes) == sum(map(len, lanes))


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
            again = {"attempt": delivery.attempt + 1, "chosen": now + timedelta(seconds=after)}
            return {"worker": "", **again, "error": error, "fingerprint": _fingerprint(made)}
        case Dead(error, made):
            return {"worker": "", "chosen": now, "state": "dead", "error": error, "fingerprint": _fingerprint(made)}
        case _Waiting() | _Unbegun() | _Apart():
            # A time that was chosen stays, by a delay or at an earlier attempt.
            return {"worker": worker if isinstance(fate, _Apart) else "", "chosen": delivery.chosen or now}
        case _:
            return None


def _attempts(fates: Iterable[tuple[Delivery, _Fate]], worker: str) -> list[Attempt]:
    failed = (fate.attempt for _, fate in fates if isinstance(fate, (Retry, Dead)))
    return [replace(made, worker=worker) for made in failed if made is not None]


def _fingerprint(made: Attempt | None) -> str:
    return made.fingerprint if made is not None else ""
