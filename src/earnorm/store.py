"""The store: the log, subscriptions, the cursors that workers lease, and deliveries set aside. A contract of verbs.

Whatever implements it must pass `earnorm.testing.StoreSuite`. The plainest implementation, and the
oracle for the others, is `earnorm.backends.memory`.

A store is plain sync code over a `Transaction`, which stands either in a transaction of the store's own
(`begin`) or in the caller's (`join`): the caller's commit is then the commit of what was appended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from earnorm.delivery import Attempt, Delivery
from earnorm.emission import IdempotencyKey, Keys
from earnorm.event import Entries, Entry
from earnorm.fleet import (
    DEFAULT_GROUP,
    SHARED,
    Cursor,
    Follower,
    Group,
    Presence,
    Range,
    Registration,
    Since,
)
from earnorm.upkeep import Upkeep

__all__ = [
    "ATTEMPTS_KEPT",
    "DEFAULT_GROUP",
    "SHARED",
    "Advance",
    "Cursor",
    "Follower",
    "Group",
    "Intake",
    "Plan",
    "Presence",
    "Range",
    "Registration",
    "Seen",
    "Settlement",
    "Since",
    "Store",
    "Transaction",
    "Waiting",
]

# Of one delivery: far more than are made by default, so that no patient retry fills a table.
ATTEMPTS_KEPT = 32

# --- settling --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advance:
    """Move a cursor, as it was read, to `position`. Where that is its own, its lease alone is called for."""

    cursor: Cursor
    position: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An event by where it stood in the log."""

    position: int
    event: UUID


