"""Planted bugs: each breaks the shipped code as somebody once has, or might, and a story has to find it.

A bug is a function that patches; `on` names the ground whose database lets it do harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from earnorm import tenure as tenures
from earnorm import worker as workers
from earnorm.backends.memory import MemoryTransaction, upkeep
from earnorm.backends.memory.log import is_in
from earnorm.backends.sqlalchemy import lease_statements, tables
from earnorm.backends.sqlalchemy.dialects import horizon as horizons
from earnorm.backends.sqlalchemy.dialects.postgresql import PostgreSQL
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox
from earnorm.backends.sqlalchemy.rows import to_cursor
from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction
from earnorm.delivery import Done
from earnorm.errand import Errand
from earnorm.errors import LeaseLost
from earnorm.fold import fold
from earnorm.retention import Reach
from earnorm.store import Plan
from earnorm.turn import Turns


class Never(Exception):
    """Nobody raises this."""


@dataclass(frozen=True)
class Bug:
    name: str
    on: str
    plant: Callable[[pytest.MonkeyPatch], None]


BUGS: list[Bug] = []


def bug(name: str, *, on: str):
    def add(plant):
        BUGS.append(Bug(name, on, plant))
        return plant

    return add


# --- the horizon ---


@bug("cursor by id", on="postgresql")
def cursor_by_id(patch: pytest.MonkeyPatch) -> None:
    """Whatever the sequence has given out is taken to be there."""

    def read(self, connection, clock):
        return connection.exec_driver_sql(horizons._LAST).scalar_one()

    patch.setattr(horizons.Horizon, "read", read)


@bug("horizon in one statement with the rows", on="postgresql")
def horizon_with_the_rows(patch: pytest.MonkeyPatch) -> None:
    """A statement's snapshot is older than the locks that it looks at while it runs: so, here, the rows come first."""
    read, horizon = SQLAlchemyTransaction.read, SQLAlchemyTransaction.horizon
    seen = {}

    def snapshot_and_horizon(self):
        seen[self._connection] = read(self, 0, 1 << 40, 1 << 20)
        return horizon(self)

    def rows(self, after, upto, limit, slots=(), room=None):
        found = seen.pop(self._connection, None)
        if found is None:
            return read(self, after, upto, limit, slots, room)
        ours = [entry for entry in found if not slots or is_in(entry, slots)]
        return [entry for entry in ours if after < entry.position <= upto][:limit]

    patch.setattr(SQLAlchemyTransaction, "horizon", snapshot_and_horizon)
    patch.setattr(SQLAlchemyTransaction, "read", rows)


@bug("horizon under REPEATABLE READ", on="postgresql")
def horizon_under_repeatable_read(patch: pytest.MonkeyPatch) -> None:
    """Locks are seen as they are, rows as they were."""
    for kind in ("own_transactions", "own_reads"):
        patch.setattr(PostgreSQL, kind, {"isolation_level": "REPEATABLE READ"})


# --- the lease ---


@bug("fence checked without its lock", on="postgresql")
def fence_without_its_lock(patch: pytest.MonkeyPatch) -> None:
    """It is right when it is looked at, and not any more when the cursor is moved."""

    def move_cursor(self, advance, worker):
        cursor = advance.cursor
        at = {"of_group": cursor.group, "called": cursor.name}
        rows = [to_cursor(row) for row in self._statements.rows(self._connection, **at)]
        if not any((row.place, row.fence, row.worker) == (cursor.place, cursor.fence, worker) for row in rows):
            raise LeaseLost(worker, str(cursor))
        moved = update(tables.cursor).where(lease_statements._is_it()).values(position=advance.position)
        names = {"of_group": cursor.group, "called": cursor.name, "from_slot": cursor.first}
        self._connection.execute(moved, names)

    patch.setattr(SQLAlchemyTransaction, "_move_cursor", move_cursor)


@bug("lease from the worker's clock", on="memory")
def lease_from_the_workers_clock(patch: pytest.MonkeyPatch) -> None:
    """Whose clock is behind looks dead to the others, and whose is ahead lives on after its death."""
    beat, enter = MemoryTransaction.beat, MemoryTransaction.enter

    def off(transaction):
        process = transaction.clock._kernel.process
        return timedelta(seconds=process.skew if process else 0.0)

    patch.setattr(MemoryTransaction, "beat", lambda self, worker, expires: beat(self, worker, expires + off(self)))
    patch.setattr(
        MemoryTransaction, "enter", lambda self, said: enter(self, replace(said, expires=said.expires + off(self)))
    )


# --- settling ---


@bug("settle before effect", on="memory")
def settle_before_effect(patch: pytest.MonkeyPatch) -> None:
    """What is marked as done first is lost by a crash between the two."""
    perform = Turns._perform

    def settled_first(self, window, plans, until):
        done = [[Done() for _ in lane] for lane in window.lanes]
        self._settler.write(lambda now: fold(window, done, now, self._tenure.worker, plans))
        return perform(self, window, plans, until)

    patch.setattr(Turns, "_perform", settled_first)


@bug("retry forgets the record's order", on="memory")
def retry_forgets_the_order(patch: pytest.MonkeyPatch) -> None:
    """Later events of a record no longer wait behind one that is set aside."""
    patch.setattr(MemoryTransaction, "blocked", lambda self, pairs: set())


@bug("positions trusted after a failover", on="memory")
def positions_trusted_after_a_failover(patch: pytest.MonkeyPatch) -> None:
    """A cursor is moved by number, over an event that was never seen there."""
    settle = MemoryTransaction.settle
    patch.setattr(MemoryTransaction, "settle", lambda self, settlement: settle(self, replace(settlement, seen=None)))
    patch.setattr(workers, "ConnectionLost", Never)
    patch.setattr(tenures, "ConnectionLost", Never)
    patch.setattr(tenures.Tenure, "require_line", lambda self: None)


@bug("lost cancel", on="memory")
def lost_cancel(patch: pytest.MonkeyPatch) -> None:
    """What was called off while it was at work is set aside again by whoever was at work."""
    patch.setattr(Plan, "called_off", lambda self, followers, set_aside: None)


@bug("done-mark outside the transaction", on="memory")
def mark_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    """Effects are committed, and marked as done a moment later, unless something comes between the two."""
    serve = Errand._serve

    def remembered(self, stage):
        self.settlement = fold(self.window, self.outcomes, stage.transaction.now(), self._worker, {})

    class Marking:
        def __init__(self, stages):
            self._stages = stages

        def perform(self, work):
            self._stages.perform(work)
            with self._stages.line.begin() as transaction:
                transaction.settle(work.__self__.settlement)

    patch.setattr(Errand, "_settle", remembered)
    patch.setattr(Errand, "_serve", lambda self, stages: serve(self, Marking(stages)))


# --- pruning ---


@bug("prune before a reader", on="memory")
def prune_before_a_reader(patch: pytest.MonkeyPatch) -> None:
    """What is old enough goes, whoever has still to read it."""
    patch.setattr(upkeep, "reach_of", lambda *_, **__: Reach(None, {}))


# --- the boundary ---


@bug("release on savepoint", on="savepoints")
def release_on_savepoint(patch: pytest.MonkeyPatch) -> None:
    """As if RELEASE SAVEPOINT were the commit: what is told then may be rolled back a line later."""
    release_savepoint = ConnectionOutbox.release_savepoint

    def released(self, name):
        release_savepoint(self, name)
        self.composed = list(self.happenings)
        self.release()

    patch.setattr(ConnectionOutbox, "release_savepoint", released)
