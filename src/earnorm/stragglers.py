"""Stragglers: deliveries that take long, and run on while the rest of their window is settled without them.

Each is set aside as a row that says who runs it. Nobody else runs that while its worker lives, later events of its
record wait behind it, and its outcome is settled by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from msgspec import structs

from earnorm.batch import Batch
from earnorm.delivery import Delivery, Outcome
from earnorm.store import Settlement, Store

__all__ = ["Straggler", "Stragglers", "reopen_astray"]

# Seconds that a delivery may keep its window waiting.
_LONG = 5.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """One of them: where it runs, and its row in the store."""

    batch: Batch
    lane: int
    index: int
    row: Delivery

    @property
    def outcomes(self) -> list[Outcome] | None:
        """None while it runs; empty if it was stopped, which is no attempt."""
        outcome = self.batch.outcome(self.lane, self.index)
        if outcome is not None:
            return [outcome]
        return [] if self.batch.finished else None


class Stragglers:
    """Those of one worker, `most` of them at once. `wake` is called when one may have ended."""

    def __init__(self, most: int, wake: Callable[[], object]) -> None:
        self._most = most
        self._wake = wake
        self._all: list[Straggler] = []

    def __len__(self) -> int:
        return len(self._all)

    def ended(self) -> list[Straggler]:
        return [straggler for straggler in self._all if straggler.outcomes is not None]

    def rows(self) -> set[int]:
        return {straggler.row.id for straggler in self._all}

    def drop(self, straggler: Straggler) -> None:
        """It is settled, or somebody else's."""
        self._all.remove(straggler)

    def batches(self) -> set[Batch]:
        return {straggler.batch for straggler in self._all}

    def clear(self) -> None:
        self._all.clear()

    def found(self, batch: Batch, since: dict[tuple[int, int], float], now: float) -> bool:
        """Whether all that still runs in the batch has done so for long. `since` is what was seen before, by now."""
        running = set(batch.running.items())
        for gone in since.keys() - running:
            del since[gone]
        for new in running - since.keys():
            since[new] = now
        if not running or len(self) + len(running) > self._most:
            return False
        return all(now - began >= _LONG for began in since.values())

    def add(self, batch: Batch, apart: Mapping[int, int], rows: Sequence[Delivery]) -> None:
        """They were set aside: `rows` are all that this worker runs by itself, `apart` which those are, by lane."""
        by_event = {(row.subscription, row.entry.id): row for row in rows}
        for lane, index in apart.items():
            delivery = batch.lanes[lane][index]
            row = by_event.get((delivery.subscription, delivery.entry.id))
            if row is not None:
                self._all.append(Straggler(batch, lane, index, row))
        batch.on_note = self._wake
        # One that ended meanwhile told nobody.
        self._wake()


def reopen_astray(store: Store, worker: str, known: Collection[int]) -> None:
    """What a batch set aside to run on at this worker, which was written down though the worker was told it was not."""
    with store.begin() as transaction:
        astray = [row for row in transaction.running(worker) if row.id not in known]
        if astray:
            again = [structs.replace(row, worker="") for row in astray]
            transaction.settle(Settlement(worker=worker, rescheduled=again, running=[row.id for row in astray]))
