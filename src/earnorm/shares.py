"""Shares: who should work which part of the log, by what one look at the store showed. Pure policy, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from earnorm.fleet import by_name
from earnorm.slots import SLOTS
from earnorm.store import SHARED, Cursor, Follower, Group, Presence

__all__ = ["NEAR", "Moves", "View", "moves_of", "outranks", "share_of"]

NEAR = 1_000
"""How many positions behind the shared cursor one of a subscription's own is about to rejoin it."""


@dataclass(frozen=True)
class View:
    """What one look showed. The groups were read before the followers, so that those are never older."""

    now: datetime
    groups: Mapping[str, Group]
    followers: Sequence[Follower]
    cursors: Sequence[Cursor]
    workers: Sequence[Presence]

    @property
    def living(self) -> list[Presence]:
        return [worker for worker in self.workers if worker.expires > self.now]

    def of_group(self, group: str) -> Sequence[Follower]:
        return self._by_group.get(group, ())

    def rows(self, group: str, name: str) -> Sequence[Cursor]:
        return self._by_name.get((group, name), ())

    @cached_property
    def _by_group(self) -> Mapping[str, Sequence[Follower]]:
        found: dict[str, list[Follower]] = {}
        for follower in self.followers:
            found.setdefault(follower.group, []).append(follower)
        return found

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], Sequence[Cursor]]:
        return by_name(self.cursors)


@dataclass(slots=True)
class Moves:
    """What a worker should do next about its leases, each in a transaction of its own.

    release  cursors to give back
    split    cursors to keep the slots of below a number, and give the others back
    take     free cursors to lease, and how many of their slots to keep
    part     by group, subscriptions that should follow a cursor of their own
    rejoin   subscriptions that may follow the shared cursor again
    merge    cursors that meet and stand alike

    It `is_short` if others still hold some of what should be its own: the next look may show that they let it go.
    """

    release: list[Cursor] = field(default_factory=list[Cursor])
    split: list[tuple[Cursor, int]] = field(default_factory=list[tuple[Cursor, int]])
    take: list[tuple[Cursor, int]] = field(default_factory=list[tuple[Cursor, int]])
    part: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    rejoin: list[str] = field(default_factory=list[str])
    merge: list[tuple[Cursor, Cursor]] = field(default_factory=list[tuple[Cursor, Cursor]])
    is_short: bool = False

    def spare(self, busy: Collection[str]) -> None:
        """Leave the cursors of these subscriptions where they are: they are at work."""
        self.release = [cursor for cursor in self.release if cursor.name not in busy]
        self.split = [(cursor, at) for cursor, at in self.split if cursor.name not in busy]
        self.merge = [(cursor, beside) for cursor, beside in self.merge if cursor.name not in busy]
        self.rejoin = [name for name in self.rejoin if name not in busy]

    def __bool__(self) -> bool:
        return any((self.release, self.split, self.take, self.part, self.rejoin, self.merge))


def outranks(other: Presence, worker: Presence, names: frozenset[str]) -> bool:
    """Whether `worker` should leave these subscriptions to `other`, which is alive.

    That is one that knows all of them that `worker` knows and more, as the new version of a program does beside the
    old one; or as many, in a process of its own where `worker` is embedded in another.
    """
    theirs, ours = other.knows & names, worker.knows & names
    return ours < theirs or (ours <= theirs and other.dedicated and not worker.dedicated)


def share_of(worker: str, workers: Iterable[str]) -> int:
    """How many slots are a worker's fair share, the same to everybody who counts the same workers."""
    names = sorted({worker, *workers})
    each, more = divmod(SLOTS, len(names))
    return each + (names.index(worker) < more)


_NOBODY: frozenset[str] = frozenset()


def moves_of(
    view: View,
    me: Presence,
    *,
    divides: bool,
    patient: bool = True,
    solitary: frozenset[str] = _NOBODY,
    near: int = NEAR,
) -> Moves:
    """What `me` should do next. With `divides`, a cursor's ranges are shared out; else one worker has it whole.

    The `solitary` follow a cursor of their own for good, which is shared out as the shared one is. That of others is
    while it has more than `near` positions to go.
    A worker that waits for others is `patient` at first; should nobody come, it no longer leaves its work to idle ones.
    """
    moves = Moves()
    others = [w for w in view.living if w.worker != me.worker and (patient or not w.idle)]
    for name, group in view.groups.items():
        _share_group(moves, view, me, others, group, solitary=solitary, divides=divides)
        for follower in view.of_group(name):
            if follower.apart:
                stays = follower.name in solitary
                shares = divides and (stays or not _is_near(view, follower, near))
                _work_apart(moves, view, me, others, follower, paused=group.paused, shares=shares, stays=stays)
    return moves


# --- the cursor that a group shares ----------------------------------------------------------


