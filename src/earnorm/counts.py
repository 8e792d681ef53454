"""Counts: how many deliveries ended in which outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from earnorm.batch import ALL_DONE
from earnorm.delivery import Dead, Done, Outcome, Retry, Skipped

__all__ = ["Counts"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many deliveries ended in which outcome."""

    done: int = 0
    retry: int = 0
    dead: int = 0
    skipped: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Counts:
        kinds = Counter(map(type, outcomes))
        return cls(kinds[Done], kinds[Retry], kinds[Dead], kinds[Skipped])

    @classmethod
    def of_lanes(cls, outcomes: Sequence[Sequence[Outcome]]) -> Counts:
        """Of what each lane came to: mostly the same, of thousands."""
        if outcomes.count(ALL_DONE) == len(outcomes):
            return cls(done=len(outcomes))
        return cls.of(chain.from_iterable(outcomes))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(mine - theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def _tuple(self) -> tuple[int, int, int, int]:
        return self.done, self.retry, self.dead, self.skipped

    def as_dict(self) -> dict[str, int]:
        return {"done": self.done, "retry": self.retry, "dead": self.dead, "skipped": self.skipped}
