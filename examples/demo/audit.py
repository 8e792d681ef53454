"""The audit: counts rows, logged events and marks. It reads the file with plain sqlite3 and trusts nobody."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROWS = {
    "users": ("SELECT count(*) FROM users", "user.created"),
    "orders": ("SELECT count(*) FROM orders", "order.created"),
    "orders paid": ("SELECT count(*) FROM orders WHERE status = 'paid'", "order.payment_received"),
    "orders completed": ("SELECT count(*) FROM orders WHERE status = 'paid'", "order.completed"),
}


# What each handler should hear, as names in the log. Users change by what they spend, and nothing else, here.
HEARS = {
    "send_welcome_email": ("user.created",),
    "send_receipt": ("order.payment_received",),
    "notify_shipping": ("order.completed",),
    "update_search_index": ("order.created", "order.updated"),
    "recompute_discount": ("user.updated",),
    "copy_to_warehouse": (
        *("user.created", "user.updated"),
        *("order.created", "order.updated", "order.payment_received", "order.completed"),
    ),
}


class Mark(NamedTuple):
    """A handler was here: for which event, at which attempt, in which process."""

    handler: str
    event: str
    attempt: int
    process: int


@dataclass(frozen=True)
class Heard:
    """One handler: the events it should have heard, and how often it was there, by process."""

    handler: str
    events: int
    visits: tuple[int, ...]
    twice: int
    lost: int
    foreign: int


@dataclass(frozen=True)
class Audit:
    rows: dict[str, tuple[int, str, int]]
    spent: tuple[int, int]
    handlers: list[Heard]
    refused: list[tuple[str, int, str]]
    bookmarks: dict[str, int]

    @property
    def faults(self) -> list[str]:
        """What is not as it should be once everything is delivered."""
        found = [f"{what}: {rows} rows, {events} {name}" for what, (rows, name, events) in self.uneven.items()]
        found += [f"{heard.handler}: {heard.lost} events lost" for heard in self.handlers if heard.lost]
        found += [f"{heard.handler}: {heard.foreign} events not in the log" for heard in self.handlers if heard.foreign]
        if self.spent[0] != self.spent[1]:
            found.append(f"users spent {self.spent[0]} cents, their paid orders come to {self.spent[1]}")
        return found

    @property
    def uneven(self) -> dict[str, tuple[int, str, int]]:
        return {what: found for what, found in self.rows.items() if found[0] != found[2]}


def audit(folder: Path, processes: Sequence[int]) -> Audit:
    with closing(sqlite3.connect(folder / "shop.db")) as db:
        ids: dict[str, set[str]] = {}
        for name, event in db.execute("SELECT name, hex(id) FROM earnorm_log"):
            ids.setdefault(name, set()).add(event.lower())
        return Audit(
            rows={what: (_number(db, sql), name, len(ids.get(name, ()))) for what, (sql, name) in ROWS.items()},
            spent=(_spent(db), _paid(db)),
            handlers=_handlers(folder, processes, ids),
            refused=list(db.execute("SELECT file, line, reason FROM refusals ORDER BY file DESC, line")),
            bookmarks=dict(db.execute("SELECT file, line FROM bookmarks")),
        )


def _handlers(folder: Path, processes: Sequence[int], ids: dict[str, set[str]]) -> list[Heard]:
    visits: dict[str, list[Mark]] = {handler: [] for handler in HEARS}
    for mark in marks(folder / "world.txt"):
        visits[mark.handler].append(mark)
    return [
        _heard(handler, processes, set[str]().union(*(ids.get(name, set()) for name in names)), visits[handler])
        for handler, names in HEARS.items()
    ]


def _heard(handler: str, processes: Sequence[int], expected: set[str], visits: list[Mark]) -> Heard:
    times = Counter(mark.event for mark in visits)
    return Heard(
        handler=handler,
        events=len(expected),
        visits=tuple(sum(mark.process == process for mark in visits) for process in processes),
        twice=sum(number > 1 for number in times.values()),
        lost=len(expected - times.keys()),
        foreign=len(times.keys() - expected),
    )


def marks(path: Path) -> Iterator[Mark]:
    for line in path.read_text().splitlines():
        handler, event, attempt, process = line.split()
        yield Mark(handler, event, int(attempt), int(process))


def _number(db: sqlite3.Connection, sql: str) -> int:
    return int(db.execute(sql).fetchone()[0])


def _spent(db: sqlite3.Connection) -> int:
    return sum(cents(value) for (value,) in db.execute("SELECT spent FROM users"))


def _paid(db: sqlite3.Connection) -> int:
    return sum(cents(value) for (value,) in db.execute("SELECT amount FROM orders WHERE status = 'paid'"))


def cents(stored: object) -> int:
    return round(float(str(stored)) * 100)
