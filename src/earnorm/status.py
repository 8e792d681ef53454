"""Status: how a log stands. Who is subscribed and how far behind, who works, what was set aside, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from earnorm.retention import known_to
from earnorm.slots import LAST_SLOT
from earnorm.store import Cursor, Follower, Group, Presence, Transaction
from earnorm.upkeep import Behind, Stall, Tally

__all__ = ["COUNTED", "GroupStatus", "LeaseStatus", "Status", "SubscriptionStatus", "WorkerStatus", "status_of"]

COUNTED = 100_000
"""Waiting events are counted so far; then it is enough to know that there are many."""

# Seconds that an open transaction may hold the horizon, and events may wait that no worker knows what to do with.
_STALLED, _UNKNOWN = 5.0, 30.0
# Handlers with dead letters that are named; `earnorm dead list` knows the others.
_NAMED = 3
_NONE = Tally()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus:
    """`waiting` events have yet to be passed (COUNTED at most), the oldest emitted `seconds` ago.

    known      a worker alive now can run it; else it is an orphan, until one comes
    apart      it follows a cursor of its own
    seen       when a process that knows it was last there
    missed     entries that were pruned before it could be given them
    """

    name: str
    group: str
    waiting: int
    seconds: float
    set_aside: int
    dead: int
    paused: bool
    known: bool
    apart: bool
    seen: datetime
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStatus:
    """A range of slots of one cursor, and who works it. `name` is "" for the cursor that a group shares."""

    group: str
    name: str
    first: int
    last: int
    position: int
    worker: str
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """`waiting` and `seconds` are those of the subscription furthest behind."""

    name: str
    paused: bool
    waiting: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """`left` is how many seconds it counts as alive without another sign of life; negative since it does not."""

    worker: str
    host: str
    pid: int | None
    left: float
    dedicated: bool
    idle: bool
    cursors: int
    knows: int

    @property
    def alive(self) -> bool:
        return self.left > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """As of `at`, by the store's clock. `problems` are sentences; without any, nothing is wrong.

    `dead` counts all dead letters, also those of handlers that are retired.
    """

    at: datetime
    horizon: int
    groups: Sequence[GroupStatus]
    subscriptions: Sequence[SubscriptionStatus]
    leases: Sequence[LeaseStatus]
    workers: Sequence[WorkerStatus]
    stall: Stall | None
    dead: int
    problems: Sequence[str]


def status_of(transaction: Transaction) -> Status:
    """Look at everything, in one transaction that only reads."""
    now, horizon = transaction.now(), transaction.horizon()
    cursors, presences, groups = transaction.cursors(), transaction.workers(), transaction.groups()
    tallies = transaction.tally()
    look = _Look(transaction, now, horizon, cursors, known_to(presences, now), tallies)
    subscriptions = [
        look.subscription(follower, paused=follower.paused or groups[follower.group].paused)
        for follower in transaction.followers()
    ]
    workers = [_worker(presence, cursors, now) for presence in presences]
    stall = transaction.stall()
    dead = {name: tally.dead for name, tally in tallies.items() if tally.dead}
    return Status(
        at=now,
        horizon=horizon,
        groups=[_group(group, subscriptions) for group in groups.values()],
        subscriptions=subscriptions,
        leases=[_lease(cursor) for cursor in cursors],
        workers=workers,
        stall=stall,
        dead=sum(dead.values()),
        problems=[*_problems(subscriptions, stall), *_bundled(transaction.bundled_since(), now), *_dead(dead)],
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look asks again and again: most subscriptions stand at the same place."""

    transaction: Transaction
    now: datetime
    horizon: int
    cursors: Sequence[Cursor]
    known: frozenset[str]
    tallies: Mapping[str, Tally]
    asked: dict[tuple[int, int, int], Behind] = field(default_factory=dict[tuple[int, int, int], Behind])

    def subscription(self, follower: Follower, *, paused: bool) -> SubscriptionStatus:
        own = [c for c in self.cursors if (c.group, c.name) == (follower.group, follower.cursor)]
        behind = [self._behind(max(c.position, follower.start), c.first, c.last) for c in own]
        oldest = min((found.oldest for found in behind if found.oldest is not None), default=self.now)
        tally = self.tallies.get(follower.name, _NONE)
        return SubscriptionStatus(
            name=follower.name,
            group=follower.group,
            waiting=min(sum(found.count for found in behind), COUNTED),
            seconds=max(0.0, (self.now - oldest).total_seconds()),
            set_aside=tally.open,
            dead=tally.dead,
            paused=paused,
            known=follower.name in self.known,
            apart=follower.apart,
            seen=follower.seen,
            missed=follower.missed,
        )

    def _behind(self, after: int, first: int, last: int) -> Behind:
        found = self.asked.get((after, first, last))
        if found is None:
            slots = () if (first, last) == (0, LAST_SLOT) else [(first, last)]
            found = self.asked[after, first, last] = self.transaction.behind(after, self.horizon, COUNTED, slots)
        return found


