"""Sweeping: lanes whose handlers need next to nothing are begun one after the other, as long as each is done at once.

Thousands pass through here while the loop has other tasks. What `Runner.begin` and `Runner.start` do for each is done
here for all of them in one context, which is theirs one after the other: after a handler that leaves anything in it the
next ones get another.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context
from inspect import isawaitable
from time import perf_counter
from types import CoroutineType
from typing import Any, Protocol

from earnorm.batch import ALL_DONE, Batch
from earnorm.delivery import DONE, Delivery, Outcome
from earnorm.dispatch import DEPTH_LIMIT
from earnorm.event import _running
from earnorm.preparation import Preparation
from earnorm.settling import _attempt
from earnorm.stepping import Steps, awaiting
from earnorm.telemetry import follows_handlers
from earnorm.underway import Run
from earnorm.verdict import FAILURES, is_no_attempt
from earnorm.way import Ways

__all__ = ["Sweeping", "Swept"]

# What an attempt has in its context of its own: `_running` and `_attempt`.
_OWN = 2

Swept = tuple[int, Run, Outcome | None]
"""A lane, the attempt of its first delivery, and what that came to; None while it waits."""


class Performer(Protocol):
    """Who performs one attempt by itself, and says what came of it: the runner."""

    def begin(self, delivery: Delivery) -> Run: ...

    def start(self, run: Run, steps: Steps) -> Outcome | None: ...

    def returned(self, run: Run, value: Any) -> Outcome: ...

    def failed(self, run: Run, error: BaseException) -> Outcome | None: ...


class Sweeping:
    """Begins lanes, the first deliveries of which have no record to wait for."""

    def __init__(self, ways: Ways, preparation: Preparation, performer: Performer) -> None:
        self._ways = ways
        self._preparation = preparation
        self._performer = performer

    def sweep(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None:
        """Begin the next lane and the next. Returns the first that is not done, or that began after `until`.

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
                return number, run, outcome
            batch.ends[number] = ALL_DONE
            if run.way.is_light and not run.is_followed:
                break
        return None

    # --- in one context ----------------------------------------------------------------------

    def _together(self, batch: Batch, unbegun: deque[int], steps: Steps, until: float) -> Swept | None:
        context = Context()
        met = context.run(self._lightly, batch, unbegun, steps, until, context)
        if met is None:
            return None
        number, run, came_of = met
        if isinstance(came_of, BaseException):
            if is_no_attempt(came_of):
                raise came_of
            return number, run, self._performer.failed(run, came_of)
        return number, run, came_of

    def _lightly(
        self, batch: Batch, unbegun: deque[int], steps: Steps, until: float, context: Context
    ) -> tuple[int, Run, Outcome | BaseException | None] | None:
        """Up to one that is not light, or that has left something in the context."""
        # A function of its own for any of this would take as long as the handler.
        lanes, ends, send, ended = batch.lanes, batch.ends, steps.send, steps.ended
        registry, version, name, subject = self._ways.registry, -1, "", ""
        payload, refers = self._preparation.payload, self._preparation.refers
        while unbegun and not batch.closed and len(context) <= _OWN and not follows_handlers():
            number = unbegun.popleft()
            lane = lanes[number]
            delivery = lane[0]
            entry = delivery.entry
            # Most are what the one before them is: it is looked up where they differ.
            about = entry.subject if entry.key else ""
            if delivery.subscription is not name or about != subject or registry.version != version:
                name, subject, version = delivery.subscription, about, registry.version
                way = self._ways.of(delivery)
                call, takes_nothing = way.call, way.nothing
            is_light = way.is_light and entry.tenant is None and entry.depth <= DEPTH_LIMIT
            if not is_light or (not takes_nothing and refers(entry)):
                unbegun.appendleft(number)
                break
            run = Run(way, delivery, perf_counter())
            _running.set(run)
            _attempt.set(run)
            try:
                result = call() if takes_nothing else call(*payload(way, entry))
                if type(result) is not CoroutineType and isawaitable(result):
                    result = awaiting(result)
                if type(result) is CoroutineType:
                    awaits = send(result)
                    if awaits is not ended:
                        run.coroutine, run.steps, run.awaits, run.context = result, steps, awaits, context
                        return number, run, None
                    result = ended.value
                # Closed first: whoever emits from now on, in whatever thread, is seen here or finds it closed.
                run.is_closed = True
                outcome = DONE if result is None and run.emitting is None else self._performer.returned(run, result)
            except FAILURES as error:
                steps.begin_anew()
                return number, run, error
            if outcome is not DONE or len(lane) > 1 or run.started > until:
                return number, run, outcome
            ends[number] = ALL_DONE
        return None
