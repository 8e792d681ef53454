"""Retention: how far a log may be pruned, and who misses what goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from earnorm.store import Cursor, Follower, Presence

__all__ = ["PATIENCE", "Reach", "known_to", "reach_of", "stand_of"]

PATIENCE = timedelta(days=7)
"""A subscription that was seen within this time holds what it has yet to pass, however short the retention."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a prune may go.

    passed   the last position that every subscription which holds has passed; None if none of them holds
    orphans  where those stand that hold no longer
    """

    passed: int | None
    orphans: Mapping[str, int]


def known_to(workers: Iterable[Presence], now: datetime) -> frozenset[str]:
    """The subscriptions that a worker alive now can run."""
    return frozenset(name for worker in workers if worker.expires > now for name in worker.knows)


def reach_of(
    followers: Iterable[Follower],
    cursors: Sequence[Cursor],
    workers: Iterable[Presence],
    *,
    unseen: datetime,
    now: datetime,
) -> Reach:
    """Who was last seen before `unseen`, and is not known to a worker now, holds no longer."""
    known = known_to(workers, now)
    stands = {follower: stand_of(follower, cursors) for follower in followers}
    holding = [stand for follower, stand in stands.items() if follower.seen >= unseen or follower.name in known]
    orphans = {f.name: stand for f, stand in stands.items() if f.seen < unseen and f.name not in known}
    return Reach(min(holding, default=None), orphans)


def stand_of(follower: Follower, cursors: Iterable[Cursor]) -> int:
    """The position up to which a subscription has passed everything, in whatever slots."""
    own = (c.position for c in cursors if (c.group, c.name) == (follower.group, follower.cursor))
    return max(min(own, default=0), follower.start)
