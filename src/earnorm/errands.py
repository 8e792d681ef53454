"""Errands of one worker: begun beside its turns, one at a time for each transactional subscription, and concluded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from earnorm.clock import Clock
from earnorm.counts import Counts
from earnorm.delivery import Dead, Outcome
from earnorm.errand import Errand
from earnorm.errors import ConfigurationError, ConnectionLost, LeaseLost
from earnorm.lanes import Lanes
from earnorm.portal import LoopThread
from earnorm.runner import Runner
from earnorm.settler import Result, Settler
from earnorm.stage import Stages
from earnorm.suspects import is_suspected, set_aside
from earnorm.tenure import Tenure
from earnorm.threads import Threads
from earnorm.window import Window

__all__ = ["Errands"]

_log = logging.getLogger("earnorm.worker")

# How many entries are read for one: as many as it will come to, by what the last one did.
_FEWEST, _FIRST, _MOST = 32, 256, 4096
_NO_LIMIT = 1 << 30
# Where one of them has the only lock there is, for so many seconds, it is left to other writers for so many: they look
# for it in steps of up to 0.1 s, and in a long row of errands a lock that is free for a moment is found by few.
_LONG, _GAP = 0.05, 0.05

Risk = Callable[[Window], tuple[Window, Dead | None]]


class Errands:
    """`alone` says that only one may run at a time: where whoever writes has the whole database."""

    def __init__(
        self,
        stages: Stages | None,
        runner: Runner,
        settler: Settler,
        tenure: Tenure,
        lanes: Lanes,
        *,
        clock: Clock,
        threads: int,
        timers: LoopThread,
        alone: bool,
        wake: Callable[[], object],
    ) -> None:
        self._stages = stages
        self._runner = runner
        self._settler = settler
        self._tenure = tenure
        self._lanes = lanes
        self._clock = clock
        self._threads = Threads(threads, "earnorm-stages")
        self._timers = timers
        self._alone = alone
        self._wake = wake
        self._all: dict[str, Errand] = {}
        self._sizes: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._free = float("-inf")

    def __len__(self) -> int:
        return len(self._all)

    @property
    def busy(self) -> frozenset[str]:
        """The subscriptions that have one under way."""
        return frozenset(self._all)

    @property
    def rows(self) -> set[int]:
        """The deliveries set aside that run in them."""
        return {number for errand in self._all.values() for number in errand.rows}

    def size(self, name: str) -> int:
        """How many entries to read for the next one of this subscription."""
        return self._sizes.get(name, _FIRST)

    # --- beginning ---------------------------------------------------------------------------

    def begin(self, windows: Iterable[tuple[str, Window]], risk: Risk) -> bool:
        """Begin what may; whether anything was settled already. `risk` writes down that a suspect runs."""
        moved = False
        for name, window in windows:
            if window.lanes and self._alone and (self._all or self._clock.monotonic() < self._free):
                continue
            moved = self._begin(name, window, risk) or moved
        self._tenure.busy = self.busy
        return moved

    def _begin(self, name: str, window: Window, risk: Risk) -> bool:
        if is_suspected(window):
            self._settler.write(lambda now: set_aside(window, now, self._tenure.worker, {}))
            return True
        if not window.lanes:
            return self._settle(window, [])
        if window.runs_alone:
            window, verdict = risk(window)
            if verdict is not None:
                return self._settle(window, [[verdict]])
        self._run(name, window)
        return False

    def _run(self, name: str, window: Window) -> None:
        if self._stages is None:
            raise ConfigurationError(f"{name} is transactional, and this worker's log is in no database")
        errand = self._all[name] = Errand(
            window,
            self._runner,
            worker=self._tenure.worker,
            most=self._most.get(name, _NO_LIMIT),
            clock=self._clock,
            on_end=self._ended,
        )
        if self._runner.is_async(name):
            errand.begin_on(self._lanes.loop, self._stages)
        else:
            errand.begin_in(self._threads, self._stages, self._timers)

    def _ended(self, error: BaseException | None) -> None:
        """One has, in whatever thread it ran."""
        if isinstance(error, ConnectionLost):
            # The pool has replaced the other connections as well, so that nobody else would notice.
            self._tenure.is_cut = True
        self._wake()

    # --- concluding --------------------------------------------------------------------------

    def conclude(self) -> bool:
        """See to those that have ended; whether any moved anything. Raises what made one come to nothing."""
        ended = [(name, errand) for name, errand in self._all.items() if errand.has_ended]
        moved, trouble = False, list[Exception]()
        for name, errand in ended:
            try:
                moved = self._conclude(name, errand) or moved
            except Exception as error:  # noqa: BLE001  the others are concluded first
                trouble.append(error)
            finally:
                del self._all[name]
                self._tenure.busy = self.busy
                if errand.seconds >= _LONG:
                    self._free = self._clock.monotonic() + _GAP
        if trouble:
            raise trouble[0]
        return moved

    def _conclude(self, name: str, errand: Errand) -> bool:
        if errand.settlement is not None and errand.error is None:
            with self._settler.counting:
                self._settler.totals += Counts.of_lanes(errand.outcomes)
            self._tenure.moved(errand.settlement.advances)
            self._adapt(name, errand)
            return True
        self._settler.astray = True
        if errand.verdict is not None:
            return self._settle(*errand.alone(errand.verdict))
        return self._refused(name, errand, errand.error)

    def _refused(self, name: str, errand: Errand, error: BaseException | None) -> bool:
        """Nothing of it stands. If only one delivery was in it, that one is to blame; else each is tried alone."""
        if not isinstance(error, Exception) or errand.closed:
            # Stopped, with its loop or its worker.
            return False
        assert self._stages is not None
        if isinstance(error, (LeaseLost, ConnectionLost)) or not errand.begun or not self._stages.blames(error):
            raise error
        if errand.begun == 1:
            assert errand.run is not None
            return self._settle(*errand.alone(self._runner.came_to(errand.run, error)))
        self._most[name] = 1
        _log.warning("a transaction of %d deliveries of %s was refused; each runs alone now", errand.begun, name)
        _log.debug("it was refused", exc_info=error)
        return True

    def _settle(self, window: Window, outcomes: list[list[Outcome]]) -> bool:
        self._settler.unsettled = Result(window, outcomes, {})
        return self._settler.settle()

    def _adapt(self, name: str, errand: Errand) -> None:
        """Read as much as is run, and put more into one transaction again if those before were accepted."""
        if name in self._most:
            self._most[name] *= 2
            if self._most[name] >= _FIRST:
                del self._most[name]
        planned = sum(map(len, errand.window.lanes))
        size = self.size(name) if errand.begun >= planned else errand.begun
        self._sizes[name] = min(_MOST, max(_FEWEST, 2 * size))

    # --- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Let those under way begin no further delivery."""
        for errand in tuple(self._all.values()):
            errand.stop()

    def forget(self) -> None:
        """They began from what is worth nothing any more. Until they have ended, no other begins in their place."""
        for errand in self._all.values():
            errand.disown()

    def abandon(self) -> None:
        """They are no attempts, and no longer this worker's."""
        for errand in self._all.values():
            errand.abandon()
        self._all.clear()
        self._tenure.busy = self.busy

    def end(self) -> None:
        self._threads.shutdown(wait=False)
