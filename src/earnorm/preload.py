"""The preload: records of deliveries that are about to begin, loaded many at a time.

Those that lanes begin with are loaded some lanes at a time, shortly before. A later one of a lane is to see what the
earlier one has done, and so is asked for when that has ended; whatever is asked for while such a load is under way is
loaded by the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from earnorm.batch import Batch
from earnorm.delivery import Delivery
from earnorm.threads import Threads

__all__ = ["Load", "Preload", "Share"]

# Records of one load: enough for the query to pay (23 µs a record by a hundred, 15 by two hundred, no less by more),
# few enough for the first not to wait long.
_TOGETHER = 200
# Seconds to wait for loads under way at the end.
_PATIENCE = 1.0


class Loader(Protocol):
    """Who knows what is to be loaded: the runner."""

    def loads(self, delivery: Delivery) -> bool: ...

    def load(self, deliveries: Sequence[Delivery]) -> list[Any]: ...

    def is_fresh(self, loaded: Any) -> bool: ...


class Load:
    """Records that are loaded together."""

    __slots__ = ("_lock", "_waiting", "deliveries", "is_over", "records")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.records: Sequence[Any] = ()
        self.is_over = False
        self._waiting: dict[Callable[[list[Any]], object], list[Any]] = {}
        self._lock = threading.Lock()

    def add(self, delivery: Delivery) -> Share:
        self.deliveries.append(delivery)
        return Share(self, len(self.deliveries) - 1)

    def tell(self, back: Callable[[list[Any]], object], place: Any) -> None:
        """Call `back` with all that were given with it once it is over, at once if it is."""
        with self._lock:
            if not self.is_over:
                self._waiting.setdefault(back, []).append(place)
                return
        back([place])

    def end(self, records: Sequence[Any]) -> None:
        with self._lock:
            self.records, self.is_over = records, True
            waiting, self._waiting = self._waiting, {}
        for back, places in waiting.items():
            back(places)


class Share(NamedTuple):
    """One delivery's part of a load."""

    load: Load
    place: int

    def get(self) -> Any:
        """What was loaded, None if nothing was: then the attempt loads for itself, and says what went wrong."""
        records = self.load.records
        return records[self.place] if records else None


class Preload:
    """Hands out shares."""

    def __init__(self, loader: Loader, pool: Threads) -> None:
        self._loader = loader
        self._pool = pool
        self._lock = threading.Lock()
        self._jobs: set[Future[list[Any]]] = set()
        self._begun: WeakKeyDictionary[Batch, dict[int, dict[int, Share]]] = WeakKeyDictionary()
        # The load of later deliveries under way, and the next.
        self._under_way: Load | None = None
        self._next = Load()

    def loads(self, delivery: Delivery) -> bool:
        """Whether there is anything to be loaded for it."""
        return self._loader.loads(delivery)

    def share(self, batch: Batch, lane: int, index: int) -> Share:
        """The share of a delivery that is about to begin, and for which something is to be loaded."""
        return self._share_of_later(batch.lanes[lane][index]) if index else self._share_of_first(batch, lane)

    def is_stale(self, share: Share) -> bool:
        """Whether its record has waited too long for its handler, or something was written since."""
        loaded = share.get()
        return loaded is not None and not self._loader.is_fresh(loaded)

    def share_anew(self, delivery: Delivery) -> Share:
        """The share of a delivery whose record has grown stale: with whatever else is asked for."""
        return self._share_of_later(delivery)

    # --- first ones --------------------------------------------------------------------------

    def _share_of_first(self, batch: Batch, lane: int) -> Share:
        """The load after its own is begun as well."""
        number = lane // _TOGETHER
        with self._lock:
            begun = self._begun.setdefault(batch, {})
            fresh = [self._collect(batch, begun, one) for one in (number, number + 1) if one not in begun]
            share = begun[number].pop(lane, None)
        for load in fresh:
            self._begin(load)
        # Its handler may ask for more than when the loads were collected.
        return self._share_of_later(batch.lanes[lane][0]) if share is None else share

    def _collect(self, batch: Batch, begun: dict[int, dict[int, Share]], number: int) -> Load:
        load, start = Load(), number * _TOGETHER
        firsts = [lane[0] for lane in batch.lanes[start : start + _TOGETHER]]
        begun[number] = {n: load.add(first) for n, first in enumerate(firsts, start) if self._loader.loads(first)}
        return load

    # --- later ones --------------------------------------------------------------------------

    def _share_of_later(self, delivery: Delivery) -> Share:
        with self._lock:
            share = self._next.add(delivery)
            load = self._step() if self._under_way is None or len(self._next.deliveries) >= _TOGETHER else None
        if load is not None:
            self._begin(load)
        return share

    def _step(self) -> Load | None:
        """The load that was collected, if there is any, is now under way."""
        load, self._under_way = self._next, None
        if load.deliveries:
            self._under_way, self._next = load, Load()
        return self._under_way

    # --- loading -----------------------------------------------------------------------------

    def _begin(self, load: Load) -> None:
        if not load.deliveries:
            return
        try:
            job = self._pool.submit(self._loader.load, load.deliveries)
        except RuntimeError:  # no thread starts any more: the interpreter ends
            self._end(load, None)
            return
        self._jobs.add(job)
        job.add_done_callback(partial(self._end, load))

    def _end(self, load: Load, job: Future[list[Any]] | None) -> None:
        following = None
        with self._lock:
            if job is not None:
                self._jobs.discard(job)
            if load is self._under_way:
                following = self._step()
        if following is not None:
            self._begin(following)
        loaded = job is not None and not job.cancelled() and job.exception() is None
        load.end(job.result() if job is not None and loaded else ())

    def close(self) -> None:
        """Drop the loads not begun, and wait for the others a little: none is to leave a connection open behind it."""
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        wait(jobs, _PATIENCE)
