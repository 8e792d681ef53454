"""Intakes: what a worker's pass takes into the log: entries that were left in bundles, and what triggers captured."""

from __future__ import annotations

from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.store import Intake

__all__ = ["Bundles", "Intakes"]


class Bundles:
    """Bundles of a store, one a pass: each is a transaction, which others may wait for."""

    def __init__(self, store: SQLAlchemyStore) -> None:
        self._store = store

    def pending(self) -> bool:
        with self._store.begin(readonly=True) as transaction:
            return transaction.bundled_since() is not None

    def take(self) -> bool:
        if not self.pending():
            return False
        with self._store.begin() as transaction:
            return transaction.unbundle()

    def take_all(self) -> bool:
        """For those who look at the log as a whole; whether there was one that nobody else was at."""
        took = False
        while self.take():
            took = True
        return took


class Intakes:
    """Several as one."""

    def __init__(self, *each: Intake) -> None:
        self._each = each

    def pending(self) -> bool:
        return any(intake.pending() for intake in self._each)

    def take(self) -> bool:
        # Of each, also where one had something.
        took = [intake.take() for intake in self._each]
        return any(took)
