"""Suspects: deliveries that may have killed their process, each of which is run alone, its attempt written first.

A worker that dies takes a whole window with it, and one of it at most is to blame. So a death is charged to nobody, and
the window runs again at once; only after several in a row is each of its deliveries set aside as a suspect. Whoever
dies then has shown who did it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import structs

from earnorm.delivery import Dead, Delivery, Outcome, Retry
from earnorm.fold import advances_of
from earnorm.runner import Runner
from earnorm.store import Plan, Settlement
from earnorm.window import Window

__all__ = ["alone", "before_its_last", "is_suspected", "last_death", "risk_of", "set_aside"]

_DEATHS = 3


def is_suspected(window: Window) -> bool:
    """Whether what it holds was under way in several deaths in a row."""
    return any(cursor.deaths >= _DEATHS for cursor in window.front.cursors)


def set_aside(window: Window, now: datetime, worker: str, plans: Mapping[str, Plan]) -> Settlement:
    """The settlement of a window none of which is run: all of it becomes suspect."""
    every = [delivery for lane in window.lanes for delivery in lane]
    fresh = [*(delivery for delivery in every if not delivery.id), *window.behind]
    again = [delivery for delivery in every if delivery.id]
    return Settlement(
        worker=worker,
        advances=advances_of(window, {}, again),
        plans=plans,
        set_aside=[
            structs.replace(d, chosen=max(d.due, now), suspect=True)
            for d in sorted(fresh, key=lambda d: d.entry.position)
        ],
        rescheduled=[structs.replace(delivery, suspect=True) for delivery in again],
        seen=window.seen,
    )


def alone(window: Window, suspect: Delivery) -> Window:
    """Nothing but this delivery, by the cursors of the window."""
    return Window(0, window.front, ((suspect,),), again=True)


def last_death(runner: Runner, suspect: Delivery) -> Retry | Dead | None:
    """What its last attempt came to, if that took its process along. Dead: its attempts are used up."""
    if suspect.attempt == 1:
        return None
    fate = runner.died(before_its_last(suspect))
    # An attempt that its process has outlived has left another error behind, and a dead letter retried by hand none.
    return fate if isinstance(fate, (Retry, Dead)) and fate.error == suspect.error else None


def before_its_last(suspect: Delivery) -> Delivery:
    """As it was before the attempt that was written down last."""
    return structs.replace(suspect, attempt=suspect.attempt - 1)


def risk_of(window: Window, fate: Outcome, death: Outcome | None, now: datetime, worker: str) -> Settlement:
    """What is written before it runs: that it does, and what comes of it (`fate`) should it take its process along.

    And the attempt before, if that was a `death`: nobody was left to write it down.
    """
    suspect = window.lanes[0][0]
    after = fate.after if isinstance(fate, Retry) else 0.0
    error = fate.error if isinstance(fate, (Retry, Dead)) else ""
    due = now + timedelta(seconds=after)
    return Settlement(
        worker=worker,
        advances=advances_of(window, {}, [suspect]),
        rescheduled=[structs.replace(suspect, attempt=suspect.attempt + 1, chosen=due, error=error, worker=worker)],
        attempts=[death.attempt] if isinstance(death, Retry) and death.attempt is not None else [],
    )
