"""Sweeping: lanes whose handlers need next to nothing are begun one after the other, as long as each is done at once.

Thousands pass through here while the loop has other tasks. What `Runner.begin` and `Runner.start` do for each is done
here for all of them in one context, which is theirs one after the other: after a handler that leaves anything in it the
next ones get another.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context
from time import perf_counter
from types import CoroutineType
from typing import Any, NamedTuple, Protocol

from earnorm.batch import ALL_DONE, Batch
from earnorm.delivery import DONE, Delivery, Outcome
from earnorm.dispatch import DEPTH_LIMIT
from earnorm.event import _running
from earnorm.preparation import Preparation
from earnorm.settling import _attempt
from earnorm.stepping import Steps, awaiting
from earnorm.telemetry import follows_handlers
from earnorm.underway import Run
from earnorm.verdict import is_no_attempt
from earnorm.way import Ways

__all__ = ["Sweeping", "Swept"]

_NO_LANE: tuple[Delivery, ...] = ()
# What an attempt has in its context of its own: `_running` and `_attempt`.
_OWN = 2


class Swept(NamedTuple):
    """A delivery that could not be swept over, by its lane and its place there.

    With an attempt it was begun, and came to this; with None it waits.
    """

    lane: int
    place: int
    run: Run | None = None
    outcome: Outcome | None = None


class Performer(Protocol):
    """Who performs one attempt by itself, and says what came of it: the runner."""

    def begin(self, delivery: Delivery) -> Run: ...

    def start(self, run: Run, steps: Steps) -> Outcome | None: ...

    def returned(self, run: Run, value: Any) -> Outcome: ...

    def ended(self, run: Run, outcome: Outcome) -> Outcome | None: ...

    def failed(self, run: Run, error: BaseException) -> Outcome | None: ...


class Sweeping:
    """Begins lanes, the first deliveries of which have no record to wait for."""

    def __init__(self, ways: Ways, preparation: Preparation, performer: Performer) -> None:
        self._ways = ways
        self._preparation = preparation
        self._performer = performer

    def sweep(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None:
        """Begin the next lane and the next. Returns the first delivery that is not just done, or ended after `until`.

        Raises what is no attempt.
        """
        count = len(unbegun)
        swept: Swept | None = None
        try:
            while swept is None and unbegun and not batch.closed:
                swept = self._together(batch, unbegun, steps, until) or self._singly(batch, unbegun, steps, until)
        finally:
            # Also one that came to nothing, by what is raised here.
            if ended := count - len(unbegun) - (swept is not None):
                batch.ended.append(ended)
        return swept

    def _singly(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None:
        """Those that need more: each in a context of its own, up to one that needs next to nothing."""
        lanes, begin, start = batch.lanes, self._performer.begin, self._performer.start
        while unbegun and not batch.closed:
            number = unbegun.popleft()
            lane = lanes[number]
            run = begin(lane[0])
            outcome = start(run, steps)
            if outcome is not DONE or len(lane) > 1 or run.started > until:
                return Swept(number, 0, run, outcome)
            batch.ends[number] = ALL_DONE
            if run.way.is_light and not run.is_followed:
                break
        return None

    # --- in one context ----------------------------------------------------------------------

    def _together(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None:
        """Up to one that is not light, or that has left something in the context."""
        context = Context()
        swept, error = context.run(self._lightly, batch, unbegun, steps, until, context)
        if swept is None or swept.run is None:
            return swept
        if error is not None:
            if is_no_attempt(error):
                raise error
            return swept._replace(outcome=self._performer.failed(swept.run, error))
        if swept.outcome is None or swept.outcome is DONE:
            return swept
        return swept._replace(outcome=self._performer.ended(swept.run, swept.outcome))

    def _lightly(  # noqa: C901  one more call would cost as much as a handler
        self, batch: Batch, unbegun: deque[int], steps: Steps, until: float, context: Context
    ) -> tuple[Swept | None, BaseException | None]:
        """`_together` inside; also returns what a handler raised."""
        lanes, ends, send, ended = batch.lanes, batch.ends, steps.send, steps.ended
        registry, version, name, subject = self._ways.registry, -1, "", ""
        payload, refers = self._preparation.payload, self._preparation.refers
        number, place, lane = -1, 0, _NO_LANE
        way: Any = None
        call: Any = None
        takes_nothing = False
        while not batch.closed and len(context) <= _OWN and not follows_handlers():
            if place == len(lane):
                if not unbegun:
                    break
                number, place = unbegun.popleft(), 0
                lane = lanes[number]
            delivery = lane[place]
            entry = delivery.entry
            # Most are what the one before them is: it is looked up where they differ.
            about = entry.subject if entry.key else ""
            if delivery.subscription is not name or about != subject or registry.version != version:
                name, subject, version = delivery.subscription, about, registry.version
                way = self._ways.of(delivery)
                call, takes_nothing = way.call, way.nothing
            is_light = way.is_light and entry.tenant is None and entry.depth <= DEPTH_LIMIT
            if not is_light or (not takes_nothing and refers(entry)):
                break
            run = Run(way, delivery, perf_counter())
            _running.set(run)
            _attempt.set(run)
            try:
                called = call() if takes_nothing else call(*payload(way, entry))
                coroutine: Any = called if type(called) is CoroutineType else awaiting(called)
                awaits = send(coroutine)
                if awaits is not ended:
                    run.coroutine, run.steps, run.awaits, run.context = coroutine, steps, awaits, context
                    return Swept(number, place, run), None
                value = ended.value
                # Closed first: whoever emits from now on, in whatever thread, is seen here or finds it closed.
                run.is_closed = True
                is_usual = value is None and run.emitting is None and run.known is None
                outcome = DONE if is_usual else self._performer.returned(run, value)
            except BaseException as error:  # noqa: BLE001  whatever it is, `_together` sees to it
                steps.begin_anew()
                return Swept(number, place, run), error
            if outcome is not DONE or run.started > until:
                return Swept(number, place, run, outcome), None
            place += 1
            ends[number] = ALL_DONE if place == 1 else (DONE,) * place
        if place == len(lane):
            return None, None
        if place:
            return Swept(number, place), None
        unbegun.appendleft(number)
        return None, None
