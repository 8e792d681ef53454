"""Bulk writes: what events add to a statement that writes 10,000 rows, in per cent of the same without EarnORM."""

import tempfile
from collections.abc import Iterator

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.timing import Pace, difference, measure

__all__ = ["bulk"]

WRITES = {"insert": ("bulk insert", 25.0), "update": ("bulk update by one statement", 50.0)}
WAYS = {
    "unheard": "nobody listens",
    "log": "an event in the log for each row",
    "batch": "one event in the log for the statement",
}
# What fails a run is a step back from where it stands: rows of a log are rows, and an UPDATE alone writes none.
GROSS = {"unheard": 100.0, "log": 15_000.0, "batch": 100.0}


def bulk(pace: Pace) -> Iterator[Row]:
    for verb, (what, target) in WRITES.items():
        names = [f"bulk_{verb}_{way}" for way in ("plain", *WAYS)]
        with (
            tempfile.TemporaryDirectory() as folder,
            running(dict.fromkeys(names, folder), "benchmarks.bulk_writing") as (ready, _missing),
        ):
            found = measure(ready, pace)
        plain = found[names[0]]
        for way, said in WAYS.items():
            ours = found[f"bulk_{verb}_{way}"]
            added, noise = difference(ours, plain)
            scale = 100 / plain.typical
            raw = {"plain SQLAlchemy": plain.typical, "earnorm": ours.typical}
            title = f"{what} of 10,000 rows: {said}"
            yield Row("Bulk writes", title, added * scale, "%", target, noise * scale, raw, gross_at=GROSS[way])
