"""Backoff: how long to wait after a failed attempt, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait after attempt n is `first * factor ** (n - 1)` seconds, `longest` at most, before jitter.

    Jitter only lengthens: a wait of 10 s with jitter 0.1 is between 10 and 11 s, so nothing runs
    earlier than promised. As it stands, 16 attempts take 23 hours: about a day to notice.
    """

    attempts: int = 16
    first: float = 5.0
    factor: float = 2.0
    longest: float = 21_600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise ValueError(f"attempts={attempts!r}: expected a whole number of at least 1; 1 means no retry")
        self._check("first", 0.0)
        self._check("factor", 1.0)
        self._check("longest", 0.0)
        self._check("jitter", 0.0)
        if self.longest < self.first:
            raise ValueError(f"longest={self.longest!r} is shorter than first={self.first!r}; raise longest to it")

    def wait(self, attempt: int, chance: float) -> float:
        """Seconds to wait after `attempt` (the first is 1) failed; `chance` in [0, 1) chooses the jitter."""
        if attempt < 1:
            raise ValueError(f"attempt={attempt!r}: the first attempt is 1")
        if not 0.0 <= chance < 1.0:
            raise ValueError(f"chance={chance!r}: expected a number in [0, 1), such as random.random()")
        return self._plain(attempt) * (1.0 + self.jitter * chance)

    def exhausted(self, attempt: int) -> bool:
        """Whether `attempt` was the last one."""
        return attempt >= self.attempts

    def _plain(self, attempt: int) -> float:
        try:
            return min(self.first * self.factor ** (attempt - 1), self.longest)
        except OverflowError:  # past 1e308: longer than any longest
            return self.longest if self.first else 0.0

    def _check(self, name: str, least: float) -> None:
        value: object = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value) or value < least:
            raise ValueError(f"{name}={value!r}: expected a finite number of at least {least:g}")
