"""Backoff: how long to wait after a failed attempt, and when to give up; for all errors alike, or by their class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from earnorm.durations import Duration, seconds_of
from earnorm.errors import Discard, InvalidDuration, StopPropagation

__all__ = ["Backoff", "RetryRules"]


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """The wait after attempt n is `first * factor ** (n - 1)` seconds, `longest` at most, before jitter.

    Jitter only lengthens: a wait of 10 s with jitter 0.1 is between 10 and 11 s, so nothing runs
    earlier than promised. As it stands, 16 attempts take 23 hours: about a day to notice.
    `first` and `longest` may be written as durations: `Backoff(attempts=5, first="1m", longest="1h")`.
    """

    attempts: int = 16
    first: float = 5.0
    factor: float = 2.0
    longest: float = 21_600.0
    jitter: float = 0.1

    def __init__(
        self,
        attempts: int = 16,
        first: Duration = 5.0,
        factor: float = 2.0,
        longest: Duration = 21_600.0,
        jitter: float = 0.1,
    ) -> None:
        _check_attempts(attempts)
        _check_number("factor", factor, 1.0)
        _check_number("jitter", jitter, 0.0)
        chosen = (attempts, _duration("first", first), factor, _duration("longest", longest), jitter)
        for name, value in zip(self.__slots__, chosen, strict=True):
            object.__setattr__(self, name, value)
        if self.longest < self.first:
            raise ValueError(f"longest={longest!r} is shorter than first={first!r}; raise longest to it")

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


@dataclass(frozen=True, slots=True, repr=False)
class RetryRules:
    """What a handler's `retry=` comes to: a backoff by class of error. Of several the most specific class decides.

    Errors of no named class are retried as the worker does by itself. `given` is what was written there.
    """

    by_class: tuple[tuple[type[BaseException], Backoff], ...]
    given: object = field(compare=False)

    def __repr__(self) -> str:
        return repr(self.given)

    @classmethod
    def parse(cls, given: object) -> RetryRules:
        """Of a Backoff, a number of attempts, False for none but the first, or a mapping from classes to any of these.

        Raises ValueError.
        """
        if isinstance(given, Mapping):
            return cls(tuple(_named(given)), dict(given))
        return cls(((BaseException, _backoff(given)),), given)

    def backoff(self, error: type[BaseException], otherwise: Backoff) -> Backoff:
        """The one for errors of this class."""
        named = self.named(error)
        return otherwise if named is None else dict(self.by_class)[named]

    def named(self, error: type[BaseException]) -> type[BaseException] | None:
        """The class that decides for errors of this one, if any does."""
        by_class = dict(self.by_class)
        return next((cls for cls in error.__mro__ if cls in by_class), None)


def _named(given: Mapping[Any, Any]) -> Iterator[tuple[type[BaseException], Backoff]]:
    if not given:
        raise ValueError("the mapping is empty")
    for cls, value in given.items():
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise ValueError(f"{cls!r} is no class of errors")  # noqa: TRY004  as for every other wrong value
        if issubclass(cls, (Discard, StopPropagation)):
            words = f"{cls.__name__} ends a delivery, which is not tried again whatever stands here"
            raise ValueError(words)  # noqa: TRY004  as above
        yield cls, _backoff(value)


def _backoff(value: object) -> Backoff:
    if isinstance(value, Backoff):
        return value
    if value is False:
        return Backoff(attempts=1)
    _check_attempts(value)
    assert isinstance(value, int)
    return Backoff(attempts=value)


def _duration(name: str, value: object) -> float:
    try:
        return seconds_of(value)
    except InvalidDuration as error:
        raise ValueError(f"{name}={error}") from None


def _check_attempts(attempts: object) -> None:
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise ValueError(f"attempts={attempts!r}: expected a whole number of at least 1; 1 means no retry")


def _check_number(name: str, value: object, least: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value) or value < least:
        raise ValueError(f"{name}={value!r}: expected a finite number of at least {least:g}")
