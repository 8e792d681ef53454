"""Timing: contestants take turns in short rounds, so that a busy or slowing machine is unfair to nobody."""

import asyncio
import gc
import itertools
import math
import statistics
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Cast", "Clocked", "Pace", "Sample", "asynchronous", "difference", "measure", "synchronous"]

# Seconds that so many turns of a statement take.
Clocked = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to look: rounds, how long one contestant's turn in a round should take, in how many processes each."""

    rounds: int
    seconds: float
    processes: int = 1


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
        return _notch(self._quicker)

    @property
    def _quicker(self) -> list[float]:
        return sorted(self.rounds)[: max(2, len(self.rounds) // 2)]


@dataclass(frozen=True, slots=True)
class Cast:
    """One contestant in several processes, one after the other: nanoseconds per operation, a value a process.

    Where its memory happens to lie makes a process slower or quicker for all its life, by more than what a hook adds:
    rounds in one process can agree to the microsecond and still say nothing.
    """

    processes: tuple[float, ...]

    @property
    def typical(self) -> float:
        return statistics.median(self.processes)

    @property
    def noise(self) -> float:
        """How far off `typical` may be (95 %)."""
        return _notch(list(self.processes))

    def beside(self, other: "Cast") -> tuple[float, float]:
        """By how much this one is slower, in nanoseconds, and the noise of that (95 %).

        Processes that ran side by side are compared: what else the machine did then, it did to both.
        """
        differences = [mine - theirs for mine, theirs in zip(self.processes, other.processes, strict=True)]
        return statistics.median(differences), _notch(differences)


def _notch(values: list[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4)
    return 1.57 * (high - low) / math.sqrt(len(values))


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
