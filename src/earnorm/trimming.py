"""Trimming: old events leave the log a few at a time, between the passes of a worker."""

from __future__ import annotations

import logging
from datetime import timedelta
from random import Random

from earnorm.clock import Clock, SystemClock
from earnorm.errors import ConnectionLost
from earnorm.retention import PATIENCE
from earnorm.store import Store

__all__ = ["Trimming"]

_log = logging.getLogger("earnorm.worker")

# How many entries one short transaction looks at.
_BATCH = 1_000
# After a batch, so many times as long as it took is left to readers and writers, and at least so many seconds.
_REST, _SHORTEST = 4.0, 0.05
# Seconds between two looks at a log with nothing to remove, lengthened by chance, so that many workers do not meet. A
# look takes a dozen statements, and ten idle workers are to ask less than two in a second.
_CALM = 600.0
# And after one that failed.
_AGAIN = 60.0


class Trimming:
    """Removes what is older than `retention` seconds and has been passed by every subscription.

    One that nobody knows is waited for as long as that, and at least for PATIENCE. Idempotency keys of that age go too.
    """

    def __init__(
        self, store: Store, retention: float, *, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        self._store = store
        self._retention = timedelta(seconds=retention)
        self._clock = clock or SystemClock()
        self._random = random or Random()  # noqa: S311  who looks when is no secret
        self._position = 0
        self._failed = False
        # Not at once: a process that starts has other things to do.
        self._next = self._clock.monotonic() + _CALM * self._random.random()

    def left(self) -> float:
        """Seconds until the next batch."""
        return max(0.0, self._next - self._clock.monotonic())

    def step(self) -> None:
        """Remove a batch, if its time has come. A failure is logged once in a row; only ConnectionLost is raised."""
        if self.left():
            return
        try:
            self._next = self._clock.monotonic() + self._remove()
            self._failed = False
        except ConnectionLost:
            self._next = self._clock.monotonic() + _AGAIN
            raise
        except Exception:  # noqa: BLE001  a store may raise anything, and deliveries go on without this
            self._next = self._clock.monotonic() + _AGAIN
            if not self._failed:
                _log.warning("old events cannot be removed from the log; trying again", exc_info=True)
            self._failed = True

    def _remove(self) -> float:
        """Remove a batch; returns how long to leave the log alone."""
        began = self._clock.monotonic()
        with self._store.begin() as transaction:
            before = transaction.now() - self._retention
            unseen = min(before, transaction.now() - PATIENCE)
            pruned = transaction.prune(before, _BATCH, self._position, unseen=unseen)
            keys = transaction.forget_keys(before, _BATCH) if pruned is not None else 0
        if pruned is None or not (pruned.count or keys):
            # From the lowest again the next time: what was waited for, or too young, may go by then.
            self._position = 0
            return _CALM * (1.0 + self._random.random())
        self._position = pruned.position
        return max(_SHORTEST, _REST * (self._clock.monotonic() - began))
