"""Upkeep: what those who run a system ask of a store, beside its work. A part of the store's contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from earnorm.delivery import Delivery
from earnorm.errors import InvalidSetting

__all__ = ["ALL", "Behind", "Pruned", "Selection", "Stall", "Tally", "Upkeep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant: those that fit all that is given.

    ids       by the numbers of their deliveries
    handler   of this subscription
    event     of this event, by its id; or of events of this name
    error     whose error holds this text, or has this fingerprint
    since     that died then or later

    Raises InvalidSetting.
    """

    ids: tuple[int, ...] | None = None
    handler: str | None = None
    event: str | None = None
    error: str | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        ids: object = self.ids
        if ids is not None and not (isinstance(ids, tuple) and all(type(one) is int for one in ids)):
            raise InvalidSetting("Selection", "ids", ids, "a tuple of whole numbers")
        for name in ("handler", "event", "error"):
            if not isinstance(text := getattr(self, name), str | None):
                raise InvalidSetting("Selection", name, text, "text")
        since: object = self.since
        if since is not None and not (isinstance(since, datetime) and since.utcoffset() is not None):
            raise InvalidSetting("Selection", "since", since, "a datetime with a time zone")


ALL = Selection()
"""Every dead letter."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many entries were removed, and the position up to which that was looked at."""

    count: int
    position: int


@dataclass(frozen=True, slots=True)
class Behind:
    """Entries that are not passed yet: how many, as far as they were counted, and when the first was emitted."""

    count: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Deliveries of one subscription that were set aside."""

    open: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Whose open transaction keeps what was appended after it from being read, for how long, and how to end it."""

    holder: str
    seconds: float | None
    remedy: str


class Upkeep(Protocol):
    """The verbs, inside one transaction of a store."""

    # --- dead letters ---

    def dead(self, selection: Selection, limit: int, after: int = 0) -> list[Delivery]:
        """Dead letters, by their id; those past the id `after`, `limit` at most. `due` is when they died."""
        ...

    def count_dead(self, selection: Selection) -> int:
        """How many dead letters there are of the selection."""
        ...

    def reopen(self, ids: Sequence[int]) -> list[int]:
        """Make dead letters due again, now, for one more attempt; returns those that were dead.

        What came later of their records has run meanwhile, so it is out of order. The error goes, which would say of a
        suspect that the attempt has been made; that of each attempt stays with it.
        """
        ...

    def discard(self, ids: Sequence[int]) -> list[int]:
        """Remove dead letters, with their attempts; returns those that were dead."""
        ...

    # --- pruning ---

    def prune(
        self, before: datetime, limit: int, after: int = 0, *, unseen: datetime, dry: bool = False
    ) -> Pruned | None:
        """Of the `limit` lowest entries past `after` that every subscription has passed, remove those older than that.

        Never removes what a subscription has yet to pass; but one that was last seen before `unseen`, and that no
        worker knows now, is not waited for, and what it missed is noted. `dry` only counts. None while another
        transaction prunes.
        """
        ...

    # --- how it stands ---

    def behind(self, after: int, upto: int, limit: int, slots: Sequence[tuple[int, int]] = ()) -> Behind:
        """Entries with `after < position <= upto`, counted up to `limit`; of these ranges of slots, if any."""
        ...

    def tally(self) -> dict[str, Tally]:
        """What was set aside, by subscription."""
        ...

    def stall(self) -> Stall | None:
        """Who keeps the horizon back now, if anybody does."""
        ...

    def bundled_since(self) -> datetime | None:
        """Since when entries wait that a commit left for later (a bundle), if any do; the horizon is in front."""
        ...
