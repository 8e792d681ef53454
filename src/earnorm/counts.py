"""Counts: how many deliveries ended in which outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

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

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(mine - theirs for mine, theirs in zip(self._tuple(), other._tuple(), strict=True)))

    def _tuple(self) -> tuple[int, int, int, int]:
        return self.done, self.retry, self.dead, self.skipped

    def as_dict(self) -> dict[str, int]:
        return {"done": self.done, "retry": self.retry, "dead": self.dead, "skipped": self.skipped}
