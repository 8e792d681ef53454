"""The report: rows of what was measured, printed, as JSON, and as the page of the docs."""

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Literal

__all__ = ["Row", "Unit", "as_json", "as_markdown", "as_text", "complain", "machine"]

Unit = Literal["x", "µs", "%", "kB", "MB", "modules", "calls"]
LIBRARIES = ["earnorm", "SQLAlchemy", "msgspec", "greenlet", "aiosqlite"]
LIBRARIES += ["blinker", "bubus", "Django", "peewee", "psygnal", "PyDispatcher", "pyee", "pymitter", "tortoise-orm"]
LIBRARIES += ["huey", "pgqueuer", "procrastinate", "psycopg"]
# A missed target is for people to look at; only far beyond it is it no longer the machine's mood.
GROSS = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `raw` are nanoseconds an operation by contestant, `peers` the same measure of other libraries.

    `noise` is half the width of what the measurement may as well have been. A target of 0 means: not beyond the noise.
    """

    section: str
    what: str
    measured: float
    unit: Unit = "x"
    target: float | None = None
    noise: float | None = None
    raw: dict[str, float] = field(default_factory=dict)
    peers: dict[str, float | str] = field(default_factory=dict)
    remark: str = ""
    gross_at: float | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "-"
        noise = self.noise or 0
        limit = self.target or noise
        if self.measured - noise > limit:
            return "missed"
        if self.measured + noise <= self.target:
            return "met"
        if noise > (self.target or self.gross_at or noise) / 2:
            return "too noisy"
        return "met" if self.measured <= limit else "missed"

    @property
    def gross(self) -> bool:
        if self.target is None:
            return False
        limit = GROSS * self.target if self.gross_at is None else self.gross_at
        return self.measured > limit + 3 * (self.noise or 0)

    @property
    def shown(self) -> str:
        noise = "" if self.noise is None else f" ± {_number(self.noise, self.unit)}"
        return f"{_number(self.measured, self.unit)}{noise} {self.unit}"

    @property
    def shown_target(self) -> str:
        return "-" if self.target is None else f"{self.target:g} {self.unit}"

    @property
    def shown_peers(self) -> str:
        shown = (f"{name} {_peer(value, self.unit)}" for name, value in self.peers.items())
        return " · ".join(shown)

    @property
    def shown_raw(self) -> str:
        return ", ".join(f"{name} {_time(value)}" for name, value in self.raw.items())


def _number(value: float, unit: Unit) -> str:
    return f"{value:.0f}" if unit in ("modules", "calls") else f"{value:.2f}"


def _peer(value: float | str, unit: Unit) -> str:
    return value if isinstance(value, str) else f"{value:.1f} {unit}"


def _time(nanoseconds: float) -> str:
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.0f} ns"


# --- the machine -----------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """Where it was measured: processor, Python, libraries."""
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        **{name: found for name in LIBRARIES if (found := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


# --- three ways to write it ------------------------------------------------------------------


def as_text(rows: Iterable[Row]) -> str:
    lines: list[str] = []
    for section, found in groupby(rows, key=lambda row: row.section):
        lines.append(f"\n{section}")
        for row in found:
            lines.append(f"  {row.what:<58} {row.shown:>20}   target {row.shown_target:<8} {row.verdict}")
            lines += [f"      {line}" for line in (row.shown_raw, row.shown_peers, row.remark) if line]
    return "\n".join(lines)


def as_json(rows: Sequence[Row], command: str) -> str:
    found = [asdict(row) | {"verdict": row.verdict} for row in rows]
    return json.dumps({"command": command, "machine": machine(), "rows": found}, indent=2, ensure_ascii=False) + "\n"


_PAGE = """# Benchmarks

What EarnORM costs, as ratios in one run: each contestant has a turn of some milliseconds in every round, so that a
busy machine is unfair to nobody. Emits count their best round, saves the CPU time of their quicker rounds; backlogs are
worked off whole, their quickest round counts. Absolute times belong to the machine; compare the ratios. `make bench`
measures it where you are, `make bench BENCH_ARGS=--short` in some minutes.

This page was written by `{command}`.

{machine}

{sections}"""


def as_markdown(rows: Sequence[Row], command: str) -> str:
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in machine().items())])
    sections = "\n".join(_section(name, list(found)) for name, found in groupby(rows, key=lambda row: row.section))
    return _PAGE.format(command=command, machine=table, sections=sections)


def _section(name: str, rows: Sequence[Row]) -> str:
    lines = [f"## {name}", "", "| | measured | target | | times | peers |", "| --- " * 6 + "|"]
    lines += [
        f"| {row.what} | {row.shown} | {row.shown_target} | {row.verdict} | {row.shown_raw} | {row.shown_peers} |"
        for row in rows
    ]
    remarks = [f"* {row.what}: {row.remark}" for row in rows if row.remark]
    return "\n".join([*lines, *([""] if remarks else []), *remarks, ""])


def complain(rows: Iterable[Row]) -> int:
    """The exit code: 1 if a target is missed by so much that it is no accident, told on stderr."""
    gross = [row for row in rows if row.gross]
    for row in gross:
        print(f"far beyond its target: {row.section}, {row.what}: {row.shown}, {row.shown_target}", file=sys.stderr)
    return 1 if gross else 0
