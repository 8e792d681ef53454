"""A story of one connection: transactions and savepoints in each other, released and rolled back as a seed decides."""

from __future__ import annotations

from random import Random

import earnorm
from earnorm import connect
from earnorm.testing import isolated
from tests.simulation.truth import Violation


class Undone(Exception):
    """Roll this back."""


class Savepoints:
    """What is told after the commit, and what is in the log, is what was not rolled back, and nothing before it."""

    def __init__(self, seed: object, folder) -> None:
        self.seed = seed
        self.chance = Random(str(seed))
        self._url = f"sqlite:///{folder}/savepoints.db?synchronous=OFF"
        self._heard: list[int] = []
        self._expected: list[int] = []
        self._number = 0

    def tell(self, transactions: int) -> None:
        with isolated(), connect(self._url, worker=False) as db:
            earnorm.event_handler("step.taken", name="heard", delivery="after_commit")(self._hear)
            for _ in range(transactions):
                self._expected += self._transact(db)
                self._require("after a commit", self._heard, self._expected)
            with db.store.begin(readonly=True) as transaction:
                log = transaction.read(0, transaction.horizon(), 1 << 20)
            self._require("in the log", len(log), len(self._expected))

    def _hear(self, event) -> None:
        self._heard.append(event.payload["number"])

    def _require(self, where: str, found: object, expected: object) -> None:
        if found != expected:
            raise Violation(f"{where}: {found}, and {expected} was committed\nEARNORM_SIM_SEED={self.seed}")

    def _transact(self, db) -> list[int]:
        """A transaction or savepoint; the numbers of it that are left."""
        told = len(self._heard)
        try:
            with db.transaction():
                left = self._fill(db)
                self._require("before the commit", len(self._heard), told)
                if self.chance.random() < 0.3:
                    raise Undone
        except Undone:
            return []
        return left

    def _fill(self, db, depth: int = 0) -> list[int]:
        left: list[int] = []
        for _ in range(self.chance.randint(1, 3)):
            if depth < 3 and self.chance.random() < 0.4:
                left += self._nest(db, depth)
            else:
                self._number += 1
                earnorm.emit("step.taken", number=self._number)
                left.append(self._number)
        return left

    def _nest(self, db, depth: int) -> list[int]:
        try:
            with db.transaction():
                left = self._fill(db, depth + 1)
                if self.chance.random() < 0.3:
                    raise Undone
        except Undone:
            return []
        return left
