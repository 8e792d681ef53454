"""The ledger: what processes swear to have done, in a file outside the database, and how the two are compared."""

import os
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from uuid import UUID

from sqlalchemy import create_engine

from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.codec import decode

# What a handler writes an effect for. The rest of the log is lifecycle, compared with the rows.
HEARD = ("item.marked", "counter.counted")
HANDLERS = ("note", "anote")
# Their effects are rows, committed with the mark.
TRANSACTIONAL = ("book", "abook")


class Ledger:
    """Lines of words, each on the disk once `write` has returned. Any number of processes may write."""

    def __init__(self, path):
        self.path = path
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def write(self, *words):
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())
        os.fsync(self._file)

    def read(self, first):
        """The lines that begin with this word, without it."""
        lines = [line.split(" ") for line in self.path.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == first]

    def close(self):
        os.close(self._file)


@dataclass(frozen=True)
class Stored:
    """What the database says."""

    items: list[tuple]
    counters: list[tuple]
    events: list[tuple]
    letters: list[tuple]
    bookings: list[tuple]
    holder: str
    integrity: str


@dataclass
class Verdict:
    """How ledger and database compare. All lists but `letters` have to be empty."""

    events: int = 0
    handled: int = 0
    duplicates: int = 0
    doubled: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    torn: list = field(default_factory=list)
    forgotten: list = field(default_factory=list)
    ghosts: list = field(default_factory=list)
    inversions: list = field(default_factory=list)
    leftovers: list = field(default_factory=list)
    letters: list = field(default_factory=list)

    @property
    def faults(self):
        names = ("doubled", "lost", "torn", "forgotten", "ghosts", "inversions", "leftovers")
        return {name: found[:5] for name in names if (found := getattr(self, name))}


def stored(url):
    engine = sqlite_engine(url) if url.startswith("sqlite") else create_engine(url)
    with engine.connect() as connection:

        def rows(statement):
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

        log = rows("SELECT position, id, name, key, data FROM earnorm_log ORDER BY position")
        found = Stored(
            items=[(identity(row), *rest) for row, *rest in rows("SELECT id, batch, number, fate FROM chaos_items")],
            counters=[(identity(row), number) for row, number in rows("SELECT id, number FROM chaos_counters")],
            events=[
                (position, str(UUID(bytes=event)), name, key, decode(data)["payload"])
                for position, event, name, key, data in log
            ],
            letters=rows("SELECT subscription, state, error FROM earnorm_delivery"),
            bookings=rows("SELECT handler, about FROM chaos_bookings"),
            holder=" ".join(row[0] for row in rows("SELECT worker FROM earnorm_cursor WHERE worker <> ''")),
            integrity=rows("PRAGMA integrity_check")[0][0] if url.startswith("sqlite") else "ok",
        )
    engine.dispose()
    return found


def identity(stored):
    return stored if isinstance(stored, UUID) else UUID(stored)


def verify_ledger(url, ledger, *, delivered=True):
    """Compare the database with the ledger; `delivered` says that all handlers should be done."""
    found = stored(url)
    verdict = Verdict(events=len(found.events))
    if found.integrity != "ok":
        verdict.torn.append(found.integrity)
    _compare_rows(found, verdict)
    _compare_commits(found, ledger, verdict)
    _compare_order(found, verdict)
    _compare_readers(found, ledger, verdict)
    if delivered:
        _compare_effects(found, ledger, verdict)
        verdict.letters = found.letters
        verdict.leftovers += [letter for letter in found.letters if letter[0] in (*HANDLERS, *TRANSACTIONAL)] + (
            [("lease", found.holder)] if found.holder else []
        )
    return verdict


def _compare_rows(found, verdict):
    """Per transaction: every row has exactly its two events, and no event is without its row."""
    events = Counter((event[4]["batch"], event[2], event[3]) for event in found.events if event[2].startswith("item."))
    rows = Counter()
    for row, batch, _, fate in found.items:
        for name in ("item.created", "item.marked"):
            rows[batch, name, f"item:{row}"] += 1
        if fate != "kept":
            verdict.ghosts.append((batch, fate, "row"))
    verdict.torn += list(((rows - events) + (events - rows)).items())
    verdict.ghosts += [event for event in found.events if event[4].get("fate") == "dropped"]


