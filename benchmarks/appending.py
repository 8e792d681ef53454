"""Appending: events written in bulk beside a hand-written statement, and by many writers beside none, on PostgreSQL."""

from collections.abc import Iterator

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.servers import targets

__all__ = ["appending"]

SECTION = "Appending on PostgreSQL"
BULK = 10_000

# What is measured beside what, how many at once, and how many times as long it may take.
COMPARED = {
    "10,000 events in one transaction, beside one INSERT … unnest by hand": ("emitted", "unnested", BULK, 2.0),
    "16 writers, a row and its event a commit, beside the row alone": ("rows_and_events", "rows", 320, 1.25),
    "the same with a worker beside, beside the row alone": ("beside_a_worker", "rows", 320, None),
}
# What can be had at all: a row more in each of these transactions, and nothing that makes it a log.
LIMIT = {"rows": ("rows_and_inserts", "a bare INSERT by hand")}


def appending(rounds: int) -> Iterator[Row]:
    counts = {name: count for ours, plain, count, _ in COMPARED.values() for name in (ours, plain)}
    counts |= {limit: counts[plain] for plain, (limit, _) in LIMIT.items()}
    names = sorted(counts)
    with targets("PostgreSQL", names) as urls:
        if isinstance(urls, str):
            yield Row(SECTION, "PostgreSQL", 0, remark=urls)
            return
        with running(urls, "benchmarks.writing") as (ready, _missing):
            found: dict[str, float] = {}
            # The first is for warming up.
            for number in range(rounds + 1):
                for name in names:
                    took = ready[name](counts[name]) / counts[name] * 1e9
                    found[name] = min(found.get(name, took), took) if number else took
    for what, (ours, plain, _, target) in COMPARED.items():
        raw = {"without": found[plain], "earnorm": found[ours]}
        peers: dict[str, float | str] = {}
        if plain in LIMIT:
            limit, by_hand = LIMIT[plain]
            raw[by_hand] = found[limit]
            peers[by_hand] = found[limit] / found[plain]
        yield Row(SECTION, what, found[ours] / found[plain], "x", target, None, raw, peers, gross_at=20.0)
