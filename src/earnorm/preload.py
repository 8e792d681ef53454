"""The preload: records of a batch's lanes, loaded some lanes at a time shortly before those begin."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from earnorm.batch import Batch
from earnorm.delivery import Delivery
from earnorm.threads import Threads

__all__ = ["Preload", "Share"]

# Lanes whose records are loaded by one job: enough for the query to pay, few enough for the first not to wait long.
_TOGETHER = 100


class Loader(Protocol):
    """Who knows what is to be loaded: the runner."""

    def loads(self, delivery: Delivery) -> bool: ...

    def load(self, deliveries: Sequence[Delivery]) -> list[Any]: ...


class Share(NamedTuple):
    """One lane's part of what a job loads."""

    job: Future[list[Any]]
    place: int

    def get(self) -> Any:
        """What was loaded, None if nothing was: then the attempt loads for itself, and says what went wrong."""
        return None if self.job.cancelled() or self.job.exception() is not None else self.job.result()[self.place]


class Preload:
    """Hands out shares. Only the first delivery of a lane has one: later ones are to see what the first has done."""

    def __init__(self, loader: Loader, pool: Threads) -> None:
        self._loader = loader
        self._pool = pool
        self._lock = threading.Lock()
        self._begun: WeakKeyDictionary[Batch, dict[int, dict[int, Share]]] = WeakKeyDictionary()

    def share(self, batch: Batch, lane: int) -> Share | None:
        """This lane's share; None if nothing is loaded for it. The job after its own is begun as well."""
        if not self._loader.loads(batch.lanes[lane][0]):
            return None
        number = lane // _TOGETHER
        with self._lock:
            begun = self._begun.setdefault(batch, {})
            for job in (number, number + 1):
                if job not in begun:
                    begun[job] = self._begin(batch, job * _TOGETHER)
            return begun[number].pop(lane, None)

    def _begin(self, batch: Batch, first: int) -> dict[int, Share]:
        some = range(first, min(first + _TOGETHER, len(batch.lanes)))
        chosen = [lane for lane in some if self._loader.loads(batch.lanes[lane][0])]
        if not chosen:
            return {}
        job = self._pool.submit(self._loader.load, [batch.lanes[lane][0] for lane in chosen])
        return {lane: Share(job, place) for place, lane in enumerate(chosen)}
