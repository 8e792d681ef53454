"""The settler: writes down what a worker's windows came to, each whole or not at all, counts it and tells of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from earnorm.batch import Batch
from earnorm.counts import Counts
from earnorm.delivery import Outcome
from earnorm.errors import LeaseLost
from earnorm.fold import fold, passed
from earnorm.runner import Runner
from earnorm.store import SHARED, Plan, Settlement, Store, Transaction
from earnorm.stragglers import Straggler, Stragglers, reopen_astray
from earnorm.tenure import Tenure
from earnorm.wakeup import Wakeup
from earnorm.window import Window

__all__ = ["Result", "Settler"]

_log = logging.getLogger("earnorm.worker")


@dataclass(frozen=True, slots=True)
class Result:
    """A window that was run, on its way into the store. `apart` says which deliveries, by lane, run on."""

    window: Window
    outcomes: Sequence[Sequence[Outcome]]
    plans: Mapping[str, Plan]
    batch: Batch | None = None
    apart: Mapping[int, int] = field(default_factory=dict[int, int])


class Settler:
    """`unsettled` is what could not be written down yet: it stays until it is, or until it is worth nothing.

    `astray` is set when something was refused, and rows may say that they run here though they do not.

    Whoever reads `totals` holds `counting`: who sees in the store that all is done finds it counted.
    """

    def __init__(self, store: Store, runner: Runner, tenure: Tenure, stragglers: Stragglers, outside: Wakeup) -> None:
        self.unsettled: Result | None = None
        self.counting = threading.Lock()
        self.totals = Counts()
        self.stragglers = stragglers
        self._store = store
        self._runner = runner
        self._tenure = tenure
        self._outside = outside
        self.astray = False

    def forget(self) -> None:
        """What was run is worth nothing any more: it is read again, from the last settle."""
        self.unsettled = None

    def lose(self) -> None:
        """A batch was refused: it is read again, as the store has it."""
        self.unsettled = None
        self.astray = True

    # --- a window ----------------------------------------------------------------------------

    def settle(self) -> bool:
        """Write down what is unsettled; whether that moved anything."""
        result = self.unsettled
        if result is None:
            return False
        window, outcomes, worker = result.window, result.outcomes, self._tenure.worker
        settlement = None if result.apart else passed(window, outcomes, worker, result.plans)
        with self.counting:
            with self._writing() as transaction:
                if settlement is None:
                    settlement = fold(window, outcomes, transaction.now(), worker, result.plans, apart=result.apart)
                moves = any((settlement.advances, settlement.set_aside, settlement.rescheduled, settlement.finished))
                if moves:
                    transaction.settle(settlement)
                running = transaction.running(worker) if result.apart else []
            self.unsettled = None
            if result.batch is not None and running:
                self.stragglers.add(result.batch, result.apart, running)
            self.totals += Counts.of_lanes(outcomes)
        self._note(settlement)
        self._tell_emitted(settlement)
        return moves

    def write(self, settlement_at: Callable[[datetime], Settlement]) -> None:
        """Write down what is no outcome, as of the store's time."""
        with self._writing() as transaction:
            settlement = settlement_at(transaction.now())
            transaction.settle(settlement)
        self._note(settlement)

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """A transaction of the server that what is written down was read from."""
        with self._store.begin() as transaction:
            self._tenure.require_line()
            yield transaction

    def _note(self, settlement: Settlement) -> None:
        self._tenure.moved(settlement.advances)
        if any(advance.cursor.name != SHARED for advance in settlement.advances):
            # It may have caught up with the others.
            self._tenure.stale()

    def _tell_emitted(self, settlement: Settlement) -> None:
        """What handlers emitted is in the log now, for workers of other processes as well."""
        self._runner.tell_appended(settlement.emitted)
        if settlement.emitted:
            self._outside.notify()

    # --- what runs on ------------------------------------------------------------------------

    def settle_stragglers(self) -> bool:
        """Write down what became of those that have ended; whether any had."""
        ended = self.stragglers.ended()
        for straggler in ended:
            self._settle_straggler(straggler)
            self.stragglers.drop(straggler)
        return bool(ended)

    def _settle_straggler(self, straggler: Straggler) -> None:
        outcomes, worker = straggler.outcomes or [], self._tenure.worker
        window = Window(lanes=((straggler.row,),), again=True)
        with self.counting:
            try:
                with self._writing() as transaction:
                    settlement = fold(window, [outcomes], transaction.now(), worker, {})
                    transaction.settle(settlement)
            except LeaseLost as lost:
                # This worker was thought to be dead, and somebody else runs it.
                _log.info("%s", lost)
            else:
                self.totals += Counts.of(outcomes)
                self._tell_emitted(settlement)

    def reopen_astray(self, beside: Collection[int] = ()) -> None:
        """After a batch was refused: let others run what was set aside to run here, but what does, or `beside` it."""
        if self.astray:
            reopen_astray(self._store, self._tenure.worker, {*self.stragglers.rows(), *beside})
            self.astray = False
