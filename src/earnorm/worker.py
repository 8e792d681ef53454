"""The worker: takes turn after turn, in a thread of its own or in that of whoever drains; wakes, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from earnorm.agenda import Agenda
from earnorm.bus import EventBus
from earnorm.clock import Clock, Signal, SystemClock
from earnorm.counts import Counts
from earnorm.errands import Errands
from earnorm.errors import ConnectionLost, InvalidSetting, LeaseLost
from earnorm.lanes import Lanes
from earnorm.pace import Pace
from earnorm.portal import LoopThread, loop_thread
from earnorm.runner import Runner
from earnorm.settler import Settler
from earnorm.stage import Stages
from earnorm.store import Intake, Store
from earnorm.stragglers import Stragglers
from earnorm.subscription import Audience
from earnorm.tenure import Tenure
from earnorm.threads import before_executors_end
from earnorm.trimming import Trimming
from earnorm.turn import Turns
from earnorm.wakeup import Bell, Polling, Wakeup

__all__ = ["Worker"]

_log = logging.getLogger("earnorm.worker")

# Seconds between two looks at a log that stands still, doubling: the first, and the last while others are at work;
# and that of one that has come to share their work.
_SOON, _IDLE, _JOINING = 0.05, 1.0, 0.2
# The first for whoever drains: for the last batch of another, or for the share that it is just giving back.
_FIRST = 0.01
# Seconds of silence after which a worker gives its leases back that is alone; among others it does so at once.
_ALONE = 30.0
# Seconds between two tries of a store that fails.
_AGAIN, _FAILING = 0.1, 4.0
# Seconds that stopping may take beyond its grace, for a last settle.
_MARGIN = 10.0
_GRACE_AT_EXIT = 5.0


class Worker:
    """Delivers what is in the log to the durable handlers of `bus`, sharing the work with other processes.

    lease        seconds after which another process takes over from one that died
    batch        how many entries are read, and deliveries set aside taken up, at once (default: by how quick they are)
    concurrency  how many async handlers run side by side; `threads` how many plain ones
    groups       those whose handlers it runs (default: all)
    stages       where transactional handlers run
    dedicated    whether the process is there for this alone; others then leave the work to it
    """

    def __init__(
        self,
        bus: EventBus,
        store: Store,
        runner: Runner,
        *,
        clock: Clock | None = None,
        lease: float = 10.0,
        batch: int | None = None,
        concurrency: int = 32,
        threads: int = 8,
        groups: Collection[str] | None = None,
        dedicated: bool = False,
        loop: LoopThread | None = None,
        intake: Intake | None = None,
        trimming: Trimming | None = None,
        wakeup: Wakeup | None = None,
        stages: Stages | None = None,
    ) -> None:
        if isinstance(groups, str):
            raise InvalidSetting("connect", "groups", groups, f"a list of groups; write groups=[{groups!r}]")
        self._store = store
        self._intake = intake
        self._trimming = trimming
        self._stages = stages
        self._outside = wakeup or Polling(_IDLE)
        self._runner = runner
        self._clock = clock or SystemClock()
        self._seconds = lease
        self._batch = batch
        self._sizes = (concurrency, threads)
        self._groups = None if groups is None else frozenset(groups)
        self._dedicated = dedicated
        self._own_loop = loop or loop_thread()
        self._audience = Audience(bus, runner.events)
        self._wanted = False
        self._begin_anew()
        _workers.add(self)

    def _begin_anew(self) -> None:
        """The state that belongs to this process alone: a fork shares nothing of it with its parent."""
        concurrency, threads = self._sizes
        self._tenure = Tenure(self._store, self._clock, self._seconds, dedicated=self._dedicated)
        sizes = {"threads": threads, "concurrency": concurrency}
        self._lanes = Lanes(self._runner, self._clock, **sizes, own_loop=self._own_loop)
        self._wakeup = Bell()
        pace = Pace(self._batch)
        stragglers = Stragglers(concurrency + threads, self._wakeup.set)
        self._agenda = Agenda(self._store, self._audience, self._runner, self._tenure, pace, groups=self._groups)
        self._settler = Settler(self._store, self._runner, self._tenure, stragglers, self._outside)
        self._errands = Errands(
            self._stages,
            self._runner,
            self._settler,
            self._tenure,
            self._lanes,
            clock=self._clock,
            threads=threads,
            timers=self._own_loop,
            alone=not self._store.divides,
            wake=self._wake_all,
        )
        self._turns = Turns(
            self._agenda,
            self._settler,
            self._runner,
            self._tenure,
            self._lanes,
            clock=self._clock,
            pace=pace,
            wakeup=self._wakeup,
            intake=self._intake,
            outside=self._outside,
            errands=self._errands,
        )
        self._stopping = self._turns.stopping
        self._lock = threading.Lock()
        self._passing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._watchers: set[Signal] = set()
        self._failures = 0
        self._moved = self._clock.monotonic()
        self._reported = Counts()

    def __repr__(self) -> str:
        state = "running" if self._thread is not None else "not running"
        held = len(self._tenure.held)
        return f"<Worker {self._tenure.worker}, {state}{f', holds {held} cursors' if held else ''}>"

    # --- doors -------------------------------------------------------------------------------

    def start(self) -> None:
        """Work in a daemon thread from now on. Nothing happens if it does already."""
        with self._lock:
            # An interpreter that ends begins no thread. What is due is in the log, for the next start.
            if self._thread is not None or not threading.main_thread().is_alive():
                return
            before_executors_end(_stop_all)
            self._wanted = True
            self._turns.deadline = None
            self._stopping.clear()
            self._thread = threading.Thread(target=self._serve, name="earnorm-worker", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Something was committed: look at once. Many wakes are one. In a fork of a started worker's process, start."""
        # Mostly it is set already where nobody looks, and setting it again takes six functions.
        if not self._wakeup.is_set():
            self._wakeup.set()
        if self._wanted and self._thread is None:
            self.start()

    def refresh(self) -> None:
        """Record handlers defined since as subscriptions. Costs nothing if there are none."""
        self._agenda.refresh()

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run async handlers on the application's loop for as long as it runs; otherwise on the loop thread."""
        self._lanes.use_loop(loop)

    def run_once(self) -> Counts:
        """One turn: look, read once, run, settle in one transaction. A store that fails is logged, not raised."""
        before = self._settler.totals
        self._attempt(None)
        return self._settler.totals - before

    def stop(self, grace: float = 5.0) -> None:
        """Begin nothing more, wait up to `grace` seconds for what runs, settle, give the leases back.

        What was not begun, or not done by then, is delivered after the next start; it was no attempt.
        """
        with self._lock:
            self._wanted = False
            thread, batch = self._thread, self._turns.under_way
            again = thread is None and self._stopping.is_set()
            self._turns.deadline = self._clock.monotonic() + grace
            until = 0.0 if again else self._turns.deadline + _MARGIN
            self._stopping.set()
        if batch is not None:
            batch.close()
        self._wakeup.set()
        self._look_again()
        if thread is not None:
            thread.join(until - self._clock.monotonic())
        if self._passing.acquire(timeout=max(0.0, until - self._clock.monotonic())):
            try:
                self._turns.abandon()
                self._tenure.leave()
            finally:
                self._passing.release()
        elif not again:
            _log.warning("the store does not answer; what was not settled is handled again, the leases run out")
        self._lanes.close()
        self._errands.end()
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
        pause, more = _FIRST, False
        while watch in self._watchers and not self._stopping.is_set():
            watch.clear()
            # In the midst of a backlog it would only be told that there is more.
            if (not more and self._is_drained()) or self._clock.monotonic() >= until:
                break
            moved = self._thread is None and self._attempt(until)
            unasked, more = more, moved and self._agenda.left_more
            if moved or unasked:
                pause = _FIRST
                continue
            self._clock.wait(watch, min(until - self._clock.monotonic(), pause))
            pause = min(2 * pause, _JOINING if self._turns.is_waiting else _IDLE)
        self._watchers.discard(watch)
        if self._thread is None and self._settler.unsettled is None and not self._stopping.is_set():
            # What was run and could not be settled needs its lease: without it, it would be run again.
            self._give_back()
        return self._report()

    def _is_drained(self) -> bool:
        """Whether nothing is due for the handlers of this process, as the store has it."""
        try:
            return self._turns.is_drained()
        except Exception:  # noqa: BLE001  whoever works the log logs it; until then nothing can be said
            return False

    def _report(self) -> dict[str, int]:
        with self._settler.counting:
            counts, self._reported = self._settler.totals - self._reported, self._settler.totals
        return counts.as_dict()

    def _give_back(self) -> None:
        with self._passing:
            self._turns.abandon()
            self._tenure.leave()

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
                self._heed()
            elif self._failures:
                self._clock.wait(self._stopping, min(_AGAIN * 2 ** min(self._failures - 1, 10), _FAILING))
            else:
                pause = self._rest(pause)
        if self._settler.unsettled is not None:
            self._attempt(None)
        self._finish()
        self._give_back()
        self._outside.leave()

    def _heed(self) -> None:
        """Whatever was told until now is in the log that is looked at next."""
        self._moved = self._clock.monotonic()
        self._wakeup.clear()
        self._outside.heed()

    def _finish(self) -> None:
        try:
            self._turns.finish()
        except Exception:  # noqa: BLE001  a store may raise anything, and the leases are still to be given back
            _log.warning("what ran on could not be written down; it is run again", exc_info=True)

    def _rest(self, pause: float) -> float:
        """Wait for a wake, the next due delivery or the next look; returns how long to wait the next time."""
        silence = self._clock.monotonic() - self._moved
        if pause >= _IDLE and not self._turns.contending and (silence >= _ALONE or not self._tenure.is_alone):
            self._rest_leases()
        # Nobody tells when what another worker holds becomes free.
        pause = min(pause, _IDLE if self._turns.contending else self._outside.longest)
        if self._turns.is_waiting:
            pause = min(pause, _JOINING)
        due = pause
        # What is overdue and was left alone is not this worker's to run now: it is looked for as other things are.
        if self._agenda.next_due is not None and self._agenda.next_due > 0:
            due = min(pause, self._agenda.next_due)
        if self._trimming is not None:
            due = min(due, self._trimming.left())
        if self._tenure.held:
            # What is kept is to be kept up.
            due = min(due, self._tenure.third)
        woken = self._wait(due)
        self._wakeup.clear()
        return _SOON if woken else 2 * pause

    def _wait(self, seconds: float) -> bool:
        if isinstance(self._clock, SystemClock):
            return self._outside.wait(self._wakeup, seconds)
        # By a clock that was handed in, others are not heard: its seconds are none of theirs.
        return self._clock.wait(self._wakeup, seconds)

    def _rest_leases(self) -> None:
        """Nothing comes in: let whoever is woken first have the next of it."""
        try:
            with self._passing:
                self._tenure.rest()
        except Exception:  # noqa: BLE001  a store may raise anything, and nothing depends on it
            _log.debug("the leases could not be given back; they run out by themselves", exc_info=True)

    def _wake_all(self) -> None:
        """Something that ran beside the turns has ended, whoever waits for it."""
        self._wakeup.set()
        self._look_again()

    def _look_again(self) -> None:
        for watch in tuple(self._watchers):
            watch.set()

    def _attempt(self, until: float | None) -> bool:
        """One pass; whether it moved anything. A store that fails is logged once in a row, and harms nobody."""
        try:
            with self._passing:
                moved = self._turns.take(until)
                if until is None and self._trimming is not None:
                    self._trimming.step()
        except LeaseLost as lost:
            self._turns.lose()
            _log.info("%s", lost)
            return False
        except Exception as error:  # noqa: BLE001  a store may raise anything, and the thread must not die of it
            if isinstance(error, ConnectionLost):
                # A server that took over may have lost the last commits and give their positions out again.
                self._turns.forget()
                # Nor may the one that looks are taken by be left with the server that was.
                self._outside.leave()
            self._failures += 1
            if self._failures == 1:
                _log.warning("the log cannot be worked; trying again until it can", exc_info=True)
            return False
        if self._failures:
            _log.info("the log can be worked again, after %d failures", self._failures)
            self._failures = 0
        return moved


# --- exit --------------------------------------------------------------------------------

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _stop_all() -> None:
    for worker in tuple(_workers):
        worker.stop(_GRACE_AT_EXIT)
