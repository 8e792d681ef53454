"""An errand: deliveries of one transactional subscription, run and settled in one transaction, beside the turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from earnorm.clock import Clock
from earnorm.delivery import Delivery, Outcome, Retry
from earnorm.fold import fold, passed
from earnorm.portal import LoopThread
from earnorm.runner import Runner
from earnorm.serving import Watch
from earnorm.stage import Stage, Stages
from earnorm.staged import StageLost, perform_staged
from earnorm.store import Settlement
from earnorm.underway import Run
from earnorm.window import Window

__all__ = ["Errand"]

# Seconds after which its transaction takes up no further delivery: it has locks, and on SQLite the only one.
_SPAN = 0.1


_OnEnd = Callable[[BaseException | None], object]


class GivenUp(Exception):
    """An attempt of it cannot be stopped, so that its stage is worth nothing any more."""


class Errand:
    """Runs until its window or its time is over, and tells `on_end` what it failed of, if it did.

    Until it has ended, nobody else has its cursors.

    settlement  what was committed, with `outcomes`
    error       why nothing was
    verdict     of an attempt that took the stage with it: its outcome
    """

    def __init__(self, window: Window, runner: Runner, *, worker: str, most: int, clock: Clock, on_end: _OnEnd) -> None:
        self.window = window
        self.outcomes: list[list[Outcome]] = [[] for _ in window.lanes]
        self.settlement: Settlement | None = None
        self.error: BaseException | None = None
        self.verdict: Outcome | None = None
        self.begun = 0
        self.seconds = 0.0
        self.run: Run | None = None
        self.closed = False
        self._stopping = False
        self._runner = runner
        self._worker = worker
        self._most = most
        self._clock = clock
        self._on_end = on_end
        self._place = (0, 0)
        self._stage: Stage | None = None
        self._ended = False
        self._give_up_thread: Callable[[int], object] | None = None
        self._timers: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        # A loop that was closed under its task will never end it.
        return self._ended or (self._loop is not None and self._loop.is_closed())

    @property
    def rows(self) -> set[int]:
        """Of the deliveries that were set aside before."""
        return {delivery.id for lane in self.window.lanes for delivery in lane if delivery.id}

    # --- begun and ended ---------------------------------------------------------------------

    def begin_in(self, threads: Executor, stages: Stages, timers: LoopThread) -> None:
        """In a thread; another one takes its place, and its timeouts are kept by the loop of `timers`."""
        self._timers = timers
        self._give_up_thread = getattr(threads, "give_up", None)
        threads.submit(self._serve, stages)

    def begin_on(self, loop: asyncio.AbstractEventLoop, stages: Stages) -> None:
        """On a loop."""
        self._loop = loop
        loop.call_soon_threadsafe(self._start, loop, stages, context=Context())

    def _start(self, loop: asyncio.AbstractEventLoop, stages: Stages) -> None:
        self._task = loop.create_task(self._aserve(stages), context=Context())

    def _serve(self, stages: Stages) -> None:
        with self._ending():
            stages.perform(self._work)

    async def _aserve(self, stages: Stages) -> None:
        with self._ending():
            await stages.aperform(self._work)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._end(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if not self._ended:
            self.error, self._ended = error, True
            self._on_end(error)

    def stop(self) -> None:
        """Begin no further delivery, and settle those that are done."""
        self._stopping = True

    def disown(self) -> None:
        """What it began from is worth nothing any more: nothing of it is settled, and nothing of it was an attempt."""
        self.closed = True

    def abandon(self) -> None:
        """Leave it to itself. Nothing of it commits, and nothing of it was an attempt."""
        self.disown()
        # That its connection breaks says nothing of the server.
        self._on_end = _unheard
        loop, task, stage = self._loop, self._task, self._stage
        if loop is not None:
            with suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(task.cancel if task is not None else _nothing)
        elif stage is not None and not self._ended:
            stage.sever()

    # --- on the stage ------------------------------------------------------------------------

    def _work(self, stage: Stage) -> None:
        self._stage, since = stage, self._clock.monotonic()
        for lane, index in _in_order(self.window):
            self.seconds = self._clock.monotonic() - since
            if self._stopping or self.closed or (self.begun and self._is_over(stage)):
                break
            ended = self.outcomes[lane]
            if not (ended and isinstance(ended[-1], Retry)):
                ended.append(self._attempt(stage, lane, index))
        if self.closed:
            raise GivenUp
        if self.begun:
            self._settle(stage)

    def _is_over(self, stage: Stage) -> bool:
        return stage.is_full or self.begun >= self._most or self.seconds >= _SPAN

    def _settle(self, stage: Stage) -> None:
        """The mark, in the transaction of what it marks."""
        settlement = passed(self.window, self.outcomes, self._worker, {})
        if settlement is None:
            settlement = fold(self.window, self.outcomes, stage.transaction.now(), self._worker, {})
        stage.transaction.settle(settlement)
        self.settlement = settlement

    def _attempt(self, stage: Stage, lane: int, index: int) -> Outcome:
        run = self.run = self._runner.begin(self.window.lanes[lane][index])
        self._place = lane, index
        self.begun += 1
        try:
            outcome = self._timed(run, stage)
        except StageLost as lost:
            self.verdict = lost.outcome
            raise
        if outcome is None or self.closed:
            raise GivenUp
        return outcome

    def _timed(self, run: Run, stage: Stage) -> Outcome | None:
        if run.timeout is None:
            return perform_staged(self._runner, run, stage)
        if run.way.handler.is_async:
            run.on_given_up = self._give_up
            return perform_staged(self._runner, run, stage)
        assert self._timers is not None
        watch = Watch(self._timers.loop, run.timeout, partial(self._expire, run))
        try:
            return perform_staged(self._runner, run, stage)
        finally:
            watch.end()

    def _expire(self, run: Run) -> None:
        """Nobody can stop a thread; it is left to itself, and another one goes on in its place."""
        outcome = self._runner.give_up(run)
        if outcome is not None:
            self._give_up(outcome)
            if self._give_up_thread is not None:
                self._give_up_thread(run.thread)

    def _give_up(self, outcome: Outcome) -> None:
        """The attempt has timed out and goes on: end the transaction under it."""
        assert self._stage is not None
        self.verdict = outcome
        self._stage.sever()
        self._end(GivenUp())

    # --- what one attempt came to ------------------------------------------------------------

    def alone(self, outcome: Outcome) -> tuple[Window, list[list[Outcome]]]:
        """A window of which nothing has run but the last attempt, which came to this.

        What comes before it in its lane has still to be done before it.
        """
        number, index = self._place
        lane = self.window.lanes[number]
        others = [other for place, other in enumerate(self.window.lanes) if place != number]
        lanes = [*others, *([lane[:index]] if index else []), lane[index:]]
        return replace(self.window, lanes=tuple(lanes)), [*([] for _ in lanes[:-1]), [outcome]]


def _in_order(window: Window) -> Iterator[tuple[int, int]]:
    """Lanes and places in them: what was set aside before comes first, then the order of the log.

    So where it stops, everything before is done, and everything behind has not begun.
    """
    every = [(lane, index) for lane, row in enumerate(window.lanes) for index in range(len(row))]

    def place(at: tuple[int, int]) -> tuple[Any, ...]:
        delivery: Delivery = window.lanes[at[0]][at[1]]
        return (0, at) if delivery.id else (1, delivery.entry.position)

    return iter(sorted(every, key=place))


def _unheard(_error: BaseException | None) -> None:
    """Nobody waits for it any more."""


def _nothing() -> None:
    """It has not begun, and finds that it is closed."""
