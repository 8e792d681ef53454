"""Emitting in memory: beside a bare Python loop over the same functions, and beside what other libraries do."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import (
    Peer,
    Thing,
    awaited_peers,
    clocks,
    functions,
    keyword_peers,
    object_peers,
    stop_peers,
)
from benchmarks.report import Row
from benchmarks.timing import Clocked, Pace, asynchronous, measure, synchronous
from earnorm import EventBus, event_type

__all__ = ["independence", "memory", "registration"]

IN_MEMORY = "Emitting in memory, as a multiple of a bare loop"
REGISTRATION = "Registering handlers"
NAME = "thing.done"


@event_type("placed.done")
@dataclass(slots=True)
class Placed:
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Case:
    """One way to emit. `bare` and `ours` are statements; the bare loop is a function, as one would write it."""

    what: str
    signature: str
    loop: str
    bare: str
    ours: str
    targets: dict[int, float]
    event: Any = NAME
    peers: Callable[[], list[Peer]] | None = None
    given: tuple[str, ...] = ()
    awaited: bool = False


CASES = (
    Case(
        "emit(name, thing)",
        "thing",
        "def bare(thing):\n    for h in handlers: h(thing)",
        "bare(thing)",
        "emit('thing.done', thing)",
        {0: 3.5, 1: 2.4, 5: 1.4, 20: 1.1},
        peers=object_peers,
    ),
    Case(
        "emit(placed), a declared event",
        "placed",
        "def bare(placed):\n    for h in handlers: h(placed)",
        "bare(placed)",
        "emit(placed)",
        {0: 3.0, 1: 2.2, 5: 1.35, 20: 1.1},
        event=Placed,
    ),
    Case(
        "emit(Placed(a=1, b=2)), handlers take its fields",
        "placed, a, b",
        "def bare(placed):\n    for h in handlers: h(placed, placed.a, placed.b)",
        "bare(Placed(a=1, b=2))",
        "emit(Placed(a=1, b=2))",
        {1: 1.9, 5: 1.15},
        event=Placed,
    ),
    Case(
        "emit(name, thing, a=1, b=2), handlers take a and b",
        "thing, a, b",
        "def bare(thing, a, b):\n    for h in handlers: h(thing, a, b)",
        "bare(thing, a=1, b=2)",
        "emit('thing.done', thing, a=1, b=2)",
        {1: 4.4, 5: 1.9},
        peers=keyword_peers,
        given=(", a, b", ", a=1, b=2"),
    ),
    Case(
        "emit(name, thing), handlers take the event",
        "thing, event",
        "def bare(thing):\n    for h in handlers: h(thing, None)",
        "bare(thing)",
        "emit('thing.done', thing)",
        {1: 3.5, 5: 1.75},
    ),
    Case(
        "await aemit(name, thing), async handlers in order",
        "thing",
        "async def bare(thing):\n    for h in handlers: await h(thing)",
        "bare(thing)",
        "aemit('thing.done', thing)",
        {1: 2.2, 5: 1.35},
        peers=awaited_peers,
        awaited=True,
    ),
)


def memory(pace: Pace) -> Iterator[Row]:
    loop = asyncio.new_event_loop()
    try:
        for case in CASES:
            for count, target in case.targets.items():
                yield _row(case, count, target, pace, loop)
    finally:
        loop.run_until_complete(stop_peers())
        loop.close()


def _row(case: Case, count: int, target: float, pace: Pace, loop: asyncio.AbstractEventLoop) -> Row:
    handlers = functions(count, case.signature, awaited=case.awaited)
    bus = _bus(handlers, case.event)
    names: dict[str, Any] = {"handlers": handlers, "thing": Thing(), "placed": Placed(1, 2), "Placed": Placed}
    names |= {"emit": bus.emit, "aemit": bus.aemit}
    exec(case.loop, names)

    def clocked(statement: str) -> Clocked:
        return asynchronous(statement, names, loop) if case.awaited else synchronous(statement, names)

    wanted = case.peers() if case.peers and count in (1, 5) else []
    ready, missing = clocks(wanted, count, *case.given, loop=loop if case.awaited else None)
    found = measure({"bare": clocked(case.bare), "earnorm": clocked(case.ours), **ready}, pace)
    bare = found["bare"].best
    return Row(
        IN_MEMORY,
        f"{case.what}: {count} handlers" if count != 1 else f"{case.what}: 1 handler",
        found["earnorm"].best / bare,
        target=target,
        raw={name: sample.best for name, sample in found.items()},
        peers={name: found[name].best / bare for name in ready} | missing,
    )


def _bus(handlers: list[Any], event: Any) -> EventBus:
    bus = EventBus("bench")
    for handler in handlers:
        bus.on(event)(handler)
    return bus


# --- whatever else is registered -------------------------------------------------------------


def independence(pace: Pace) -> Iterator[Row]:
    crowds = {
        "100,000 other names": [f"other_{i}.done" for i in range(100_000)],
        "10,000 other wildcards": [f"other_{i}.*" for i in range(10_000)],
    }
    contestants = {"alone": _one_handler(())}
    contestants |= {what: _one_handler(names) for what, names in crowds.items()}
    found = measure(contestants, pace)
    for what in crowds:
        raw = {"alone": found["alone"].best, "crowded": found[what].best}
        ratio = raw["crowded"] / raw["alone"]
        yield Row(IN_MEMORY, f"emit(name, thing): 1 handler, {what} registered", ratio, target=1.05, raw=raw)


def _one_handler(others: Any) -> Clocked:
    bus = _bus(functions(1, "thing"), NAME)
    (other,) = functions(1, "thing")
    for name in others:
        bus.on(name)(other)
    assert len(bus.handlers()) == (2 if others else 1)
    return synchronous("emit('thing.done', thing)", {"emit": bus.emit, "thing": Thing()})


def registration(pace: Pace) -> Iterator[Row]:
    del pace
    yield from _registration("each on a name of its own", 100_000, lambda i: f"other_{i}.done")
    yield from _registration("all on one name", 10_000, lambda _: NAME)


def _registration(what: str, count: int, name: Callable[[int], str]) -> Iterator[Row]:
    handlers, names = functions(count, "thing"), [name(i) for i in range(count)]
    tenth = count // 10
    times = _times(handlers, names, tenth)
    total = sum(times) / count
    yield Row(
        REGISTRATION,
        f"{count:,} handlers, {what}: the last tenth beside the first",
        times[-1] / times[0],
        target=1.5,
        raw={"first tenth": times[0] / tenth * 1e9, "last tenth": times[-1] / tenth * 1e9},
    )
    yield Row(REGISTRATION, f"{count:,} handlers, {what}: each", total * 1e6, "µs", target=15)
    yield Row(REGISTRATION, f"{count:,} handlers, {what}: memory of each", _memory(handlers, names), "kB", target=1)


def _times(handlers: list[Any], names: list[str], tenth: int) -> list[float]:
    """Seconds of CPU time for each tenth, without the collector's walks through all that the tables hold already."""
    bus, times = EventBus("bench"), []
    gc.collect()
    gc.disable()
    try:
        for start in range(0, len(handlers), tenth):
            started = time.process_time()
            for handler, name in zip(handlers[start : start + tenth], names[start : start + tenth], strict=True):
                bus.on(name)(handler)
            times.append(time.process_time() - started)
    finally:
        gc.enable()
    return times


def _memory(handlers: list[Any], names: list[str]) -> float:
    """Kilobytes a handler, its function and its event's name not counted. A tenth is enough to tell: it is linear."""
    some = len(handlers) // 10
    bus = EventBus("bench")
    tracemalloc.start()
    for handler, name in zip(handlers[:some], names[:some], strict=True):
        bus.on(name)(handler)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / some / 1000
