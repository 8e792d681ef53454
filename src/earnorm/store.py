"""The store: the log, its subscriptions' cursors, the lease, and deliveries set aside. A contract of verbs.

Whatever implements it must pass `earnorm.testing.StoreSuite`. The plainest implementation, and the
oracle for the others, is `earnorm.backends.memory`.

A store is plain sync code over a `Transaction`, which stands either in a transaction of the store's own
(`begin`) or in the caller's (`join`): the caller's commit is then the commit of what was appended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from earnorm.delivery import Delivery
from earnorm.emission import IdempotencyKey
from earnorm.event import Entries, Entry

__all__ = ["Advance", "Intake", "Lease", "Seen", "Settlement", "Store", "Transaction"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work the log until `expires`. `fence` grows with every change of hands."""

    worker: str
    fence: int
    expires: datetime


@dataclass(frozen=True, slots=True)
class Advance:
    """Move a subscription's cursor from `previous` to `position`."""

    previous: int
    position: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An event by where it stood in the log."""

    position: int
    event: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one batch came to: written down whole, or not at all.

    advances     by subscription
    set_aside    deliveries that could not be handled now: new rows, in the order given
    rescheduled  deliveries set aside before (by `id`) that stay, with their new attempt, due, state and error
    finished     ids of deliveries set aside before that are over
    emitted      events of handlers that are done, for the log
    keys         idempotency keys of some of those, which are left out if another event has the key by now
    seen         the last event that was read for this batch, which must stand where it was read: a server that took
                 over after a failure may have lost it, and given its position to another

    Rows that were removed meanwhile are passed over.
    """

    advances: Mapping[str, Advance] = field(default_factory=dict[str, Advance])
    set_aside: Sequence[Delivery] = ()
    rescheduled: Sequence[Delivery] = ()
    finished: Sequence[int] = ()
    emitted: Sequence[Entry] = ()
    keys: Sequence[IdempotencyKey] = ()
    seen: Seen | None = None


class Transaction(Protocol):
    """The verbs, inside one database transaction."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Add `entries` to the log, in order, in one statement. Their `position` is the store's to give."""
        ...

    def append_many(self, entries: Entries) -> None:
        """`append`, for entries that share all but their id, key and data: each of those is written once."""
        ...

    def get(self, event: UUID) -> Entry | None:
        """The entry of this event, wherever it stands."""
        ...

    def reserve(self, keys: Sequence[IdempotencyKey]) -> dict[UUID, IdempotencyKey]:
        """Take idempotency keys for their events; returns those that others have, by the event that wanted them.

        Waits for a transaction that is taking one of them now. What is taken is given back by a rollback.
        """
        ...

    def reserved(self, tenant: str, name: str, text: str) -> IdempotencyKey | None:
        """The idempotency key as the first event took it, if one did."""
        ...

    def forget_keys(self, before: datetime, limit: int) -> int:
        """Let events emitted before then go from the idempotency keys, `limit` at most; returns how many."""
        ...

    def subscribe(self, names: Sequence[str]) -> None:
        """Record subscriptions not recorded yet, each starting at the horizon read now. Idempotent."""
        ...

    def now(self) -> datetime:
        """The store's clock, aware, UTC. It alone decides what is due and whose lease has run out."""
        ...

    def horizon(self) -> int:
        """The last position that is safe to read: no transaction still open can commit one at or below it."""
        ...

    def read(self, after: int, upto: int, limit: int) -> list[Entry]:
        """Entries with `after < position <= upto`, by position, `limit` at most."""
        ...

    def find(self, key: str, name: str, after: int) -> Entry | None:
        """The first entry of record `key` called `name` past position `after`."""
        ...

    def cursors(self) -> dict[str, int]:
        """Every recorded subscription and the position it has passed."""
        ...

    def claim(self, worker: str, seconds: float) -> Lease | None:
        """Take or renew the lease, or None while another worker holds it unexpired.

        A renewal by its holder keeps the fence; any other success raises it.
        """
        ...

    def holder(self) -> Lease | None:
        """The lease as it was last claimed, run out or not; None if it was given back."""
        ...

    def release(self, lease: Lease) -> None:
        """Give the lease back, so that the next claim need not wait. Nothing happens if it was lost."""
        ...

    def due(self, limit: int) -> list[Delivery]:
        """Open deliveries whose time has come, longest due first.

        Of ordered ones only the lowest open of its (subscription, key), even when that one is due later than
        others behind it.
        """
        ...

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the (subscription, key) pairs that have an open ordered delivery set aside, to be waited for."""
        ...

    def open(self) -> tuple[int, datetime | None]:
        """How many deliveries are open, and when the earliest that may run is due."""
        ...

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        """Deliveries set aside, open and dead, oldest first; of one event id if given."""
        ...

    def settle(self, lease: Lease, settlement: Settlement) -> None:
        """Write a batch down. Raises LeaseLost, and writes nothing, if fence, cursors or log are not as expected."""
        ...


@runtime_checkable
class Store(Protocol):
    """Where the log lives."""

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
