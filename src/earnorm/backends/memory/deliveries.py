"""The deliveries of a memory store, and the settling of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from earnorm.backends.memory.leases import LeaseVerbs
from earnorm.backends.memory.log import LogVerbs, is_in
from earnorm.backends.memory.state import forget, of_cursor, put
from earnorm.backends.reuse import left_out
from earnorm.delivery import Attempt, Delivery
from earnorm.errors import LeaseLost
from earnorm.room import fitting
from earnorm.store import ATTEMPTS_KEPT, SHARED, Advance, Plan, Range, Settlement, Waiting

__all__ = ["DeliveryVerbs"]


class DeliveryVerbs(LogVerbs, LeaseVerbs):
    """What may run, and what came of it."""

    def waiting(self) -> dict[str, Waiting]:
        rows = self._open()
        free = self._runnable()
        return {
            name: Waiting(
                next((row.due for row in free if row.subscription == name), None),
                any(row.worker for row in rows if row.subscription == name),
            )
            for name in sorted({row.subscription for row in rows})
        }

    def due(self, subscription: str, slots: Sequence[Range], limit: int, room: int | None = None) -> list[Delivery]:
        now = self.now()
        ours = (row for row in self._runnable() if row.subscription == subscription and row.due <= now)
        found = [row for row in ours if is_in(row.entry, slots)][:limit]
        return found[: fitting((len(row.entry.data) for row in found), room)]

    def blocked(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        return set(pairs) & {_lane(delivery) for delivery in self._open() if delivery.ordered}

    def deliveries(self, event: str | None = None) -> list[Delivery]:
        rows = self.state.deliveries.values()
        return [delivery for delivery in rows if event is None or str(delivery.entry.id) == event]

    def attempts(self, delivery: int) -> list[Attempt]:
        row = self.state.deliveries.get(delivery)
        if row is None:
            return []
        mine = (row.subscription, row.entry.id)
        return [made for made in self.state.attempts if (made.subscription, made.event) == mine][-ATTEMPTS_KEPT:]

    def running(self, worker: str) -> list[Delivery]:
        return [delivery for delivery in self.state.deliveries.values() if delivery.worker == worker]

    def _open(self) -> list[Delivery]:
        return [delivery for delivery in self.state.deliveries.values() if delivery.state == "open"]

    def _runnable(self) -> list[Delivery]:
        """Those nothing stands before and nobody runs, the longest due first."""
        lowest: dict[tuple[str, str], int] = {}
        for delivery in self._open():
            if delivery.ordered:
                lowest.setdefault(_lane(delivery), delivery.id)
        free = [d for d in self._open() if not d.worker and (not d.ordered or lowest[_lane(d)] == d.id)]
        return sorted(free, key=lambda delivery: (delivery.due, delivery.id))

    # --- settling ---

    def settle(self, settlement: Settlement) -> None:
        self._require_all(settlement)
        for group, plan in settlement.plans.items():
            self._check_plan(group, plan, settlement)
        put(self.state, *(replace(self._require(a.cursor), position=a.position, deaths=0) for a in settlement.advances))
        rows = dict(self.state.deliveries)
        for delivery in settlement.set_aside:
            self.state.last_delivery += 1
            aside = structs.replace(delivery.entry, raw_due=None)
            rows[self.state.last_delivery] = structs.replace(delivery, id=self.state.last_delivery, entry=aside)
        ours = ("", settlement.worker)
        for again in settlement.rescheduled:
            if again.id in rows and rows[again.id].worker in ours:
                rows[again.id] = _rescheduled(rows[again.id], again)
        over = [rows[number] for number in dict.fromkeys(settlement.finished) if number in rows]
        over = [row for row in over if row.worker in ours]
        self.state.deliveries = {number: row for number, row in rows.items() if row not in over}
        self.state.attempts += tuple(settlement.attempts)
        forget(self.state, over)
        repeated = left_out(self, settlement.keys)
        self.append([entry for entry in settlement.emitted if entry.id not in repeated])

    def _require_all(self, settlement: Settlement) -> None:
        for advance in settlement.advances:
            found = self._require(advance.cursor)
            if (found.worker, found.position) != (settlement.worker, advance.cursor.position):
                raise LeaseLost(settlement.worker, str(advance.cursor))
        for number in settlement.running:
            row = self.state.deliveries.get(number)
            if row is None or row.worker != settlement.worker:
                raise LeaseLost(settlement.worker, f"delivery {number}")
        seen = settlement.seen
        if seen and not any((e.position, e.id) == (seen.position, seen.event) for e in self.state.log):
            raise LeaseLost(settlement.worker, f"position {seen.position}")

    def _check_plan(self, group: str, plan: Plan, settlement: Settlement) -> None:
        """Whoever follows the shared cursor must have been given what it passes; who no longer does, moves along."""
        found = self.state.groups.get(group)
        if found and found.generation == plan.generation:
            return
        shared = [a for a in settlement.advances if (a.cursor.group, a.cursor.name) == (group, SHARED)]
        reached = max((advance.position for advance in shared), default=0)
        of_group = [follower for follower in self.state.followers.values() if follower.group == group]
        if name := plan.called_off(of_group, settlement.set_aside):
            raise LeaseLost(settlement.worker, f"group {group}, which {name} left")
        for follower in of_group:
            if follower.apart and follower.name in plan.followers:
                self._move_along(follower.name, shared)
            elif not follower.apart and follower.name not in plan.followers and follower.start < reached:
                raise LeaseLost(settlement.worker, f"group {group}, which {follower.name} joined")

    def _move_along(self, name: str, shared: Sequence[Advance]) -> None:
        for advance in shared:
            cursor = advance.cursor
            for row in of_cursor(self.state, cursor.group, name):
                inside = cursor.first <= row.first and row.last <= cursor.last
                if inside and not row.fence and cursor.position <= row.position < advance.position:
                    put(self.state, replace(row, position=advance.position))


def _lane(delivery: Delivery) -> tuple[str, str]:
    return delivery.subscription, delivery.entry.key


def _rescheduled(row: Delivery, again: Delivery) -> Delivery:
    return structs.replace(
        row,
        attempt=again.attempt,
        chosen=again.due,
        state=again.state,
        error=again.error,
        fingerprint=again.fingerprint,
        worker=again.worker,
        suspect=again.suspect,
    )
