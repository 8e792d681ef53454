"""The SQL store's verbs on deliveries set aside, and the settling of batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from earnorm.backends.reuse import left_out
from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.attempts import AttemptVerbs
from earnorm.backends.sqlalchemy.entries import LogVerbs
from earnorm.backends.sqlalchemy.leases import LeaseVerbs, held
from earnorm.backends.sqlalchemy.payloads import within
from earnorm.backends.sqlalchemy.rows import delivery_row, parse_id, rescheduling, to_delivery, to_waiting
from earnorm.backends.sqlalchemy.statements import parameters_of
from earnorm.backends.sqlalchemy.subscriptions import SubscriptionVerbs
from earnorm.delivery import Delivery
from earnorm.errors import LeaseLost
from earnorm.instants import microseconds
from earnorm.slots import LAST_SLOT
from earnorm.store import SHARED, Advance, Range, Seen, Settlement, Waiting

__all__ = ["DeliveryVerbs"]

_WHOLE = (0, LAST_SLOT)
# Where a delivery has its data.
_PLACE = tables.delivery.columns.keys().index("data")


class DeliveryVerbs(LogVerbs, SubscriptionVerbs, LeaseVerbs, AttemptVerbs):
    """What may run, and what came of it."""

    __slots__ = ()

    def waiting(self) -> dict[str, Waiting]:
        return to_waiting(self._statements.waiting(self._connection))

    def due(self, subscription: str, slots: Sequence[Range], limit: int, room: int | None = None) -> list[Delivery]:
        words: dict[str, Any] = {"name": subscription, "now": microseconds(self.now()), "limit": limit}
        statement = self._statements.due
        if _WHOLE not in slots:
            statement, words = self._statements.due_slots(len(slots)), words | parameters_of(slots)

        def rows() -> Sequence[Any]:
            return statement(self._connection, **words).fetchall()

        return [to_delivery(row) for row in within(self._connection, tables.delivery.c.id, rows, _PLACE, room)]

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        # Mostly nothing is set aside at all, which costs one look to know.
        if not pairs or self._statements.any_waited_for(self._connection).fetchone() is None:
            return set()
        return self._dialect.blocked(self._connection, pairs)

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        if event is None:
            rows = self._statements.deliveries(self._connection)
        else:
            rows = self._statements.deliveries_of(self._connection, event_id=parse_id(event))
        return [to_delivery(row) for row in rows]

    def running(self, worker: str) -> list[Delivery]:
        return [to_delivery(row) for row in self._statements.running(self._connection, by=worker)]

    # --- settling ---

    def settle(self, settlement: Settlement) -> None:
        with self._guarded(settlement):
            # Before the deliveries, as whoever changes who follows has the groups' rows before those.
            parted = {group: self._check_plan(group, settlement) for group in sorted(settlement.plans)}
            self._write_deliveries(settlement)
            if settlement.emitted:
                repeated = left_out(self, settlement.keys)
                self.append([entry for entry in settlement.emitted if entry.id not in repeated])
            # Last, so that on databases with row locks these are held for as short as can be.
            self._require_seen(settlement)
            for advance in sorted(settlement.advances, key=lambda advance: advance.cursor.place):
                self._move_cursor(advance, settlement.worker)
            for group, names in parted.items():
                for name in names:
                    self._move_along(name, _shared(settlement, group))

    def _guarded(self, settlement: Settlement) -> AbstractContextManager[None]:
        """A savepoint, unless what may fail is the only thing that writes: of a batch without failures, mostly so."""
        writes = any((settlement.set_aside, settlement.rescheduled, settlement.finished, settlement.emitted))
        if writes or len(settlement.advances) > 1:
            return self._all_or_nothing("earnorm_settle")
        return nullcontext()

    def _write_deliveries(self, settlement: Settlement) -> None:
        by = settlement.worker
        for number in settlement.running:
            if self._statements.is_run_by(self._connection, row=number, by=by).fetchone() is None:
                raise LeaseLost(by, f"delivery {number}")
        if settlement.set_aside:
            rows = [delivery_row(delivery) for delivery in settlement.set_aside]
            self._dialect.insert(self._connection, tables.delivery, rows)
        if settlement.rescheduled:
            again = ({**rescheduling(delivery), "by": by} for delivery in settlement.rescheduled)
            self._statements.reschedule.many(self._connection, again)
        self._write_attempts(settlement.attempts)
        if settlement.finished:
            finished = [{"row": number, "by": by} for number in settlement.finished]
            self._statements.finish_attempts.many(self._connection, finished)
            self._statements.finish.many(self._connection, finished)

    def _require_seen(self, settlement: Settlement) -> None:
        seen = settlement.seen
        if seen is not None and not self._stands(seen):
            raise LeaseLost(settlement.worker, f"position {seen.position}")

    def _stands(self, seen: Seen) -> bool:
        row = self._statements.stands(self._connection, place=seen.position, event_id=seen.event.bytes).fetchone()
        return row is not None

    def _check_plan(self, group: str, settlement: Settlement) -> list[str]:
        """Whoever follows the shared cursor must have been given what it passes; returns who follows it no more."""
        plan = settlement.plans[group]
        row = self._statements.share_group(self._connection, called=group).fetchone()
        if row is not None and row[0] == plan.generation:
            return []
        reached = max((advance.position for advance in _shared(settlement, group)), default=0)
        now = [follower for follower in self.followers() if follower.group == group]
        if name := plan.called_off(now, settlement.set_aside):
            raise LeaseLost(settlement.worker, f"group {group}, which {name} left")
        for follower in now:
            if not follower.apart and follower.name not in plan.followers and follower.start < reached:
                raise LeaseLost(settlement.worker, f"group {group}, which {follower.name} joined")
        return [follower.name for follower in now if follower.apart and follower.name in plan.followers]

    def _move_along(self, name: str, shared: Sequence[Advance]) -> None:
        for advance in shared:
            cursor = advance.cursor
            slots = {"from_slot": cursor.first, "to_slot": cursor.last}
            places = {"previous": cursor.position, "to_position": advance.position}
            self._statements.move_along(self._connection, of_group=cursor.group, called=name, **slots, **places)

    def _move_cursor(self, advance: Advance, worker: str) -> None:
        cursor = advance.cursor
        words = {**held(cursor), "previous": cursor.position, "to_position": advance.position}
        if cursor.worker != worker or not self._statements.move(self._connection, **words).rowcount:
            raise LeaseLost(worker, str(cursor))


def _shared(settlement: Settlement, group: str) -> list[Advance]:
    """How a group's shared cursor moves."""
    return [a for a in settlement.advances if (a.cursor.group, a.cursor.name) == (group, SHARED)]
