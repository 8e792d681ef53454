"""Delivery: a backlog worked off, beside raw loops and other queues, on SQLite and PostgreSQL."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.servers import KINDS, targets
from benchmarks.timing import Clocked

__all__ = ["Size", "delivery"]

SECTION = "Delivering a backlog, handlers that do nothing: time an event"


@dataclass(frozen=True, slots=True)
class Size:
    """How many events a backlog has, those of the slowest peers, and how often each is worked off.

    What has a target is given the `whole`, which two workers also share: of a smaller one much of the time is that of
    the first small looks, of sharing it out, and of seeing that it is done.
    """

    events: int
    slow: int
    rounds: int
    whole: int = 100_000


# Who reads the log and no more, and who decodes the data as well, as whoever hands it to a handler has to.
RAW = {"SQLite": "raw_sqlite", "PostgreSQL": "raw"}
DECODING = {"SQLite": "decoding_sqlite", "PostgreSQL": "decoding"}
# On SQLite one worker works at a time.
PEERS = {"SQLite": ["huey"], "PostgreSQL": ["raw_queue", "pgqueuer", "procrastinate"]}
# One and two workers; and one and two processes that read the log and no more, to see what the machine has to give.
SHARING = ["one", "two", "reader", "two_readers"]
# Those with a target, and what they are measured by.
WHOLE = {*RAW.values(), *DECODING.values(), "ours", "payload"}
# Peers of which fewer are measured: they take their time.
SLOW = {"huey", "pgqueuer", "procrastinate"}
NAMES = {"raw_queue": "raw SKIP LOCKED queue"}

# Beside the raw reader of the log; None: printed for its own sake.
OURS: dict[str, tuple[str, float | None]] = {
    "ours": ("async handler", 2.0),
    "payload": ("async handler that takes its payload", None),
    "hydrated": ("async handler with its record", None),
    "threads": ("plain handler, in threads", None),
    "transactional": ("transactional async handler", None),
    "booking": ("transactional plain handler that writes a row", None),
    "failing": ("async handler, one in a hundred fails", None),
}
# Beside one worker, and beside the best peer.
TWO_WORKERS = 1 / 1.6
BESIDE = {"SQLite": ("huey", 0.1), "PostgreSQL": ("pgqueuer", 0.2)}
# What fails a run is a step far back from where it stands.
GROSS = 40.0


def delivery(size: Size) -> Iterator[Row]:
    for kind in KINDS:
        names = [RAW[kind], DECODING[kind], *OURS, *PEERS[kind]]
        with targets(kind, names) as urls:
            if isinstance(urls, str):
                yield Row(SECTION, kind, 0, remark=urls)
                continue
            with running(urls, "benchmarks.delivering") as (ready, missing):
                found = _measure(ready, {name: _count(name, size) for name in ready}, size.rounds)
            yield from _rows(kind, found, missing)
    yield from _sharing(size)


def _count(name: str, size: Size) -> int:
    if name in SLOW:
        return size.slow
    return size.whole if name in WHOLE else size.events


def _measure(contestants: Mapping[str, Clocked], counts: Mapping[str, int], rounds: int) -> dict[str, float]:
    """Nanoseconds an event, the best of some rounds, in which everybody has a turn."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, count in counts.items():
            took = contestants[name](count) / count * 1e9
            found[name] = min(found.get(name, took), took)
    return found


def _rows(kind: str, found: Mapping[str, float], missing: Mapping[str, str]) -> Iterator[Row]:
    raw = found[RAW[kind]]
    peers: dict[str, float | str] = {
        NAMES.get(name, name): found[name] / raw if name in found else missing[name] for name in PEERS[kind]
    }
    for name, (what, target) in OURS.items():
        times = {"raw reader": raw, "earnorm": found[name]}
        beside = peers if name == "ours" else {}
        rate = f"{1e9 / found[name]:,.0f} events a second"
        title = f"{kind}: {what}, beside a raw reader of the log"
        yield Row(SECTION, title, found[name] / raw, "x", target, None, times, beside, rate, gross_at=GROSS)
    decoding, payload = found[DECODING[kind]], found["payload"]
    times = {"raw reader that decodes": decoding, "earnorm": payload}
    title = f"{kind}: async handler that takes its payload, beside a raw reader that decodes it"
    yield Row(SECTION, title, payload / decoding, "x", 2.0, None, times, gross_at=GROSS)
    peer, target = BESIDE[kind]
    if peer in found:
        times = {peer: found[peer], "earnorm": found["ours"]}
        rate = f"{1e9 / found[peer]:,.0f} a second by {peer}"
        title = f"{kind}: async handler, beside {peer}"
        yield Row(SECTION, title, found["ours"] / found[peer], "x", target, None, times, remark=rate, gross_at=GROSS)


def _sharing(size: Size) -> Iterator[Row]:
    """Two workers beside one; and beside them what two raw readers reach, which is all that could be."""
    with targets("PostgreSQL", SHARING) as urls:
        if isinstance(urls, str):
            return
        with running(urls, "benchmarks.sharing") as (ready, _missing):
            for count, target in {size.events: None, size.whole: TWO_WORKERS}.items():
                found = _measure(ready, dict.fromkeys(SHARING, count), max(size.rounds, 2))
                peers: dict[str, float | str] = {"two readers, beside one": found["two_readers"] / found["reader"]}
                title = f"PostgreSQL: two workers, beside one, on a backlog of {count:,}"
                ratio = found["two"] / found["one"]
                yield Row(SECTION, title, ratio, "x", target, None, found, peers, gross_at=GROSS)
