"""A delivery: one event on its way to one handler, and the outcome it ends in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from earnorm.event import Entry

__all__ = ["Dead", "Delivery", "Done", "Outcome", "Retry", "Skipped"]


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned. `emitted` is what it emitted outside a transaction, to be appended with this outcome."""

    emitted: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the next one is due `after` seconds from now, by the store's clock."""

    after: float
    error: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The last attempt failed, or no attempt can ever succeed."""

    error: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """There was nothing to do, and this is why: "missing", "when", or the reason of a Discard."""

    reason: str


Outcome = Done | Retry | Dead | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one subscription. A row in the store only once it was set aside (`id` is then its row).

    `attempt` is the number of the coming (or, when dead, the last) attempt, from 1. `due` is the earliest time of it.
    A delivery with `ordered` waits for every earlier open one with `ordered` of its subscription and key.
    `worker` runs it on its own, apart from any batch, and others leave it alone. A `suspect` may have killed its
    process, and so runs alone.
    """

    subscription: str
    entry: Entry
    due: datetime
    attempt: int = 1
    ordered: bool = True
    state: Literal["open", "dead"] = "open"
    error: str = ""
    worker: str = ""
    suspect: bool = False
    id: int = 0
