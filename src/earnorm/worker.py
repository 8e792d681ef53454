"""The worker: holds the lease, reads once for all subscriptions, runs, settles in batches; wakes, drains, stops.

What it knows is in the store: after a lost lease, a failed store or a kill it reads again from the last settle.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from earnorm.bus import EventBus
from earnorm.clock import Clock, Signal, SystemClock
from earnorm.delivery import Outcome
from earnorm.errors import ConnectionLost, LeaseLost
from earnorm.lanes import Batch, Lanes
from earnorm.portal import LoopThread, loop_thread
from earnorm.runner import Runner
from earnorm.store import Intake, Lease, Store, Transaction
from earnorm.subscription import Audience, Counts, Window, due_for, fold, next_due, plan
from earnorm.tenure import Tenure

__all__ = ["Worker"]

_log = logging.getLogger("earnorm.worker")

# Seconds between two looks at an idle log: the first, and the last after doubling.
_SOON, _IDLE = 0.05, 1.0
# Seconds between two tries of a store that fails.
_AGAIN, _FAILING = 0.1, 10.0
# Seconds that stopping may take beyond its grace, for a last settle.
_MARGIN = 10.0
_GRACE_AT_EXIT = 5.0


@dataclass(frozen=True, slots=True)
class _Result:
    """A window that was run, on its way into the store."""

    lease: Lease
    window: Window
    outcomes: list[list[Outcome]]


class Worker:
    """Delivers what is in the log to the durable handlers of `bus`. Of all processes, the one with the lease does.

    lease        seconds after which another process takes over from one that died
    batch        how many entries are read, and deliveries set aside taken up, at once
    concurrency  how many async handlers run side by side; `threads` how many plain ones
    """

    def __init__(
        self,
        bus: EventBus,
        store: Store,
        runner: Runner,
        *,
        clock: Clock | None = None,
        lease: float = 10.0,
        batch: int = 200,
        concurrency: int = 32,
        threads: int = 8,
        loop: LoopThread | None = None,
        intake: Intake | None = None,
    ) -> None:
        self._store = store
        self._intake = intake
        self._runner = runner
        self._clock = clock or SystemClock()
        self._seconds = lease
        self._batch = batch
        self._sizes = (concurrency, threads)
        self._own_loop = loop or loop_thread()
        self._audience = Audience(bus, runner.events)
        self._wanted = False
        self._begin_anew()
        _workers.add(self)

    def _begin_anew(self) -> None:
        """The state that belongs to this process alone: a fork shares nothing of it with its parent."""
        concurrency, threads = self._sizes
        self._tenure = Tenure(self._store, self._clock, self._seconds)
        self._lanes = Lanes(self._runner, threads=threads, concurrency=concurrency, own_loop=self._own_loop)
        self._lock = threading.Lock()
        self._passing = threading.Lock()
        self._counting = threading.Lock()
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._deadline: float | None = None
        self._under_way: Batch | None = None
        self._unsettled: _Result | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._watchers: set[Signal] = set()
        self._next_due: float | None = None
        self._failures = 0
        self._totals = Counts()
        self._reported = Counts()

    def __repr__(self) -> str:
        state = "running" if self._thread is not None else "not running"
        return f"<Worker {self._tenure.worker}, {state}{', holds the lease' if self._tenure.lease else ''}>"

    # --- doors -------------------------------------------------------------------------------

    def start(self) -> None:
        """Work in a daemon thread from now on. Nothing happens if it does already."""
        with self._lock:
            # An interpreter that ends begins no thread. What is due is in the log, for the next start.
            if self._thread is not None or not threading.main_thread().is_alive():
                return
            _stop_at_exit()
            self._wanted = True
            self._deadline = None
            self._stopping.clear()
            self._thread = threading.Thread(target=self._serve, name="earnorm-worker", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Something was committed: look at once. Many wakes are one. In a fork of a started worker's process, start."""
        self._wakeup.set()
        if self._wanted and self._thread is None:
            self.start()

    def refresh(self) -> None:
        """Record handlers defined since as subscriptions. Costs nothing if there are none."""
        names = self._audience.names
        if new := names - self._subscribed:
            with self._store.begin() as transaction:
                transaction.subscribe(sorted(new))
            self._subscribed = names

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run async handlers on the application's loop for as long as it runs; otherwise on the loop thread."""
        self._lanes.use_loop(loop)

    def run_once(self) -> Counts:
        """Claim the lease, read once, run, settle in one transaction. A store that fails is logged, not raised."""
        before = self._totals
        self._attempt(None)
        return self._totals - before

    def stop(self, grace: float = 5.0) -> None:
        """Begin nothing more, wait up to `grace` seconds for what runs, settle, give the lease back.

        What was not begun, or not done by then, is delivered after the next start; it was no attempt.
        """
        with self._lock:
            self._wanted = False
            self._deadline = self._clock.monotonic() + grace
            self._stopping.set()
            thread, batch = self._thread, self._under_way
        if batch is not None:
            batch.close()
        self._wakeup.set()
        self._look_again()
        if thread is not None:
            thread.join(grace + _MARGIN)
        if self._passing.acquire(timeout=grace + _MARGIN):
            try:
                self._tenure.release()
            finally:
                self._passing.release()
        self._lanes.close()
        self._thread = None

    # --- draining ----------------------------------------------------------------------------

    def drain(self, timeout: float = 30.0) -> dict[str, int]:
        """Wait until nothing is due, or `timeout` seconds; counts by outcome since the last drain.

        Without a running thread the deliveries are made from here. What another process works on is waited for.
        A handler's failure is counted, a store's logged; neither is raised.
        """
        return self._drain(timeout, threading.Event())

    async def adrain(self, timeout: float = 30.0) -> dict[str, int]:
        """`drain`, awaited."""
        watch = threading.Event()
        try:
            return await asyncio.to_thread(self._drain, timeout, watch)
        finally:
            # A cancelled drain must not hold up the end of the loop, which waits for its threads.
            self._watchers.discard(watch)
            watch.set()

    def _drain(self, timeout: float, watch: threading.Event) -> dict[str, int]:
        until = self._clock.monotonic() + timeout
        self._watchers.add(watch)
        if self._thread is not None:
            self.wake()
        pause = _SOON
        while watch in self._watchers and not self._stopping.is_set():
            watch.clear()
            if self._is_drained() or self._clock.monotonic() >= until:
                break
            if self._thread is None and self._attempt(until):
                pause = _SOON
                continue
            self._clock.wait(watch, min(until - self._clock.monotonic(), pause))
            pause = min(2 * pause, _IDLE)
        self._watchers.discard(watch)
        if self._thread is None and self._unsettled is None:
            # What was run and could not be settled needs the lease: without it, it would be run again.
            self._give_back()
        return self._report()

    def _is_drained(self) -> bool:
        """Whether nothing is due for the handlers of this process, as the store has it."""
        try:
            # First, since what is taken in between the two looks is then in the window.
            if self._intake is not None and self._intake.pending():
                return False
            with self._store.begin(readonly=True) as transaction:
                return self._window(transaction, limit=1).is_empty
        except Exception:  # noqa: BLE001  whoever works the log logs it; until then nothing can be said
            return False

    def _report(self) -> dict[str, int]:
        with self._counting:
            counts, self._reported = self._totals - self._reported, self._totals
        return counts.as_dict()

    def _give_back(self) -> None:
        with self._passing:
            self._tenure.release()

    @contextmanager
    def watched(self, watch: Signal) -> Iterator[None]:
        """While inside, `watch` is set after each pass of the thread, and when it stops."""
        self._watchers.add(watch)
        try:
            yield
        finally:
            self._watchers.discard(watch)

    # --- the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        pause = _SOON
        while not self._stopping.is_set():
            moved = self._attempt(None)
            self._look_again()
            if moved:
                pause = _SOON
            elif self._failures:
                self._clock.wait(self._stopping, min(_AGAIN * 2 ** min(self._failures - 1, 10), _FAILING))
            else:
                pause = self._rest(pause)
        if self._unsettled is not None:
            self._attempt(None)
        self._give_back()

    def _rest(self, pause: float) -> float:
        """Wait for a wake, the next due delivery or the next look; returns how long to wait the next time."""
        if pause >= _IDLE and self._tenure.lease is not None:
            self._give_back()
        due = self._next_due
        woken = self._clock.wait(self._wakeup, pause if due is None else min(pause, due))
        self._wakeup.clear()
        return _SOON if woken else min(2 * pause, _IDLE)

    def _look_again(self) -> None:
        for watch in tuple(self._watchers):
            watch.set()

    def _attempt(self, until: float | None) -> bool:
        """One pass; whether it moved anything. A store that fails is logged once in a row, and harms nobody."""
        try:
            with self._passing:
                moved = self._pass(until)
        except LeaseLost as lost:
            self._unsettled = None
            self._tenure.forget(lost.fence)
            _log.info("%s", lost)
            return False
        except Exception as error:  # noqa: BLE001  a store may raise anything, and the thread must not die of it
            if isinstance(error, ConnectionLost):
                # A server that took over may have lost the last commits and give their positions out again.
                self._unsettled = None
                self._tenure.lease = None
            self._failures += 1
            if self._failures == 1:
                _log.warning("the log cannot be worked; trying again until it can", exc_info=True)
            return False
        if self._failures:
            _log.info("the log can be worked again, after %d failures", self._failures)
            self._failures = 0
        return moved

    # --- a pass ------------------------------------------------------------------------------

    def _pass(self, until: float | None) -> bool:
        self.refresh()
        moved = self._settle()
        if self._intake is not None:
            moved = self._intake.take() or moved
        window = self._look()
        if window.is_empty or self._stopping.is_set():
            return moved
        held = self._tenure.lease
        if not self._tenure.fresh and not self._tenure.take():
            return moved
        lease = self._tenure.lease
        assert lease is not None
        if held is None or held.fence != lease.fence:
            # What was seen without the lease may be somebody else's by now.
            window = self._look()
        outcomes = self._perform(window, until)
        if self._tenure.lease is None:
            return moved
        self._unsettled = _Result(lease, window, outcomes)
        return self._settle() or moved

    def _look(self) -> Window:
        with self._store.begin(readonly=True) as transaction:
            window = self._window(transaction, self._batch)
            self._next_due = next_due(transaction) if window.is_empty else None
        return window

    def _window(self, transaction: Transaction, limit: int) -> Window:
        """What there is to do for the handlers of this process: from the log, and set aside and due."""
        names = self._audience.names
        if not names:
            return Window()
        cursors = {name: position for name, position in transaction.cursors().items() if name in names}
        horizon = transaction.horizon()
        lowest = min(cursors.values(), default=horizon)
        entries = transaction.read(lowest, horizon, limit) if lowest < horizon else []
        end = entries[-1].position if len(entries) == limit else horizon
        window = plan(entries, end, cursors, self._audience.hearing, transaction.now())
        window = window.hold_back(transaction.blocked(window.pairs))
        return window.redeliver(due_for(transaction, names, limit), self._audience.ordered)

    def _perform(self, window: Window, until: float | None) -> list[list[Outcome]]:
        """Run the lanes, keeping the lease, until all have ended or the worker has no more time."""
        batch = self._under_way = Batch(window.lanes)
        if self._stopping.is_set():
            batch.close()
        try:
            self._lanes.begin(batch)
            while not batch.finished and (remaining := self._remaining(until)) > 0:
                self._clock.wait(batch.signal, min(remaining, self._tenure.third))
                batch.signal.clear()
                self._tenure.keep()
        finally:
            self._under_way = None
            if not batch.finished:
                self._lanes.abandon(batch)
        return batch.outcomes

    def _remaining(self, until: float | None) -> float:
        ends = [end for end in (until, self._deadline) if end is not None]
        return min(ends) - self._clock.monotonic() if ends else float("inf")

    def _settle(self) -> bool:
        """Write down what was run, whole or not at all. If the store fails it stays, for the next pass to write."""
        result = self._unsettled
        if result is None:
            return False
        self.refresh()  # a handler registered by another one hears what that one emitted
        # Who sees in the store that all is done finds it counted.
        with self._counting:
            with self._store.begin() as transaction:
                settlement = fold(result.window, result.outcomes, transaction.now())
                moves = any((settlement.advances, settlement.set_aside, settlement.rescheduled, settlement.finished))
                if moves:
                    transaction.settle(result.lease, settlement)
            self._unsettled = None
            self._totals += Counts.of(outcome for lane in result.outcomes for outcome in lane)
        self._runner.tell_appended(settlement.emitted)
        return moves


# --- exit --------------------------------------------------------------------------------

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@functools.cache
def _stop_at_exit() -> None:
    """Stop workers before the interpreter closes the executors that handlers may use; atexit comes after that."""
    # Last registered is first called, so the executors' own exit hook must be there already.
    importlib.import_module("concurrent.futures.thread")
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_stop_all)


def _stop_all() -> None:
    for worker in tuple(_workers):
        worker.stop(_GRACE_AT_EXIT)
