"""An absence: events that wait though nobody works the log, where the worker is to be another process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from earnorm.clock import Clock
from earnorm.store import Store, Transaction

__all__ = ["PATIENCE", "Absence"]

_log = logging.getLogger("earnorm.worker")

PATIENCE = 30.0
"""Seconds between two looks; what stood still that long with no worker in sight is worth a hint."""


class Absence:
    """Looks now and then, while events are written, whether a worker takes them; says so once if none does."""

    def __init__(self, store: Store, clock: Clock, names: Callable[[], Iterable[str]], database: str) -> None:
        self._store = store
        self._clock = clock
        self._names = names
        self._database = database
        self._next = 0.0
        self._stood: int | None = None
        self._told = False
        self._thread: threading.Thread | None = None

    def notice(self) -> None:
        """Events were committed. The look is a thread's own, so that no commit waits for it."""
        now = self._clock.monotonic()
        if self._told or now < self._next:
            return
        self._next = now + PATIENCE
        self._thread = threading.Thread(target=self.look, name="earnorm-absence", daemon=True)
        self._thread.start()

    def look(self) -> None:
        try:
            with self._store.begin(readonly=True) as transaction:
                waits = self._waiting(transaction)
        except Exception:  # noqa: BLE001  a store may raise anything, and a hint is no reason to fail
            _log.info("could not look for a worker", exc_info=True)
            return
        if waits is not None and waits == self._stood:
            self._told = True
            _log.warning(
                "events of database %r have waited for %.0f s and no worker was seen; run one beside this process: "
                "earnorm worker MODULE:DB, with the module that imports the same handlers",
                self._database,
                PATIENCE,
            )
        self._stood = waits

    def _waiting(self, transaction: Transaction) -> int | None:
        """Where the last of our subscriptions stands, if events wait for it and no worker lives that knows it."""
        names = set(self._names())
        ours = {(f.group, f.cursor) for f in transaction.followers() if f.name in names}
        lowest = min((c.position for c in transaction.cursors() if (c.group, c.name) in ours), default=None)
        if lowest is None or (lowest >= transaction.horizon() and transaction.bundled_since() is None):
            return None
        now = transaction.now()
        alive = any(worker.expires > now and worker.knows & names for worker in transaction.workers())
        return None if alive else lowest

    def close(self) -> None:
        """Wait for a look under way, which has a connection in its hands."""
        if self._thread is not None:
            self._thread.join()