def _group(group: Group, subscriptions: Sequence[SubscriptionStatus]) -> GroupStatus:
    own = [subscription for subscription in subscriptions if subscription.group == group.name]
    return GroupStatus(
        name=group.name,
        paused=group.paused,
        waiting=max((one.waiting for one in own), default=0),
        seconds=max((one.seconds for one in own), default=0.0),
    )


def _lease(cursor: Cursor) -> LeaseStatus:
    return LeaseStatus(
        group=cursor.group,
        name=cursor.name,
        first=cursor.first,
        last=cursor.last,
        position=cursor.position,
        worker=cursor.worker,
        deaths=cursor.deaths,
    )


def _worker(presence: Presence, cursors: Sequence[Cursor], now: datetime) -> WorkerStatus:
    host, pid = _place(presence.worker)
    return WorkerStatus(
        worker=presence.worker,
        host=host,
        pid=pid,
        left=(presence.expires - now).total_seconds(),
        dedicated=presence.dedicated,
        idle=presence.idle,
        cursors=sum(cursor.worker == presence.worker for cursor in cursors),
        knows=len(presence.knows),
    )


def _place(worker: str) -> tuple[str, int | None]:
    """The host and the process of a worker, by the name that it has given itself."""
    place, _, pid = worker.rpartition("/")[0].rpartition("/")
    return place.partition(":")[0], int(pid) if pid.isdecimal() else None


def _problems(subscriptions: Sequence[SubscriptionStatus], stall: Stall | None) -> Iterator[str]:
    if stall is not None and (stall.seconds is None or stall.seconds >= _STALLED):
        yield f"new events wait for an open transaction that wrote events: {stall.holder}; end it with {stall.remedy}"
    for one in subscriptions:
        if one.missed:
            yield f"{one.name} missed {one.missed} events, which were pruned while nobody knew it"
        if one.paused or one.known or one.seconds < _UNKNOWN:
            continue
        yield (
            f"{one.name} has had events waiting for {one.seconds:.0f} s and no worker knows it; start one that imports "
            f"it, or: earnorm handlers retire {one.name}"
        )


def _bundled(since: datetime | None, now: datetime) -> Iterator[str]:
    waited = 0.0 if since is None else (now - since).total_seconds()
    if waited >= _UNKNOWN:
        yield (
            f"events of a bulk write have waited for {waited:.0f} s to be taken into the log, and later ones behind "
            f"them; start a worker: earnorm worker MODULE:DB"
        )


def _dead(dead: Mapping[str, int]) -> Iterator[str]:
    if not dead:
        return
    most = sorted(dead, key=lambda name: (-dead[name], name))
    named = ", ".join(f"{name} ({dead[name]:,})" for name in most[:_NAMED])
    others = f" and {len(most) - _NAMED} more handlers" if len(most) > _NAMED else ""
    count = sum(dead.values())
    letters = "dead letter" if count == 1 else "dead letters"
    yield f"{count:,} {letters}, of {named}{others}; see: earnorm dead list, then earnorm dead retry or discard"
