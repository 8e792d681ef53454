"""Databases: what keeping events costs beside their rows, and reading through models, on SQLite and PostgreSQL."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.servers import schema
from benchmarks.timing import Pace, measure

__all__ = ["databases"]

SECTION = "Rows with their events, and reading, as users run them (commits wait for the disk)"

# What is measured beside what, and how many times as long it may take on each.
COMPARED: dict[str, tuple[str, str, dict[str, float]]] = {
    "a row and its event, beside the row alone": ("row_and_event", "row_alone", {"SQLite": 1.25, "PostgreSQL": 1.18}),
    "a row and a bare INSERT as large as its event, beside the row alone": ("row_and_insert", "row_alone", {}),
    "100 rows and their events in a transaction, beside the rows alone": (
        "hundred_rows_and_events",
        "hundred_rows_alone",
        {"SQLite": 1.54, "PostgreSQL": 1.54},
    ),
    "100 rows and a bare INSERT as large as their events, beside the rows alone": (
        "hundred_rows_and_insert",
        "hundred_rows_alone",
        {},
    ),
    "Model.get(key), beside session.get": ("earnorm_get", "plain_get", {"SQLite": 1.05, "PostgreSQL": 1.05}),
    "Model.find(...), 20 rows, beside a select": ("earnorm_find", "plain_find", {"SQLite": 1.05, "PostgreSQL": 1.05}),
}


def databases(pace: Pace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _compared("SQLite", pace, lambda name: f"sqlite:///{Path(folder) / name}.db")
    with ExitStack() as stack:
        try:
            yield from _compared("PostgreSQL", pace, lambda _: stack.enter_context(schema()))
        except OSError as error:
            yield Row(SECTION, "PostgreSQL", 0, remark=f"{error}; start it with: make services SERVICES=postgresql")


def _compared(database: str, pace: Pace, url: Callable[[str], str]) -> Iterator[Row]:
    names = dict.fromkeys(name for ours, plain, _ in COMPARED.values() for name in (plain, ours))
    targets = {name: url(name) for name in names}
    with running(targets, "benchmarks.keeping") as (ready, _):
        found = measure(ready, pace)
    for what, (ours, plain, target) in COMPARED.items():
        ratio = found[ours].typical / found[plain].typical
        measured = "earnorm" if target else "with the INSERT"
        raw = {"SQLAlchemy": found[plain].typical, measured: found[ours].typical}
        # Most targets are missed today, as the page says; what fails a run is a step far back from there.
        yield Row(SECTION, f"{database}: {what}", ratio, target=target.get(database), raw=raw, gross_at=4.0)