@dataclass(frozen=True, slots=True)
class Plan:
    """Who was thought to follow a group's shared cursor, as of a generation of the group."""

    generation: int
    followers: frozenset[str]

    def called_off(self, followers: Collection[Follower], set_aside: Iterable[Delivery]) -> str | None:
        """Who was retired since, recorded anew or not: nothing of what it was given is to be written down."""
        starts = {follower.name: follower.start for follower in followers}
        gone = next(iter(sorted(self.followers - starts.keys())), None)
        given = (row for row in set_aside if row.subscription in self.followers and row.subscription in starts)
        return gone or next((row.subscription for row in given if row.entry.position <= starts[row.subscription]), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one batch came to: written down whole, or not at all.

    worker       who settles; the cursors in `advances` and the deliveries in `running` must be held by it
    advances     cursors that were read for it
    plans        by group, who was given what its shared cursor passes
    set_aside    deliveries that could not be handled now: new rows, in the order given
    rescheduled  deliveries set aside before (by `id`) that stay, with what of them changed
    finished     ids of deliveries set aside before that are over
    attempts     those that failed, of deliveries set aside or rescheduled here
    running      ids of deliveries that this worker ran on its own (their `worker`), and must still be its own
    emitted      events of handlers that are done, for the log
    keys         idempotency keys of some of those, which are left out if another event has the key by now
    seen         the last event that was read for this batch, which must stand where it was read: a server that took
                 over after a failure may have lost it, and given its position to another

    Rows that were removed meanwhile are passed over, and so are those that another worker runs.
    """

    worker: str
    advances: Sequence[Advance] = ()
    plans: Mapping[str, Plan] = field(default_factory=dict[str, Plan])
    set_aside: Sequence[Delivery] = ()
    rescheduled: Sequence[Delivery] = ()
    finished: Sequence[int] = ()
    attempts: Sequence[Attempt] = ()
    running: Sequence[int] = ()
    emitted: Sequence[Entry] = ()
    keys: Sequence[IdempotencyKey] = ()
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Open deliveries of one subscription: when the earliest that may run is due; whether some run on their own."""

    due: datetime | None
    running: bool = False


class Transaction(Keys, Upkeep, Protocol):
    """The verbs, inside one database transaction."""

    # --- the log ---

    def append(self, entries: Sequence[Entry]) -> None:
        """Add `entries` to the log, in order, in one statement. Their `position` is the store's to give."""
        ...

    def append_many(self, entries: Entries) -> None:
        """`append`, for entries that share all but their id, key and data: each of those is written once."""
        ...

    def now(self) -> datetime:
        """The store's clock, aware, UTC. It alone decides what is due and who is still alive."""
        ...

    def horizon(self) -> int:
        """The last position that is safe to read: no transaction still open can commit one at or below it."""
        ...

    def read(
        self, after: int, upto: int, limit: int, slots: Sequence[Range] = (), room: int | None = None
    ) -> list[Entry]:
        """Entries with `after < position <= upto`, by position, `limit` at most; of these ranges, if any are given.

        The last is the one with which their data come to `room` bytes, if they do: what is behind it is not loaded.
        """
        ...

    def find(self, key: str, name: str, after: int) -> Entry | None:
        """The first entry of record `key` called `name` past position `after`."""
        ...

    def get(self, event: UUID) -> Entry | None:
        """The entry of this event, wherever it stands."""
        ...

    # --- subscriptions ---

    def subscribe(self, registrations: Sequence[Registration]) -> dict[str, str]:
        """Record subscriptions not recorded yet, and that all were seen now; the recorded name of each.

        A new one starts at the horizon read now, or where `since` says. One that was recorded under a former name
        keeps that name. A group that has changed is changed. Raises NameTakenTwice, SubscriptionShared.
        """
        ...

    def followers(self) -> list[Follower]:
        """Every recorded subscription, by name."""
        ...

    def groups(self) -> dict[str, Group]:
        """Every group, by name."""
        ...

    def pause(self, name: str, *, paused: bool) -> bool:
        """Have a subscription worked by nobody, or again; whether there is one of that name."""
        ...

    def pause_group(self, name: str, *, paused: bool) -> bool:
        """`pause`, for all of a group."""
        ...

    def part(self, group: str, names: Sequence[str]) -> None:
        """Give those of these subscriptions that follow the shared cursor one of their own, where that stands now."""
        ...

    def rejoin(self, name: str) -> bool:
        """Let a subscription follow the shared cursor again, if its own has nothing more to catch up; whether it does.

        That is when its own stands at one place, and no part of the shared one past it.
        """
        ...

    def retire(self, name: str) -> int | None:
        """Forget a subscription, its names, its cursor and what it hears, and drop its open deliveries.

        Returns how many deliveries those were; None if there is no such subscription. Its dead letters stay.
        """
        ...

    # --- workers and their leases ---

    def enter(self, presence: Presence) -> None:
        """Say that a worker is there, in place of what it said before."""
        ...

    def beat(self, worker: str, expires: datetime) -> bool:
        """Keep a worker alive; False if it is not there any more, and so has lost whatever it held."""
        ...

    def leave(self, worker: str) -> None:
        """A worker goes, and gives back all that it holds. What it ran on its own may be run by others."""
        ...

    def bury(self, worker: str, *, dead: bool = False) -> bool:
        """`leave`, for a worker that has died: by the clock, unless it is known to be `dead`. Whether it was.

        Waits for its settle under way. Each cursor that it held counts one death.
        """
        ...

    def workers(self) -> list[Presence]:
        """Every worker that is there, the dead ones too, by name."""
        ...

    def cursors(self) -> list[Cursor]:
        """Every cursor, by group, name and first slot."""
        ...

    def take(self, cursor: Cursor, worker: str) -> Cursor | None:
        """Lease a cursor that nobody else holds, under a new fence, as it stands now; None if it cannot be had."""
        ...

    def release(self, cursors: Sequence[Cursor]) -> None:
        """Give leases back, so that others need not wait. Those that were lost are passed over."""
        ...

    def split(self, cursor: Cursor, at: int) -> Cursor:
        """Keep the slots below `at` of a cursor held, under a new fence, and give the others back. Raises LeaseLost."""
        ...

    def merge(self, cursor: Cursor, beside: Cursor) -> Cursor:
        """Make one of two that are held, stand alike and meet, `beside` being the upper one. Raises LeaseLost."""
        ...

    # --- deliveries set aside ---

    def waiting(self) -> dict[str, Waiting]:
        """The subscriptions that have open deliveries."""
        ...

    def due(self, subscription: str, slots: Sequence[Range], limit: int, room: int | None = None) -> list[Delivery]:
        """Its open deliveries in these ranges whose time has come and that nobody runs, the longest due first.

        Of ordered ones only the lowest open of its key, even when that one is due later than others behind it.
        `limit` of them at most, and up to the one with which their data come to `room` bytes, as of `read`.
        """
        ...

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the (subscription, key) pairs that have an open ordered delivery set aside, to be waited for."""
        ...

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        """Deliveries set aside, open and dead, oldest first; of one event id if given."""
        ...

    def attempts(self, delivery: int) -> list[Attempt]:
        """The failed attempts of a delivery by its id, oldest first, the last ATTEMPTS_KEPT at most.

        They are forgotten with the delivery.
        """
        ...

    def running(self, worker: str) -> list[Delivery]:
        """Deliveries that this worker runs on its own, oldest first."""
        ...

    def settle(self, settlement: Settlement) -> None:
        """Write a batch down.

        Raises LeaseLost, and writes nothing, if a fence, a position, the log or who follows is not as expected. A
        subscription that parted from the shared cursor since the plan moves on with what it was given.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """Where the log lives.

    `divides` says whether several workers may each have a range of one cursor; else one has it whole.
    """

    @property
    def divides(self) -> bool: ...

    def begin(self, *, readonly: bool = False) -> AbstractContextManager[Transaction]:
        """A transaction of the store's own: committed on leaving, rolled back on an exception.

        `readonly` promises to write nothing: what only looks (a poll of horizon and read) then keeps no writer waiting.
        """
        ...

    def join(self, connection: Any) -> Transaction:
        """The verbs inside the caller's transaction on `connection`."""
        ...

    def close(self) -> None:
        """Give back what the store holds open."""
        ...


class Intake(Protocol):
    """What others left beside the log, for a worker's pass to take in."""

    def pending(self) -> bool:
        """Whether there is anything to take in."""
        ...

    def take(self) -> bool:
        """Take some of it in, in a transaction of its own; whether anything was."""
        ...
