"""Growth: what delivering an event costs in large databases, beside an empty one, and how much memory a worker has."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.servers import KINDS, targets

__all__ = ["Growth", "growth"]

SECTION = "Delivering from a large database, beside an empty one: time an event"


@dataclass(frozen=True, slots=True)
class Growth:
    """How large it becomes each way, how many events are delivered there, and how often."""

    history: int
    aside: int
    behind: int
    snapshot: int
    events: int
    rounds: int


MEMORY = 300.0
# What fails a run is a step far back from the target.
GROSS = 10.0


def growth(size: Growth) -> Iterator[Row]:
    ways = {
        f"history:{size.history}": f"{size.history:,} events of history",
        f"aside:{size.aside}": f"{size.aside:,} deliveries set aside",
        f"behind:{size.behind}": f"a backlog of {size.behind:,}",
        f"snapshot:{size.snapshot}": f"behind a snapshot open for {size.snapshot:,} events",
    }
    many, few = "subscriptions:1000", "subscriptions:10"
    for kind in KINDS:
        with targets(kind, ["plain:0", *ways, few, many]) as urls:
            if isinstance(urls, str):
                yield Row(SECTION, kind, 0, remark=urls)
                continue
            with running(urls, "benchmarks.growing") as (ready, _missing):
                found: dict[str, float] = {}
                for turn in range(size.rounds):
                    for name, clocked in ready.items():
                        long = name.startswith("behind")
                        if long and turn:
                            continue
                        count = size.behind if long else size.events
                        took = clocked(count) / count * 1e9
                        found[name] = min(found.get(name, took), took)
                memory = {name: clocked(0) for name, clocked in ready.items()}
        for name, what in ways.items():
            raw = {"empty": found["plain:0"], "large": found[name]}
            ratio = found[name] / found["plain:0"]
            yield Row(SECTION, f"{kind}: {what}", ratio, "x", 1.5, None, raw, gross_at=GROSS)
        ratio, raw = found[many] / found[few], {"ten": found[few], "a thousand": found[many]}
        yield Row(SECTION, f"{kind}: 1,000 subscriptions, beside ten", ratio, "x", 2.0, None, raw, gross_at=GROSS)
        most = max(memory.values())
        yield Row(SECTION, f"{kind}: memory of a worker, the most of these", most, "MB", MEMORY, gross_at=2 * MEMORY)
