"""A fleet: the workers that share a log, the cursors that they hold, and the subscriptions that follow these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from earnorm.slots import LAST_SLOT

__all__ = [
    "DEFAULT_GROUP",
    "SHARED",
    "Cursor",
    "Follower",
    "Group",
    "Presence",
    "Range",
    "Registration",
    "Since",
    "by_name",
]

Range = tuple[int, int]
"""Slots, from the first to the last of them."""

Since = Literal["beginning"] | datetime | int
"""Where a new subscription starts: at the log's beginning, at a time, or at a position (which it is given too)."""

DEFAULT_GROUP = "default"
"""The group of subscriptions that name none."""

SHARED = ""
"""The name of the cursor that a group's subscriptions share."""


# --- who is subscribed -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A subscription to be recorded. Without `since` it starts at the horizon; `formerly` are names it had before."""

    name: str
    group: str = DEFAULT_GROUP
    since: Since | None = None
    formerly: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A subscription as it is recorded: it is given the entries past `start` by the cursor that it follows.

    That is its group's shared one or, while `apart`, one of its own name. `seen` is when a process that knows its
    handler was last there; `missed` how many entries were pruned before it could be given them.
    """

    name: str
    group: str
    start: int
    apart: bool = False
    paused: bool = False
    seen: datetime
    missed: int = 0

    @property
    def cursor(self) -> str:
        """The name of the cursor that it follows."""
        return self.name if self.apart else SHARED


@dataclass(frozen=True, slots=True)
class Group:
    """Subscriptions that are worked, paused and deployed together.

    `generation` grows whenever it changes who follows which cursor, and with every pause.
    """

    name: str
    generation: int = 0
    paused: bool = False


# --- who works -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A worker as the others see it: alive until `expires`, by the store's clock.

    knows      the recorded names of the subscriptions that it can run, in the groups that it works
    dedicated  a process of its own, which comes before workers embedded in others
    idle       it holds nothing and wants nothing now
    """

    worker: str
    expires: datetime
    knows: frozenset[str] = frozenset()
    dedicated: bool = False
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a range of slots has been worked, and the lease on it: who holds it, under which fence.

    name    SHARED, or the subscription whose own it is
    fence   grows with every change of hands
    deaths  how many holders in a row died without a settle
    """

    group: str
    name: str = SHARED
    first: int = 0
    last: int = LAST_SLOT
    position: int = 0
    worker: str = ""
    fence: int = 0
    deaths: int = 0

    def __str__(self) -> str:
        return f"{self.name or f'group {self.group}'}, slots {self.first} to {self.last}, fence {self.fence}"

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells it from the others."""
        return self.group, self.name, self.first

    @property
    def slots(self) -> Range:
        return self.first, self.last


def by_name(cursors: Iterable[Cursor]) -> dict[tuple[str, str], list[Cursor]]:
    """By group and name, the rows of each cursor."""
    found: dict[tuple[str, str], list[Cursor]] = {}
    for cursor in cursors:
        found.setdefault((cursor.group, cursor.name), []).append(cursor)
    return found