def _compare_commits(found, ledger, verdict):
    """What a process was told is committed is there; what it did not begin is not."""
    batches = {item[1] for item in found.items}
    begun = {batch for (batch,) in ledger.read("begin")}
    committed = {batch for (batch,) in ledger.read("commit")}
    undone = {batch for (batch,) in ledger.read("undone")}
    verdict.forgotten += sorted(committed - batches)
    verdict.ghosts += sorted((batches - begun) | (batches & undone))


def _compare_order(found, verdict):
    """A counter counts by one under its lock, so its events say its order, and any gap."""
    counted = defaultdict(list)
    for _, _, name, key, payload in found.events:
        if name == "counter.counted":
            counted[key].append(payload["number"])
    for row, number in found.counters:
        key = f"counter:{row}"
        if counted[key] != list(range(1, number + 1)):
            verdict.inversions.append((key, number, counted[key]))


def _compare_readers(found, ledger, verdict):
    """Who follows the log by its horizon sees all of it, once, in its order."""
    ids = [event[1] for event in found.events]
    for reader, *seen in ledger.read("read"):
        if seen != ids:
            verdict.inversions.append((reader, "saw", len(seen), "of", len(ids)))
            verdict.lost += sorted(set(ids) - set(seen))
            verdict.ghosts += sorted(set(seen) - set(ids))


def _compare_effects(found, ledger, verdict):
    effects = ledger.read("effect")
    happened = Counter((handler, event) for handler, event, *_ in effects)
    positions = {event[1]: event[0] for event in found.events if event[2] in HEARD}
    due = {(handler, event) for handler in HANDLERS for event in positions}
    verdict.handled = len(happened)
    verdict.duplicates = len(effects) - len(happened)
    verdict.lost += sorted(due - happened.keys())
    verdict.ghosts += sorted(happened.keys() - due)
    verdict.inversions += _inversions(effects, positions)
    booked = Counter(found.bookings)
    due = {(handler, event) for handler in TRANSACTIONAL for event in positions}
    verdict.doubled += [booking for booking, times in booked.items() if times > 1]
    verdict.lost += sorted(due - booked.keys())
    verdict.ghosts += sorted(booked.keys() - due)


def _inversions(effects, positions):
    """By handler and record: the first time each event was handled, against the order of the log."""
    once, reached, inversions = set(), defaultdict(int), []
    for handler, event, key, *_ in effects:
        if (handler, event) in once or event not in positions:
            continue
        once.add((handler, event))
        if positions[event] < reached[handler, key]:
            inversions.append((handler, key, event))
        reached[handler, key] = max(reached[handler, key], positions[event])
    return inversions


def recoveries(ledger, moments):
    """Seconds from each of these moments (a kill, a server's return) to the next effect."""
    effects = sorted(float(at) for *_, at in ledger.read("effect"))
    found = ((moment, bisect(effects, moment)) for moment in moments)
    return sorted(effects[index] - moment for moment, index in found if index < len(effects))


def p95(values):
    return values[min(len(values) - 1, int(0.95 * len(values)))] if values else None


@dataclass(frozen=True)
class Report:
    """One line of the table.

    `doubled` are database effects of transactional handlers; `recovery_p95` is in seconds, from a kill to the next
    effect.
    """

    backend: str
    run: str
    events: int
    kills: int
    seconds: float
    lost: int
    doubled: int
    duplicates: int
    recovery_p95: float | None
    seed: str


def table(reports: Iterable[Report]):
    names = [each.name for each in fields(Report)]
    rows = [[name.replace("_", " ") for name in names]]
    rows += [
        [_cell(getattr(report, name)) for name in names]
        for report in sorted(reports, key=lambda report: (report.run, report.backend))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
