"""Timing: contestants take turns in short rounds, so that a busy or slowing machine is unfair to nobody."""

import asyncio
import gc
import itertools
import math
import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Pace", "Sample", "asynchronous", "difference", "differences", "measure", "synchronous", "typical"]

# Seconds that so many turns of a statement take.
Clocked = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to look: rounds, and how long one contestant's turn in a round should take."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant's nanoseconds per operation, a value a round."""

    rounds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def typical(self) -> float:
        """The median of the quicker half: what else the machine does only ever adds."""
        return statistics.median(self._quicker)

    @property
    def noise(self) -> float:
        """How far off `typical` may be (the notch of a box plot, about 95 %)."""
        low, _, high = statistics.quantiles(self._quicker, n=4)
        return 1.57 * (high - low) / math.sqrt(len(self._quicker))

    @property
    def _quicker(self) -> list[float]:
        return sorted(self.rounds)[: max(2, len(self.rounds) // 2)]


def synchronous(statement: str, names: Mapping[str, Any]) -> Clocked:
    """`statement` in a loop of timeit's: with the garbage collector off, and no call around it."""
    return timeit.Timer(statement, globals=dict(names)).timeit


_LOOP = """
async def inner(turns, repeat, clock):
    turns = repeat(None, turns)
    started = clock()
    for _ in turns:
        await {statement}
    return clock() - started
"""


def asynchronous(statement: str, names: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> Clocked:
    """The same for what is awaited; the loop's own start and end are outside the clock."""
    space = dict(names)
    exec(_LOOP.format(statement=statement), space)
    inner = space["inner"]

    def clocked(turns: int) -> float:
        gc.collect()
        gc.disable()
        try:
            return loop.run_until_complete(inner(turns, itertools.repeat, time.perf_counter))
        finally:
            gc.enable()

    return clocked


def measure(contestants: Mapping[str, Clocked], pace: Pace) -> dict[str, Sample]:
    """Round after round each contestant has its turn, and every round another one begins."""
    turns = {name: _turns(clocked, pace.seconds) for name, clocked in contestants.items()}
    names = list(contestants)
    rounds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(pace.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(contestants[name](turns[name]) / turns[name] * 1e9)
    return {name: Sample(tuple(values)) for name, values in rounds.items()}


def _turns(clocked: Clocked, seconds: float) -> int:
    """How many turns fill a round; trying it out warms the caches as well."""
    turns = 1
    while True:
        took = min(clocked(turns) for _ in range(2))
        if took >= seconds / 10 or turns >= 10**8:
            return max(1, round(turns * seconds / took))
        turns *= 4


def difference(one: Sample, other: Sample) -> tuple[float, float]:
    """By how much `one` is slower, in nanoseconds, and the noise of that (95 %)."""
    return one.typical - other.typical, math.hypot(one.noise, other.noise)


# How many standard errors hold 95 % of what a mean may be, by the number of values less one (Student's t).
_STUDENT = (math.inf, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def differences(one: Sequence[Sample], other: Sequence[Sample]) -> tuple[float, float]:
    """By how much `one` is slower, in nanoseconds, and the noise of that (95 %); each pair ran in fresh processes.

    Where a process happens to lie in memory costs it as much as a few hooks, so that one pair tells little, however
    long it runs.
    """
    found = [first.typical - second.typical for first, second in zip(one, other, strict=True)]
    if len(found) < 2:
        return found[0], math.inf
    student = _STUDENT[min(len(found) - 1, len(_STUDENT) - 1)]
    return statistics.mean(found), student * statistics.stdev(found) / math.sqrt(len(found))


def typical(samples: Sequence[Sample]) -> float:
    """Of one contestant's processes, on average."""
    return statistics.mean(sample.typical for sample in samples)
