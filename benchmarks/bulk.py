"""Bulk writes: what events add to a statement that writes 10,000 rows, in per cent of the same without EarnORM."""

from collections.abc import Iterator, Mapping

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.servers import KINDS, targets
from benchmarks.timing import Pace, Sample, difference, measure

__all__ = ["bulk"]

SECTION = "Bulk writes of 10,000 rows"
WRITES = {
    "insert": ("bulk insert", 25.0),
    "update_by_key": ("bulk update by primary key", 50.0),
    "update": ("bulk update by one statement", 50.0),
}
WAYS = {
    "unheard": "nobody listens",
    "log": "an event in the log for each row",
    "batch": "one event in the log for the statement",
}
BY_HAND = "a bare INSERT of as many rows into the log, ready made"
# What fails a run is a step back from where it stands: rows of a log are rows, and an UPDATE alone writes none.
GROSS = {"unheard": 100.0, "log": 6_000.0, "batch": 100.0}


def bulk(pace: Pace) -> Iterator[Row]:
    for kind in KINDS:
        for verb, (what, target) in WRITES.items():
            names = [f"bulk_{verb}_{way}" for way in ("plain", *WAYS, "by_hand")]
            with targets(kind, names) as urls:
                if isinstance(urls, str):
                    yield Row(SECTION, kind, 0, remark=urls)
                    break
                with running(urls, "benchmarks.bulk_writing") as (ready, _missing):
                    found = measure(ready, pace)
            yield from _rows(f"{kind}: {what}", found, verb, target)


def _rows(title: str, found: Mapping[str, Sample], verb: str, target: float) -> Iterator[Row]:
    plain = found[f"bulk_{verb}_plain"]
    for way, said in (*WAYS.items(), ("by_hand", BY_HAND)):
        ours = found[f"bulk_{verb}_{way}"]
        added, noise = difference(ours, plain)
        scale = 100 / plain.typical
        raw = {"plain SQLAlchemy": plain.typical, "earnorm" if way in WAYS else "with it": ours.typical}
        aim, gross = (target, GROSS[way]) if way in WAYS else (None, None)
        yield Row(SECTION, f"{title}: {said}", added * scale, "%", aim, noise * scale, raw, gross_at=gross)
