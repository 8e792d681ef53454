"""A turn: what is on the agenda is run, as far as it comes, and settled."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from msgspec import structs

from earnorm.agenda import Agenda
from earnorm.batch import Batch
from earnorm.clock import Clock
from earnorm.delivery import Dead
from earnorm.errands import Errands
from earnorm.lanes import Lanes
from earnorm.pace import Pace
from earnorm.runner import Runner
from earnorm.settler import Result, Settler
from earnorm.store import Intake, Plan
from earnorm.suspects import alone, before_its_last, is_suspected, last_death, risk_of, set_aside
from earnorm.tenure import Tenure
from earnorm.wakeup import Wakeup
from earnorm.window import Window

__all__ = ["Turns"]

# Seconds between two looks at what runs.
_LOOK = 1.0


class Turns:
    """What one worker does again and again, on one thread at a time.

    `stopping` is set when nothing more is to be begun, and `deadline` then says until when what runs may take.
    """

    def __init__(
        self,
        agenda: Agenda,
        settler: Settler,
        runner: Runner,
        tenure: Tenure,
        lanes: Lanes,
        *,
        clock: Clock,
        pace: Pace,
        wakeup: threading.Event,
        intake: Intake | None = None,
        outside: Wakeup,
        errands: Errands,
    ) -> None:
        self.stopping = threading.Event()
        self.deadline: float | None = None
        self.under_way: Batch | None = None
        self.contending = False
        self.stragglers = settler.stragglers
        self._agenda = agenda
        self._settler = settler
        self._runner = runner
        self._tenure = tenure
        self._lanes = lanes
        self._clock = clock
        self._pace = pace
        self._intake = intake
        self._wakeup = wakeup
        self._outside = outside
        self._errands = errands

    @property
    def is_waiting(self) -> bool:
        """Whether there is work here that others are about to leave to this worker."""
        return self.contending and self._tenure.is_short

    def forget(self) -> None:
        """What was seen and what was run is worth nothing any more: it is read again, from the last settle."""
        self._settler.forget()
        self._agenda.forget()
        self._errands.forget()
        self._tenure.forget()

    def lose(self) -> None:
        """A batch was refused: it is read again, as the store has it."""
        self._settler.lose()
        self._tenure.lose()

    def is_drained(self) -> bool:
        """Whether nothing is to be done for the handlers of this process now, as the store has it."""
        self._agenda.refresh()
        # First, since what is taken in between the two looks is then in the log.
        if (self._intake is not None and self._intake.pending()) or self._agenda.contends():
            return False
        # Last, since what is done and not counted yet is one of them.
        return not self._errands

    # --- a turn ------------------------------------------------------------------------------

    def take(self, until: float | None) -> bool:
        """One turn, of which handlers may take until then; whether it moved anything."""
        self._agenda.refresh()
        moved = self._settler.settle()
        moved = self._settler.settle_stragglers() or moved
        moved = self._errands.conclude() or moved
        self._settler.reopen_astray(self._errands.rows)
        moved = self._work(until) or moved
        # Last: what is in the log already need not wait for it.
        if self._intake is not None and self._intake.take():
            self._outside.notify()
            moved = True
        return moved

    def _work(self, until: float | None) -> bool:
        if self._tenure.view is None and not self._agenda.seems_to_contend():
            return False
        window = self._agenda.window(active=not self.stopping.is_set())
        moved = self._begin_errands()
        if window.is_empty or self.stopping.is_set():
            self.contending = self._agenda.still_contends()
            if self.is_waiting:
                self._tenure.stale()
            elif not self.stopping.is_set():
                # Now, when nothing waits for it, and not between the next commit and its handlers.
                moved = self._agenda.look_ahead() or moved
            return moved
        return self._run(window, self._agenda.plans(), until) or moved

    def _begin_errands(self) -> bool:
        """What runs beside the turns; whether anything of it was settled already."""
        if self.stopping.is_set():
            self._errands.close()
            return False
        windows = self._agenda.own_windows(self._errands.busy, self._errands.size)
        return self._errands.begin(windows, self._risk) if windows else False

    def _run(self, window: Window, plans: Mapping[str, Plan], until: float | None) -> bool:
        """Run it and settle it. What was run and could not be settled is left to the next turn."""
        if is_suspected(window):
            # None of it now, but each of it alone from now on.
            self._settler.write(lambda now: set_aside(window, now, self._tenure.worker, plans))
            return True
        began = self._clock.monotonic()
        window, verdict = self._risk(window) if window.runs_alone else (window, None)
        result = self._perform(window, plans, until) if verdict is None else Result(window, [[verdict]], plans)
        if self._tenure.view is None:
            return False
        self._pace.note(len(window.lanes), self._clock.monotonic() - began)
        self._settler.unsettled = result
        self._agenda.refresh()  # a handler registered by another one hears what that one emitted
        return self._settler.settle()

    def _risk(self, window: Window) -> tuple[Window, Dead | None]:
        """Write down that the suspect runs; if it may not run any more, what its last attempt came to."""
        suspect = window.lanes[0][0]
        death = last_death(self._runner, suspect)
        fate = death if isinstance(death, Dead) else self._runner.died(suspect)
        # Also of one that may not run: it is then settled as one that this worker has in hand.
        self._settler.write(lambda now: risk_of(window, fate, death, now, self._tenure.worker))
        mine = structs.replace(suspect, worker=self._tenure.worker)
        return (alone(window, before_its_last(mine)), death) if isinstance(death, Dead) else (alone(window, mine), None)

    def _perform(self, window: Window, plans: Mapping[str, Plan], until: float | None) -> Result:
        """Run the lanes, staying alive, until all have ended, what runs on takes long, or there is no more time."""
        batch = self.under_way = Batch(window.lanes)
        apart: dict[int, int] = {}
        if self.stopping.is_set():
            batch.close()
        try:
            self._lanes.begin(batch)
            apart = self._wait_for(batch, until, may_part=not window.runs_alone)
        finally:
            self.under_way = None
            if not batch.finished and not apart:
                self._lanes.abandon(batch)
        # In a lane that went on meanwhile, the one that took long has ended.
        outcomes = batch.outcomes
        for lane, index in apart.items():
            outcomes[lane] = outcomes[lane][:index]
        return Result(window, outcomes, plans, batch, apart)

    def _wait_for(self, batch: Batch, until: float | None, *, may_part: bool) -> dict[int, int]:
        """Returns which deliveries, by lane, are to run on by themselves."""
        since: dict[tuple[int, int], float] = {}
        while not batch.finished and (remaining := self._remaining(until)) > 0:
            self._clock.wait(batch.signal, min(remaining, self._tenure.third, _LOOK))
            batch.signal.clear()
            self._tenure.keep()
            if may_part and self.stragglers.found(batch, since, self._clock.monotonic()):
                batch.close()
                return dict(since.keys())
        return {}

    def _remaining(self, until: float | None) -> float:
        ends = [end for end in (until, self.deadline) if end is not None]
        return min(ends) - self._clock.monotonic() if ends else float("inf")

    # --- the end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Wait for those that run on, as long as there is time, and leave the others to be run again."""
        self._errands.close()
        self._settle_those_that_ended()
        while (self.stragglers or self._errands) and (remaining := self._remaining(None)) > 0:
            self._clock.wait(self._wakeup, min(remaining, _LOOK))
            self._wakeup.clear()
            self._tenure.keep()
            self._settle_those_that_ended()
        self.abandon()

    def _settle_those_that_ended(self) -> None:
        self._settler.settle_stragglers()
        self._errands.conclude()

    def abandon(self) -> None:
        """Those that run on are no attempt, and no longer this worker's."""
        for batch in self.stragglers.batches():
            self._lanes.abandon(batch)
        self.stragglers.clear()
        self._errands.abandon()
