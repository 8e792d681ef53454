"""The emits of one transaction: which of them share an idempotency key, and what is told their handles at its end."""

from __future__ import annotations

from collections.abc import Iterable

from earnorm.emission import IdempotencyKey
from earnorm.errors import KeyReused, KeyTaken
from earnorm.handle import Emission
from earnorm.multitude import Happening
from earnorm.occurrence import Occurrence
from earnorm.store import Transaction

__all__ = ["Emissions", "refuse_reuse"]


class Emissions:
    """Of one that was rolled back with a savepoint the fate is known already."""

    def __init__(self) -> None:
        self._all: list[Emission] = []
        self._keyed: dict[tuple[str, str, str], Emission] = {}

    def add(self, emission: Emission) -> None:
        self._all.append(emission)
        if emission.key is not None:
            self._keyed[emission.key.place] = emission

    def under(self, place: tuple[str, str, str]) -> Emission | None:
        """What this very transaction emitted under an idempotency key."""
        found = self._keyed.get(place)
        return found if found is not None and found.fate == "open" else None

    @property
    def are_keyed(self) -> bool:
        """Whether any of them has an idempotency key, so that there is something to reserve."""
        return bool(self._keyed)

    def reserve(self, transaction: Transaction, composed: list[Happening]) -> list[Happening]:
        """Take the keys at the commit; `composed` without events whose key somebody took since they were emitted.

        Raises KeyReused, and KeyTaken where handlers of this transaction have run for such an event.
        """
        keyed = dict(_keyed(composed))
        taken = transaction.reserve(list(keyed))
        if not taken:
            return composed
        for key, occurrence in keyed.items():
            if (first := taken.get(key.event)) is not None:
                _repeat(occurrence, key, first)
        return [happening for happening in composed if not _is_repeated(happening)]

    def commit(self) -> None:
        for emission in self._all:
            if emission.fate == "open":
                emission.fate = "kept"


def refuse_reuse(key: IdempotencyKey, first: IdempotencyKey | None) -> None:
    """Raises KeyReused if the second emit under a key does not say what the first did."""
    if first is not None and key.digest != first.digest:
        raise KeyReused(key.name, key.text, str(first.event))


def _keyed(composed: Iterable[Happening]) -> Iterable[tuple[IdempotencyKey, Occurrence]]:
    for happening in composed:
        emission = happening.emission if isinstance(happening, Occurrence) else None
        if isinstance(happening, Occurrence) and emission is not None and emission.key is not None:
            yield emission.key, happening


def _repeat(occurrence: Occurrence, key: IdempotencyKey, first: IdempotencyKey) -> None:
    refuse_reuse(key, first)
    if occurrence.handlers or occurrence.bubble is not None:
        raise KeyTaken(key.name, key.text, str(first.event))
    assert occurrence.emission is not None
    occurrence.emission.repeat(first.event)


def _is_repeated(happening: Happening) -> bool:
    emission = happening.emission if isinstance(happening, Occurrence) else None
    return emission is not None and emission.first is not None
