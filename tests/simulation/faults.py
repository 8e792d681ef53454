"""What goes wrong, and where: a process's line to the store, on which every call is a place to crash, fail or wait."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tests.simulation.kernel import Crash, Kernel, Process

LEASE = 10.0

# How often, at each place, where a story has this fault at all.
WORST = {
    "crash": 0.008,
    "error": 0.010,
    "loss": 0.008,
    "unknown": 0.030,
    "delay": 0.060,
    "freeze": 0.012,
    "stall": 0.300,
    "jump": 0.010,
    "outage": 0.0005,
    "failover": 0.015,
}


class Trouble(Exception):
    """What a store may raise, and no word of it."""


class Weather:
    """Which faults a story has, and how often. Half of them are missing, since they hide each other."""

    def __init__(self, chance: Random, kinds: frozenset[str], always: frozenset[str]) -> None:
        self.fair = False
        self._chance = chance
        self.rates = {
            kind: worst * chance.random()
            for kind, worst in WORST.items()
            if kind in kinds and (chance.random() < 0.5 or kind in always)
        }

    def strikes(self, kind: str) -> bool:
        return not self.fair and self._chance.random() < self.rates.get(kind, 0.0)


@dataclass(frozen=True)
class Call:
    """One verb that was asked for, and when."""

    verb: str
    arguments: tuple
    result: object
    began: float
    ended: float


@dataclass
class Record:
    """One transaction of a process, as it was asked for."""

    process: Process
    calls: list[Call] = field(default_factory=list)

    def of(self, verb: str) -> list[Call]:
        return [call for call in self.calls if call.verb == verb]


class Line:
    """The store as one process has it."""

    def __init__(self, world, process: Process, store) -> None:
        self.world = world
        self.process = process
        self.store = store
        self.epoch = world.ground.epoch

    @property
    def divides(self) -> bool:
        return self.store.divides

    @contextmanager
    def begin(self, *, readonly: bool = False):
        ground, faults = self.world.ground, self.world.faults
        faults.at(self, "begin")
        if self.epoch != ground.epoch:
            # The connections of the pool broke while nobody used them.
            self.epoch = ground.epoch
            raise ground.lost(self.store)
        epoch = self.epoch
        with ground.turn(self.world.kernel, readonly=readonly):
            with self.store.begin(readonly=readonly) as transaction:
                record = Record(self.process)
                yield Verbs(self, transaction, record)
                faults.at(self, "commit")
                # Not the line's, which another thread of the process may have brought up to date meanwhile.
                if ground.epoch != epoch:
                    self.epoch = ground.epoch
                    raise ground.lost(self.store)
            self.world.truth.committed(record)
        faults.committed(self)

    def join(self, connection):
        return self.store.join(connection)

    def close(self) -> None:
        """The ground closes what is open."""


class Verbs:
    """A transaction that remembers what was asked of it."""

    def __init__(self, line: Line, transaction, record: Record) -> None:
        self._line = line
        self._transaction = transaction
        self._record = record

    def __getattr__(self, name: str):
        return partial(self._call, name)

    def _call(self, name: str, *arguments, **options):
        self._line.world.faults.within(self._line)
        kernel = self._line.world.kernel
        began = kernel.now
        with kernel.asking(name):
            result = getattr(self._transaction, name)(*arguments, **options)
        call = Call(name, (*arguments, *options.values()), result, began, kernel.now)
        self._record.calls.append(call)
        return result


class Faults:
    """Strikes at the places that a line names."""

    def __init__(self, world, kernel: Kernel, weather: Weather) -> None:
        self._world = world
        self._kernel = kernel
        self._chance = kernel.chance
        self.weather = weather
        self._back = 0.0

    def at(self, line: Line, place: str) -> None:
        """Before a transaction, or before its commit."""
        self._kernel.deeds += 1
        self._kernel.pause()
        self._strike(line, place)
        if self._kernel.now < self._back and not self.weather.fair:
            raise self._world.ground.lost(line.store)

    def within(self, line: Line) -> None:
        """Before one verb."""
        if self._world.ground.switches_within or self._chance.random() < 0.1:
            self._kernel.pause()
        self._strike(line, "verb")

    def between(self, statement: str) -> None:
        """Between two statements of a verb."""
        verb, process = self._kernel.verb, self._kernel.process
        if self._chance.random() < 0.35:
            self._kernel.pause(self._chance.random() ** 4)
        # As a settle moves its cursor, a lease that was lost a moment ago does most harm.
        moves = verb == "settle" and statement.startswith("UPDATE earnorm_cursor")
        if process is not None and moves and self.weather.strikes("stall"):
            self._freeze(process, "statement")

    def committed(self, line: Line) -> None:
        """After a commit of which the process knows nothing yet."""
        if self.weather.strikes("crash"):
            self.crash(line.process, "after the commit")
        if self.weather.strikes("unknown"):
            self._kernel.tell(line.process, "is told of a lost connection, after the commit")
            raise self._world.ground.lost(line.store)

    def handling(self, process: Process) -> None:
        """Amid a handler."""
        if process.dead:
            # On a loop, whose other handlers go on to where they wait next.
            raise Crash
        self._kernel.deeds += 1
        if self.weather.strikes("crash"):
            self.crash(process, "in a handler")

    def _strike(self, line: Line, place: str) -> None:
        process, strikes = line.process, self.weather.strikes
        if strikes("crash"):
            self.crash(process, f"before a {place}")
        if strikes("freeze"):
            self._freeze(process, place)
        if strikes("delay"):
            self._kernel.pause(self._seconds(place))
        if strikes("jump"):
            process.skew += self._chance.uniform(-3600.0, 3600.0)
            self._kernel.tell(process, f"has its clock wrong by {process.skew:.0f} s")
        if strikes("outage"):
            self._back = self._kernel.now + 300.0 * self._chance.random() ** 2
            self._world.ground.epoch += 1
            self._kernel.tell(None, f"the store is away until {self._back:.2f} s")
        if strikes("failover"):
            self._world.ground.fail_over(self._chance, self._world.truth, self._kernel)
        if strikes("error"):
            raise Trouble(f"the store failed, before a {place}")
        if strikes("loss"):
            raise self._world.ground.lost(line.store)

    def _freeze(self, process: Process, place: str) -> None:
        process.frozen = self._kernel.now + self._chance.uniform(1.0, 6.0) * LEASE
        self._kernel.tell(process, f"stands still, before a {place}")
        self._kernel.pause()

    def _seconds(self, place: str) -> float:
        """Mostly short; up to ten minutes, where nobody waits behind it."""
        longest = 600.0 if place == "begin" else 20.0
        return longest * self._chance.random() ** 8

    def crash(self, process: Process, where: str) -> None:
        self._kernel.tell(process, "crashes", where)
        process.dead = True
        raise Crash
