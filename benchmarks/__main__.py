"""`python -m benchmarks`: measure, print the table, and fail on what is far beyond its target."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.appending import appending
from benchmarks.bulk import bulk
from benchmarks.databases import databases
from benchmarks.delivery import Size, delivery
from benchmarks.emit import independence, memory, registration
from benchmarks.growth import Growth, growth
from benchmarks.imports import imports
from benchmarks.latency import Span, latency
from benchmarks.report import Row
from benchmarks.saves import models, saves
from benchmarks.timing import Pace

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"
PACED: dict[str, Callable[[Pace], Iterator[Row]]] = {
    "memory": memory,
    "independence": independence,
    "registration": registration,
    "models": models,
    "saves": saves,
    "databases": databases,
    "bulk": bulk,
    "imports": imports,
}
# Those that count events rather than seconds: in full, and in short.
COUNTED: dict[str, tuple[Callable[[], Iterator[Row]], Callable[[], Iterator[Row]]]] = {
    "appending": (lambda: appending(6), lambda: appending(2)),
    "delivery": (
        lambda: delivery(Size(events=100_000, slow=5_000, rounds=2)),
        lambda: delivery(Size(events=10_000, slow=300, rounds=1)),
    ),
    "latency": (
        lambda: latency(Span(events=100, rounds=6, idle=15)),
        lambda: latency(Span(events=40, rounds=1, idle=4)),
    ),
    "growth": (
        lambda: growth(Growth(5_000_000, 1_000_000, 3_000_000, 160_000, events=10_000, rounds=3)),
        lambda: growth(Growth(20_000, 5_000, 10_000, 4_000, events=2_000, rounds=2)),
    ),
}
PARTS = [*PACED, *COUNTED]
FULL = Pace(rounds=25, seconds=0.02)
SHORT = Pace(rounds=7, seconds=0.004)
# Saves are longer and noisier, and their differences smaller than those between two processes of one program.
SAVES_FULL = Pace(rounds=12, seconds=0.01, processes=24)
SAVES_SHORT = Pace(rounds=6, seconds=0.005, processes=2)
# A turn waits for the disk.
DATABASES_FULL = Pace(rounds=40, seconds=0.15)
DATABASES_SHORT = Pace(rounds=6, seconds=0.03)


def main() -> int:
    options = _options().parse_args()
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    rows: list[Row] = []
    print("\n".join(f"{name}: {value}" for name, value in report.machine().items()))
    for name in options.only or PARTS:
        started = time.perf_counter()
        found = list(_measured(name, short=options.short))
        rows += found
        print(report.as_text(found), f"\n  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    _write(options, rows, command)
    return report.complain(rows)


def _measured(name: str, *, short: bool) -> Iterator[Row]:
    if name in COUNTED:
        in_full, in_short = COUNTED[name]
        return in_short() if short else in_full()
    return PACED[name](_pace(name, short=short))


def _pace(name: str, *, short: bool) -> Pace:
    if name == "bulk":
        # A turn is 10,000 rows long by itself.
        return SHORT
    if name in ("saves", "models"):
        return SAVES_SHORT if short else SAVES_FULL
    if name == "databases":
        return DATABASES_SHORT if short else DATABASES_FULL
    return SHORT if short else FULL


def _write(options: argparse.Namespace, rows: list[Row], command: str) -> None:
    if options.json:
        options.json.write_text(report.as_json(rows, command))
    if options.write_docs:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(report.as_markdown(rows, command))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a quick look, of some minutes")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part (may be given again)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/reference/benchmarks.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
