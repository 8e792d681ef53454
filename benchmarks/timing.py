"""Timing: contestants take turns in short rounds, so that a busy or slowing machine is unfair to nobody."""

import asyncio
import gc
import itertools
import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Pace", "Sample", "asynchronous", "difference", "measure", "synchronous"]

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
    def median(self) -> float:
        return statistics.median(self.rounds)


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
    """By how much `one` is slower, in nanoseconds, and the noise of that: the median over the rounds, and 95 % around it."""
    pairs = [a - b for a, b in zip(one.rounds, other.rounds, strict=True)]
    return statistics.median(pairs), _noise(pairs)


def _noise(values: Sequence[float]) -> float:
    if len(values) < 4:
        return max(values) - min(values)
    low, _, high = statistics.quantiles(values, n=4)
    return float(1.57 * (high - low) / len(values) ** 0.5)
