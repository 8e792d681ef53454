"""`python -m benchmarks`: measure, print the table, and fail on what is far beyond its target."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.bulk import bulk
from benchmarks.databases import databases
from benchmarks.emit import independence, memory, registration
from benchmarks.imports import imports
from benchmarks.report import Row
from benchmarks.saves import models, saves
from benchmarks.timing import Pace

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"
PARTS: dict[str, Callable[[Pace], Iterator[Row]]] = {
    "memory": memory,
    "independence": independence,
    "registration": registration,
    "models": models,
    "saves": saves,
    "databases": databases,
    "bulk": bulk,
    "imports": imports,
}
FULL = Pace(rounds=25, seconds=0.02)
SHORT = Pace(rounds=7, seconds=0.004)
# Saves are longer and noisier, and their differences small.
SAVES_FULL = Pace(rounds=160, seconds=0.02)
SAVES_SHORT = Pace(rounds=24, seconds=0.008)
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
        found = list(PARTS[name](_pace(name, short=options.short)))
        rows += found
        print(report.as_text(found), f"\n  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    _write(options, rows, command)
    return report.complain(rows)


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
    parser.add_argument("--short", action="store_true", help="a look of less than a minute")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part (may be given again)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/reference/benchmarks.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
