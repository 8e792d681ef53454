"""A delivery: one event on its way to one handler, the outcome it ends in, and what is remembered of its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from earnorm.durations import Duration, seconds_of
from earnorm.emission import IdempotencyKey
from earnorm.event import Entry

__all__ = ["DONE", "Attempt", "Dead", "Delivery", "Done", "Outcome", "Retry", "Skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that failed.

    error        its error on one line; `traceback` the last lines of where it came from
    fingerprint  the same for errors of one kind from one place, whatever ids and values they name
    version      of the application's code, as `connect(version=...)` or EARNORM_CODE_VERSION says
    worker       who made it, by the lease it held
    """

    subscription: str
    event: UUID
    number: int
    error: str
    started: datetime
    seconds: float
    traceback: str = ""
    fingerprint: str = ""
    version: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned. `emitted` is what it emitted outside a transaction, to be appended with this outcome.

    `keys` are the idempotency keys of some of those.
    """

    emitted: tuple[Entry, ...] = ()
    keys: tuple[IdempotencyKey, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes of data its events have."""
        return sum(len(entry.data) for entry in self.emitted)


DONE = Done()
"""That of a handler that emitted nothing, as most do."""


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """The attempt failed; the next one is due `after` seconds from now, by the store's clock.

    A durable handler may return it: `return Retry("5m", "the printer is out of paper")`. Raises InvalidDuration.
    """

    after: float
    error: str = ""
    attempt: Attempt | None = field(default=None, compare=False, repr=False)

    def __init__(self, after: Duration, error: str = "", attempt: Attempt | None = None) -> None:
        object.__setattr__(self, "after", seconds_of(after))
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "attempt", attempt)


@dataclass(frozen=True, slots=True)
class Dead:
    """The last attempt failed, or no attempt can ever succeed. A durable handler may return it, with its reason."""

    error: str
    attempt: Attempt | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Skipped:
    """There was nothing to do, and this is why: "missing", "when", or a handler's own reason. It may return it."""

    reason: str


Outcome = Done | Retry | Dead | Skipped


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event for one subscription. A row in the store only once it was set aside (`id` is then its row).

    `attempt` is the number of the coming (or, when dead, the last) attempt, from 1. `due` is the earliest time of it:
    the one `chosen`, or else that of its event.
    `error` and `fingerprint` are those of its last attempt.
    A delivery with `ordered` waits for every earlier open one with `ordered` of its subscription and key.
    `worker` runs it on its own, apart from any batch, and others leave it alone. A `suspect` may have killed its
    process, and so runs alone.
    """

    # A window holds thousands: a struct is made in a tenth of the time of a dataclass, and the garbage collector,
    # which took longer over them than the handlers, has nothing to look for in a value without cycles.

    subscription: str
    entry: Entry
    chosen: datetime | None = None
    attempt: int = 1
    ordered: bool = True
    state: Literal["open", "dead"] = "open"
    error: str = ""
    fingerprint: str = ""
    worker: str = ""
    suspect: bool = False
    id: int = 0

    @property
    def due(self) -> datetime:
        return self.chosen or self.entry.at
