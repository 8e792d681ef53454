"""A turn: one read of the log for all who stand near each other, run and settled; and the deliveries that are due."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from earnorm.batch import Batch
from earnorm.clock import Clock
from earnorm.counts import Counts
from earnorm.delivery import Dead, Delivery, Outcome
from earnorm.errors import LeaseLost
from earnorm.front import Front, fronts_of
from earnorm.lanes import Lanes
from earnorm.later import in_lanes
from earnorm.pace import Pace
from earnorm.runner import Runner
from earnorm.shares import View
from earnorm.store import SHARED, Cursor, Follower, Group, Intake, Plan, Settlement, Store, Transaction, Waiting
from earnorm.stragglers import Stragglers
from earnorm.subscription import Audience, Window, fold, passed, plan
from earnorm.suspects import alone, before_its_last, is_suspected, last_verdict, risk_of, set_aside
from earnorm.tenure import Tenure
from earnorm.wakeup import Wakeup

__all__ = ["Turns"]

_log = logging.getLogger("earnorm.worker")

# Seconds between two looks at what runs.
_LOOK = 1.0
# The view may have changed while a window was planned, and then is looked at again.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class _Result:
    """A window that was run, on its way into the store."""

    window: Window
    outcomes: list[list[Outcome]]
    plans: Mapping[str, Plan]
    batch: Batch | None = None
    apart: Mapping[int, int] = field(default_factory=dict[int, int])


class Turns:
    """What one worker does again and again, on one thread at a time.

    `stopping` is set when nothing more is to be begun, and `deadline` then says until when what runs may take.
    """

    def __init__(
        self,
        store: Store,
        audience: Audience,
        runner: Runner,
        tenure: Tenure,
        lanes: Lanes,
        *,
        clock: Clock,
        pace: Pace,
        wakeup: threading.Event,
        most_apart: int,
        groups: frozenset[str] | None = None,
        intake: Intake | None = None,
        outside: Wakeup,
    ) -> None:
        self.stopping = threading.Event()
        self.deadline: float | None = None
        self.under_way: Batch | None = None
        self.counting = threading.Lock()
        self.totals = Counts()
        self.next_due: float | None = None
        self.contending = False
        self._store = store
        self._audience = audience
        self._runner = runner
        self._tenure = tenure
        self._lanes = lanes
        self._clock = clock
        self._pace = pace
        self._groups = groups
        self._intake = intake
        self._wakeup = wakeup
        self._outside = outside
        self.stragglers = Stragglers(most_apart, wakeup.set)
        self._unsettled: _Result | None = None
        self._astray = False
        self._recorded: frozenset[str] = frozenset()
        self._knows: frozenset[str] = frozenset()
        self._quiet: tuple[int, Mapping[str, Group]] | None = None
        self._number = 0

    @property
    def has_unsettled(self) -> bool:
        """Whether something was run that could not be written down yet."""
        return self._unsettled is not None

    def forget(self) -> None:
        """What was seen and what was run is worth nothing any more: it is read again, from the last settle."""
        self._unsettled = None
        self._quiet = None
        self._tenure.forget()

    def lose(self) -> None:
        """A batch was refused: it is read again, as the store has it."""
        self._unsettled = None
        self._astray = True
        self._tenure.lose()

    def refresh(self) -> None:
        """Record handlers defined since as subscriptions. Costs nothing if there are none."""
        names = self._audience.names
        if not names - self._recorded:
            return
        registrations = self._audience.registrations()
        with self._store.begin() as transaction:
            recorded = transaction.subscribe(registrations)
        self._audience.record(recorded)
        self._runner.record(recorded)
        self._recorded = names
        groups = self._groups
        self._knows = frozenset(recorded[r.name] for r in registrations if groups is None or r.group in groups)
        self._quiet = None
        self._tenure.stale()

    # --- is there anything? ------------------------------------------------------------------

    def is_drained(self) -> bool:
        """Whether nothing is to be done for the handlers of this process now, as the store has it."""
        self.refresh()
        # First, since what is taken in between the two looks is then in the log.
        if self._intake is not None and self._intake.pending():
            return False
        with self._store.begin(readonly=True) as transaction:
            return not self._pending(transaction)

    def _pending(self, transaction: Transaction) -> bool:
        horizon, groups = transaction.horizon(), transaction.groups()
        if (horizon, groups) != self._quiet:
            ours = [f for f in transaction.followers() if self._works(f, groups)]
            followed = {(follower.group, follower.cursor) for follower in ours}
            cursors = transaction.cursors()
            # After the cursors: a settle in between moves them and appends what its handlers emitted.
            horizon = transaction.horizon()
            if any(c.position < horizon and (c.group, c.name) in followed for c in cursors):
                return True
            self._quiet = horizon, groups
        return self._any_due(transaction, transaction.waiting(), groups)

    def _works(self, follower: Follower, groups: Mapping[str, Group]) -> bool:
        return follower.name in self._knows and not follower.paused and not groups[follower.group].paused

    def _any_due(self, transaction: Transaction, waiting: Mapping[str, Waiting], groups: Mapping[str, Group]) -> bool:
        """Whether a delivery set aside is due, or runs; if not, when the next one will be."""
        ours = {f.name for f in transaction.followers() if self._works(f, groups)} if waiting else set[str]()
        waits = [wait for name, wait in waiting.items() if name in ours]
        dues = [wait.due for wait in waits if wait.due is not None]
        self.next_due = (min(dues) - transaction.now()).total_seconds() if dues else None
        return any(wait.running for wait in waits) or (self.next_due is not None and self.next_due <= 0)

    # --- a turn ------------------------------------------------------------------------------

    def take(self, until: float | None) -> bool:
        """One turn, of which handlers may take until then; whether it moved anything."""
        self.refresh()
        moved = self.settle()
        moved = self._settle_stragglers() or moved
        if self._astray:
            self._reopen()
        if self._intake is not None and self._intake.take():
            self._outside.notify()
            moved = True
        if self._tenure.view is None and not self._contends():
            return moved
        window = self._plan()
        if window.is_empty or self.stopping.is_set():
            self.contending = self._contends()
            return moved
        plans = self._plans()
        if is_suspected(window):
            self._suspect(window, plans)
            return True
        began = self._clock.monotonic()
        window, verdict = self._risk(window) if window.runs_alone else (window, None)
        result = self._perform(window, plans, until) if verdict is None else _Result(window, [[verdict]], plans)
        if self._tenure.view is None:
            return moved
        self._pace.note(len(window.lanes), self._clock.monotonic() - began)
        self._unsettled = result
        return self.settle() or moved

    def _suspect(self, window: Window, plans: Mapping[str, Plan]) -> None:
        """Run none of it now, but each of it alone from now on."""
        with self._store.begin() as transaction:
            settlement = set_aside(window, transaction.now(), self._tenure.worker, plans)
            transaction.settle(settlement)
        self._settled(settlement)

    def _risk(self, window: Window) -> tuple[Window, Dead | None]:
        """Write down that the suspect runs; if it may not run any more, what its last attempt came to."""
        suspect = window.lanes[0][0]
        verdict = last_verdict(self._runner, suspect)
        fate = verdict or self._runner.died(suspect)
        with self._store.begin() as transaction:
            # Also of one that may not run: it is then settled as one that this worker has in hand.
            settlement = risk_of(window, fate, transaction.now(), self._tenure.worker)
            transaction.settle(settlement)
        self._settled(settlement)
        mine = replace(suspect, worker=self._tenure.worker)
        return (alone(window, mine), None) if verdict is None else (alone(window, before_its_last(mine)), verdict)

    def _contends(self) -> bool:
        """Whether there is anything to do for our handlers, whoever may be doing it."""
        if not self._knows:
            return False
        with self._store.begin(readonly=True) as transaction:
            return self._pending(transaction)

    def _plan(self) -> Window:
        for _ in range(_TRIES):
            if not self._tenure.is_fresh:
                self._tenure.look(self._knows, active=not self.stopping.is_set())
            view = self._tenure.view
            assert view is not None
            with self._store.begin(readonly=True) as transaction:
                # The horizon first: who subscribes after it was read starts at or past it.
                horizon = transaction.horizon()
                if transaction.groups() == view.groups:
                    return self._window(transaction, view, horizon)
            self._tenure.stale()
        return Window()

    def _window(self, transaction: Transaction, view: View, horizon: int) -> Window:
        """What there is to do by the cursors held here: from the log, and set aside and due."""
        limit = self._pace.size
        front = self._front(view, horizon, limit)
        start, slots = front.start, front.slots
        entries = transaction.read(start, horizon, limit, slots) if front.cursors and start < horizon else []
        end = entries[-1].position if len(entries) == limit else horizon
        window = plan(entries, end, front, self._audience.hearing)
        waiting = transaction.waiting()
        if waiting:
            window = window.hold_back(transaction.blocked(window.pairs))
            due = self._due(transaction, waiting, front, limit)
            suspects = [delivery for delivery in due if delivery.suspect]
            # One of them and everything else in turns.
            if suspects and (self._number % 2 or (window.is_empty and len(suspects) == len(due))):
                return alone(window, suspects[0])
            fit = (delivery for delivery in due if not delivery.suspect)
            window = window.redeliver(in_lanes(fit, self._runner.is_ordered))
        return window

    def _front(self, view: View, horizon: int, reach: int) -> Front:
        """Each turn another front, so that one that catches up does not keep those waiting that are up to date."""
        cursors = self._workable(view)
        fronts = fronts_of((c for c in cursors if c.position < horizon), reach)
        level = [c for c in cursors if c.position >= horizon]
        self._number += 1
        chosen = fronts[self._number % len(fronts)] if fronts else []
        followers = [f for f in view.followers if self._works(f, view.groups)]
        return Front([*chosen, *level], followers)

    def _workable(self, view: View) -> list[Cursor]:
        """The cursors held here, but those that would pass somebody by whom nobody here can run."""
        passing = {(f.group, f.cursor) for f in view.followers if not self._works(f, view.groups)}
        return [c for c in self._tenure.held if (c.group, c.name) not in passing]

    def _due(
        self, transaction: Transaction, waiting: Mapping[str, Waiting], front: Front, limit: int
    ) -> list[Delivery]:
        now = transaction.now()
        names = [name for name, wait in waiting.items() if wait.due is not None and wait.due <= now]
        found: list[Delivery] = []
        # Each turn another one is first, so that none has to wait for all that another has.
        first = self._number % len(names) if names else 0
        for name in (*names[first:], *names[:first]):
            if len(found) < limit and (slots := front.slots_of(name)):
                found += transaction.due(name, slots, limit - len(found))
        return found

    def _plans(self) -> dict[str, Plan]:
        """Who is given what the shared cursors pass."""
        view = self._tenure.view
        assert view is not None
        given: dict[str, set[str]] = {c.group: set() for c in self._tenure.held if c.name == SHARED}
        for follower in view.followers:
            if follower.group in given and not follower.apart:
                given[follower.group].add(follower.name)
        return {name: Plan(view.groups[name].generation, frozenset(names)) for name, names in given.items()}

    def _perform(self, window: Window, plans: Mapping[str, Plan], until: float | None) -> _Result:
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
        outcomes = [ended[: apart.get(lane)] for lane, ended in enumerate(batch.outcomes)]
        return _Result(window, outcomes, plans, batch, apart)

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

    # --- settling ----------------------------------------------------------------------------

    def settle(self) -> bool:
        """Write down what was run, whole or not at all. If the store fails it stays, for the next turn to write."""
        result = self._unsettled
        if result is None:
            return False
        self.refresh()  # a handler registered by another one hears what that one emitted
        window, outcomes, worker = result.window, result.outcomes, self._tenure.worker
        settlement = None if result.apart else passed(window, outcomes, worker, result.plans)
        # Who sees in the store that all is done finds it counted.
        with self.counting:
            with self._store.begin() as transaction:
                if settlement is None:
                    settlement = fold(window, outcomes, transaction.now(), worker, result.plans, apart=result.apart)
                moves = any((settlement.advances, settlement.set_aside, settlement.rescheduled, settlement.finished))
                if moves:
                    transaction.settle(settlement)
                running = transaction.running(worker) if result.apart else []
            self._unsettled = None
            if result.batch is not None and running:
                self.stragglers.add(result.batch, result.apart, running)
            self.totals += Counts.of(outcome for lane in outcomes for outcome in lane)
        self._settled(settlement)
        self._tell_emitted(settlement)
        return moves

    def _settle_stragglers(self) -> bool:
        """Write down what became of those that have ended; whether any had."""
        ended = self.stragglers.ended()
        for straggler in ended:
            outcomes, worker = straggler.outcomes or [], self._tenure.worker
            window = Window(lanes=((straggler.row,),))
            with self.counting:
                try:
                    with self._store.begin() as transaction:
                        settlement = fold(window, [outcomes], transaction.now(), worker, {})
                        transaction.settle(settlement)
                except LeaseLost as lost:
                    # This worker was thought to be dead, and somebody else runs it.
                    _log.info("%s", lost)
                else:
                    self.totals += Counts.of(outcomes)
                    self._tell_emitted(settlement)
            self.stragglers.drop(straggler)
        return bool(ended)

    def _reopen(self) -> None:
        """What a batch set aside to run here, which was written down though this worker was told it was not."""
        worker, known = self._tenure.worker, self.stragglers.rows()
        with self._store.begin() as transaction:
            astray = [row for row in transaction.running(worker) if row.id not in known]
            if astray:
                again = [replace(row, worker="") for row in astray]
                transaction.settle(Settlement(worker=worker, rescheduled=again, running=[row.id for row in astray]))
        self._astray = False

    def finish(self) -> None:
        """Wait for those that run on, as long as there is time, and leave the others to be run again."""
        self._settle_stragglers()
        while len(self.stragglers) and (remaining := self._remaining(None)) > 0:
            self._clock.wait(self._wakeup, min(remaining, _LOOK))
            self._wakeup.clear()
            self._tenure.keep()
            self._settle_stragglers()
        self.abandon()

    def abandon(self) -> None:
        """Those that run on are no attempt, and no longer this worker's."""
        for batch in self.stragglers.batches():
            self._lanes.abandon(batch)
        self.stragglers.clear()

    def _settled(self, settlement: Settlement) -> None:
        self._tenure.moved([replace(a.cursor, position=a.position, deaths=0) for a in settlement.advances])
        if any(advance.cursor.name != SHARED for advance in settlement.advances):
            # It may have caught up with the others.
            self._tenure.stale()

    def _tell_emitted(self, settlement: Settlement) -> None:
        """What handlers emitted is in the log now, for workers of other processes as well."""
        self._runner.tell_appended(settlement.emitted)
        if settlement.emitted:
            self._outside.notify()
