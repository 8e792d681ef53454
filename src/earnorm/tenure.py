"""A tenure: what one worker holds, and what it knows of the others. Looked after between batches, kept up meanwhile."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

from earnorm.clock import Clock
from earnorm.errors import ConnectionLost, LeaseLost
from earnorm.shares import NEAR, Moves, View, moves_of
from earnorm.store import Advance, Cursor, Follower, Group, Presence, Store, Transaction

__all__ = ["Tenure"]

_log = logging.getLogger("earnorm.worker")

# Seconds that what was seen of the others is good for: who comes to share the work waits so long for it, and a pause
# has to be heeded within two.
_LOOK = 0.25
# Of an idle worker nobody waits for anything, so it may be looked at as alive for longer, and say so more rarely:
# longer than one rests that would be woken.
_IDLE_LIFE = 20.0
# Moves follow from moves, as a take from a burial; no more than so many in a row.
_ROUNDS = 16


def _here() -> str:
    return _place_of(os.getpid())


@lru_cache(maxsize=1)
def _place_of(_process: int) -> str:
    """This host, and on Linux the process namespace, so that containers of one name are not taken for one host."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _is_dead(worker: str) -> bool:
    """Whether a worker's process is known to be gone: it ran on this host, and its process id is free."""
    place, _, rest = worker.rpartition("/")[0].rpartition("/")
    if place != _here() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Tenure:
    """Takes, keeps and gives back cursors under an identity that no other process or fork ever has."""

    def __init__(self, store: Store, clock: Clock, seconds: float, *, dedicated: bool = False) -> None:
        self.worker = f"{_here()}/{os.getpid()}/{secrets.token_hex(4)}"
        self.third = seconds / 3
        self.near = NEAR
        self.view: View | None = None
        # Subscriptions of which something is under way between two looks.
        self.busy: frozenset[str] = frozenset()
        # Whether others still hold some of what should be this worker's.
        self.is_short = False
        # Whether a connection broke beside the turns, and what they have seen is still to be forgotten.
        self.is_cut = False
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._dedicated = dedicated
        self._followers: tuple[Mapping[str, Group], Sequence[Follower]] | None = None
        self._said: Presence | None = None
        self._beaten = 0.0
        self._looked = 0.0
        self._left_to_others: float | None = None

    @property
    def held(self) -> list[Cursor]:
        """The cursors that are this worker's, as far as it knows."""
        return [] if self.view is None else [c for c in self.view.cursors if c.worker == self.worker]

    @property
    def is_alone(self) -> bool:
        """Whether no other worker was there at the last look."""
        return self.view is not None and all(worker.worker == self.worker for worker in self.view.living)

    @property
    def is_fresh(self) -> bool:
        """Whether the last look is good enough to work by."""
        return self.view is not None and self._clock.monotonic() - self._looked < min(_LOOK, self.third)

    @property
    def is_recent(self) -> bool:
        """Whether it will be good enough for some time."""
        return self.view is not None and self._clock.monotonic() - self._looked < 0.75 * min(_LOOK, self.third)

    # --- looking -----------------------------------------------------------------------------

    def look(self, knows: frozenset[str], *, active: bool = True, solitary: frozenset[str] = frozenset()) -> None:
        """See who works what, and take and give back what is this worker's to take and to give back."""
        for _ in range(_ROUNDS):
            self._looked = self._clock.monotonic()
            self._say(knows, idle=not active)
            with self._store.begin(readonly=True) as transaction:
                view = self._view(transaction)
            self.view = view
            if self._bury(view):
                continue
            assert self._said is not None
            moves = moves_of(
                view,
                self._said,
                divides=self._store.divides,
                patient=self._is_patient(),
                solitary=solitary,
                near=self.near,
            )
            moves.spare(self.busy)
            self._notice_others(view, moves)
            self.is_short = moves.is_short
            if not active:
                moves.take.clear()
            if not self._carry_out(moves):
                return

    def _view(self, transaction: Transaction) -> View:
        groups = transaction.groups()
        return View(
            groups=groups,
            followers=self.followers(transaction, groups),
            cursors=transaction.cursors(),
            workers=transaction.workers(),
            now=transaction.now(),
        )

    def followers(self, transaction: Transaction, groups: Mapping[str, Group]) -> Sequence[Follower]:
        """Who follows, as of these groups, which the transaction has just read: read again only if they have changed.

        When each was last seen is not kept up with.
        """
        if self._followers is None or self._followers[0] != groups:
            self._followers = groups, transaction.followers()
        return self._followers[1]

    def _say(self, knows: frozenset[str], *, idle: bool) -> None:
        """Be there, and say so again when a third of the lease has passed."""
        said = self._said
        same = said is not None and (said.knows, said.idle) == (knows, idle)
        life = self._seconds * (_IDLE_LIFE if idle else 1.0)
        if same and self._clock.monotonic() - self._beaten < life / 3:
            return
        beaten = self._clock.monotonic()
        with self._store.begin() as transaction:
            expires = transaction.now() + timedelta(seconds=life)
            if said is None:
                # Of what this worker held or ran before it lost sight of it, nothing is its own any more.
                transaction.leave(self.worker)
            if not (same and transaction.beat(self.worker, expires)):
                said = Presence(worker=self.worker, expires=expires, knows=knows, dedicated=self._dedicated, idle=idle)
                transaction.enter(said)
        self._said, self._beaten = said, beaten

    def _bury(self, view: View) -> bool:
        """The dead are buried by whoever sees them first; whether any were."""
        buried = False
        for worker in view.workers:
            known_dead = _is_dead(worker.worker)
            if worker.worker == self.worker or not (known_dead or worker.expires <= view.now):
                continue
            with self._store.begin() as transaction:
                buried = transaction.bury(worker.worker, dead=known_dead) or buried
        return buried

    def _notice_others(self, view: View, moves: Moves) -> None:
        """Remember since when cursors have been left to others that have not taken them."""
        if moves.take or self.held:
            return
        free = any(not cursor.worker for cursor in view.cursors)
        if not free:
            self._left_to_others = None
        elif self._left_to_others is None:
            self._left_to_others = self._clock.monotonic()

    def _is_patient(self) -> bool:
        since = self._left_to_others
        return since is None or self._clock.monotonic() - since < self._seconds

    # --- moving ------------------------------------------------------------------------------

    def _carry_out(self, moves: Moves) -> bool:
        """Do what there is to do; whether there was anything, and so another look is due."""
        if not moves:
            return False
        try:
            self._give_back(moves)
            for group, names in moves.part.items():
                with self._store.begin() as transaction:
                    transaction.part(group, names)
            for name in moves.rejoin:
                with self._store.begin() as transaction:
                    transaction.rejoin(name)
            # Also where another worker was quicker: what it has left is to be seen.
            self._take(moves)
        except LeaseLost as lost:
            _log.info("%s", lost)
        return True

    def _give_back(self, moves: Moves) -> None:
        if moves.release:
            with self._store.begin() as transaction:
                transaction.release(moves.release)
        for cursor, at in moves.split:
            with self._store.begin() as transaction:
                transaction.split(cursor, at)
        for cursor, beside in moves.merge:
            with self._store.begin() as transaction:
                transaction.merge(cursor, beside)

    def _take(self, moves: Moves) -> None:
        """Take what is free, if it still is. What of a cursor is too much goes back with the same transaction."""
        for cursor, slots in moves.take:
            with self._store.begin() as transaction:
                # Its burial waits for this, or is seen: what the buried take is held by nobody who could be buried.
                if not transaction.beat(self.worker, transaction.now() + timedelta(seconds=self._seconds)):
                    self._said = None
                    return
                got = transaction.take(cursor, self.worker)
                if got is not None and got.last - got.first + 1 > slots:
                    transaction.split(got, got.first + slots)

    # --- meanwhile ---------------------------------------------------------------------------

    def keep(self) -> None:
        """Stay alive while handlers run, if it is time to say so. Should that fail, the settle will tell."""
        if self._said is None or self._clock.monotonic() - self._beaten < self.third:
            return
        beaten = self._clock.monotonic()
        try:
            with self._store.begin() as transaction:
                # Where it was buried meanwhile, the settle will be refused.
                transaction.beat(self.worker, transaction.now() + timedelta(seconds=self._seconds))
        except ConnectionLost:
            # Behind the next connection may stand a server that knows less: what runs is not to be settled there.
            self.forget()
            _log.warning("the connection broke while handlers ran; their events are handled again", exc_info=True)
        except Exception:  # noqa: BLE001  a store may raise anything, and handlers are under way
            self._beaten = beaten - self.third / 2
            _log.warning("the lease could not be renewed; trying again", exc_info=True)
        else:
            self._beaten = beaten

    def moved(self, advances: Iterable[Advance]) -> None:
        """They were settled, and their cursors stand there now."""
        if self.view is not None:
            now = {a.cursor.place: replace(a.cursor, position=a.position, deaths=0) for a in advances}
            self.view = replace(self.view, cursors=[now.get(c.place, c) for c in self.view.cursors])

    def stale(self) -> None:
        """Something was noticed that asks for another look before more is done."""
        self._looked = float("-inf")

    def forget(self) -> None:
        """Nothing that was seen is to be relied on: not who holds what, and not where it stands."""
        self.view = None
        self._said = self._followers = None
        self.is_cut = False

    def require_line(self) -> None:
        """Raises ConnectionLost if another server may have taken over since what is to be settled was read."""
        if self.is_cut:
            raise ConnectionLost("a connection broke beside this one")

    def lose(self) -> None:
        """Something is not as it was seen to be; this worker is still there."""
        self.view = None

    def rest(self) -> None:
        """Hold nothing while there is nothing to do, but stay in sight."""
        said = self._said
        if said is not None and not said.idle and not self.busy:
            held, self.view = self.held, None
            with self._store.begin() as transaction:
                transaction.release(held)
            self._say(said.knows, idle=True)

    def leave(self) -> None:
        """Give everything back and be gone, so that no other process need wait."""
        known, self.view, self._said = self._said, None, None
        if known is None:
            return
        try:
            with self._store.begin() as transaction:
                transaction.leave(self.worker)
        except Exception:  # noqa: BLE001  a store may raise anything, and nothing depends on it
            _log.warning("the leases could not be given back; they run out by themselves", exc_info=True)