def _share_group(
    moves: Moves,
    view: View,
    me: Presence,
    others: Sequence[Presence],
    group: Group,
    *,
    solitary: frozenset[str],
    divides: bool,
) -> None:
    followers = view.of_group(group.name)
    names = frozenset(follower.name for follower in followers)
    rows = view.rows(group.name, SHARED)
    mine = [row for row in rows if row.worker == me.worker]
    if group.paused or not me.knows & names or any(outranks(other, me, names) for other in others):
        moves.release += mine
        return
    leaving = [f for f in followers if not f.apart and (f.paused or f.name not in me.knows or f.name in solitary)]
    if mine and leaving:
        moves.part[group.name] = [follower.name for follower in leaving]
    if divides:
        _share_out(moves, rows, mine, me, others, names=names)
    elif all(row.worker in ("", me.worker) for row in rows):
        moves.take += [(row, SLOTS) for row in rows if not row.worker]
    moves.merge += _meeting(mine)


def _share_out(
    moves: Moves,
    rows: Sequence[Cursor],
    mine: Sequence[Cursor],
    me: Presence,
    others: Sequence[Presence],
    *,
    names: frozenset[str],
) -> None:
    peers = [w.worker for w in others if not w.idle and _is_peer(w, me, others, names)]
    _balance(moves, rows, mine, share_of(me.worker, peers))


def _is_peer(worker: Presence, me: Presence, others: Sequence[Presence], names: frozenset[str]) -> bool:
    """Whether a worker has a share of its own: it knows something here, and leaves it to nobody."""
    if not worker.knows & names or outranks(me, worker, names):
        return False
    return not any(outranks(other, worker, names) for other in others if other is not worker)


def _balance(moves: Moves, rows: Sequence[Cursor], mine: Sequence[Cursor], share: int) -> None:
    have = sum(map(_size, mine))
    for row in sorted(mine, key=_size):
        if have <= share:
            break
        if _size(row) <= have - share:
            moves.release.append(row)
            have -= _size(row)
        else:
            moves.split.append((row, row.last + 1 - (have - share)))
            have = share
    for row in rows:
        if have >= share:
            break
        if not row.worker:
            kept = min(_size(row), share - have)
            moves.take.append((row, kept))
            have += kept
    moves.is_short = moves.is_short or have < share


def _size(row: Cursor) -> int:
    return row.last - row.first + 1


def _meeting(mine: Sequence[Cursor]) -> list[tuple[Cursor, Cursor]]:
    """Pairs that may be made one; no cursor is in two of them, since a merge changes its fence."""
    pairs: list[tuple[Cursor, Cursor]] = []
    rows = sorted(mine, key=lambda row: row.first)
    while len(rows) > 1:
        one, other = rows[0], rows[1]
        meet = one.last + 1 == other.first and one.position == other.position
        if meet:
            pairs.append((one, other))
        rows = rows[2:] if meet else rows[1:]
    return pairs


# --- a subscription's own --------------------------------------------------------------------


def _work_apart(
    moves: Moves,
    view: View,
    me: Presence,
    others: Sequence[Presence],
    follower: Follower,
    *,
    paused: bool,
    shares: bool,
    stays: bool,
) -> None:
    """Its cursor is shared out while it has far to go, and then worked whole, by one that takes it to the shared one.

    Nobody else has a batch under way then, to be lost with the cursor. One that `stays` apart is never to meet it.
    """
    rows = view.rows(follower.group, follower.name)
    mine = [row for row in rows if row.worker == me.worker]
    names = frozenset({follower.name})
    may_work = follower.name in me.knows and not paused and not follower.paused
    if not may_work or any(outranks(other, me, names) for other in others):
        moves.release += mine
        return
    if shares:
        _share_out(moves, rows, mine, me, others, names=names)
        moves.merge += _meeting(mine)
        return
    held = [row for row in rows if row.worker]
    if held and held[0].worker != me.worker:
        # Two have come at once: the one with the first range goes on.
        moves.release += mine
        return
    moves.take += [(row, SLOTS) for row in rows if not row.worker]
    moves.merge += _meeting(mine)
    # None, where it joined the others again between the reading of who follows and that of the cursors.
    if not stays and mine and len(mine) == len(rows) and _may_rejoin(view, mine, follower, [me, *others]):
        moves.rejoin.append(follower.name)


def _is_near(view: View, follower: Follower, near: int) -> bool:
    """Whether none of its ranges has far to go to where the shared cursor stands."""
    stands = min((row.position for row in view.rows(follower.group, SHARED)), default=0)
    return all(stands - row.position <= near for row in view.rows(follower.group, follower.name))


def _may_rejoin(view: View, own: Sequence[Cursor], follower: Follower, living: Sequence[Presence]) -> bool:
    """Whether it has caught up, and whoever works for the group knows it; else it would be parted again at once."""
    names = frozenset(f.name for f in view.of_group(follower.group))
    workers = [worker for worker in living if worker.knows & names]
    if any(follower.name not in worker.knows for worker in workers if not _yields(worker, workers, names)):
        return False
    stands = own[0].position
    shared = view.rows(follower.group, SHARED)
    return all(row.position == stands for row in own) and all(row.position <= stands for row in shared)


def _yields(worker: Presence, workers: Sequence[Presence], names: frozenset[str]) -> bool:
    return any(outranks(other, worker, names) for other in workers if other is not worker)
