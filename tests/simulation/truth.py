"""The truth: what was committed, what was done, and what must hold between the two after every commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from earnorm.event import Entry
from tests.simulation.faults import LEASE, Record
from tests.simulation.kernel import START


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class Subscribed:
    """A handler as a story knows it."""

    name: str
    pattern: str
    ordered: bool = True

    def hears(self, entry: Entry) -> bool:
        return self.pattern == "**" or entry.name == self.pattern


@dataclass
class Truth:
    """Knows from outside what the engine only knows from the store."""

    handlers: tuple[Subscribed, ...]
    poison: set[UUID] = field(default_factory=set)
    events: dict[UUID, Entry] = field(default_factory=dict)
    begun: set[UUID] = field(default_factory=set)
    effects: Counter = field(default_factory=Counter)
    order: dict = field(default_factory=lambda: defaultdict(list))
    starts: dict[str, int] = field(default_factory=dict)
    fence: int = 0
    forgotten: set[UUID] = field(default_factory=set)
    retried: set = field(default_factory=set)
    broken: Violation | None = None
    _held: tuple[str, float] | None = None
    _ground: object = None

    def _broken(self, promise: str) -> None:
        # Not raised here, inside a process: the engine survives what a store or a handler raises.
        self.broken = self.broken or Violation(promise)

    # --- what happens ---

    def effect(self, handler: str, entry_id: UUID, key: str) -> None:
        """A handler did what it does. Only of what was committed may it know."""
        if entry_id not in self.events and entry_id not in self.forgotten:
            self._broken(f"{handler} ran for {entry_id}, which was never committed")
        self.effects[handler, entry_id] += 1
        if self.effects[handler, entry_id] == 1:
            self.order[handler, key].append(entry_id)

    def committed(self, record: Record) -> None:
        """A transaction is in the store, whoever knows of it."""
        for call in record.of("settle"):
            lease, settlement = call.arguments
            if lease.fence != self.fence:
                self._broken(f"{lease.worker} settled under fence {lease.fence}, and {self.fence} was given out")
            self._check_letters(settlement)
            self._take(settlement.emitted)
        for call in record.of("release"):
            if self._held is not None and self._held[0] == call.arguments[0].worker:
                self._held = None
        for call in record.of("claim"):
            if call.result is not None:
                self._check_claim(call)
        for call in record.of("append"):
            self._take(call.arguments[0])
        if any(call.verb in ("append", "settle", "subscribe") for call in record.calls):
            self._ground.remember()
        if any(call.verb in ("settle", "subscribe") for call in record.calls):
            self.look()

    def _check_claim(self, call) -> None:
        """A lease is taken from nobody before it runs out, and runs for as long as leases do."""
        lease = call.result
        if self._held is not None and self._held[0] != lease.worker and call.ended < self._held[1]:
            self._broken(f"{lease.worker} took the lease from {self._held[0]} {self._held[1] - call.ended:.1f} s early")
        until = (lease.expires - START).total_seconds()
        if not call.began - 0.1 < until - LEASE < call.ended + 0.1:
            self._broken(f"{lease.worker} has the lease for {until - call.began:.1f} s")
        self._held = (lease.worker, until)
        self.fence = lease.fence

    def _check_letters(self, settlement) -> None:
        for delivery in (*settlement.set_aside, *settlement.rescheduled):
            if delivery.state == "dead" and delivery.entry.id not in self.poison:
                self._broken(f"{delivery.subscription} gave {delivery.entry.id} up: {delivery.error[:200]}")

    def forget(self, standing: set[UUID]) -> None:
        """A failover lost what does not stand in the log any more. Its handlers may have run."""
        gone = self.events.keys() - standing
        self.forgotten |= gone
        for lost in gone:
            del self.events[lost]
        with self._ground.peek() as transaction:
            holder = transaction.holder()
            cursors = transaction.cursors()
        self.fence = holder.fence if holder else self._ground.store._state.fence
        self._held = (holder.worker, (holder.expires - START).total_seconds()) if holder else None
        self.starts = {name: start for name, start in self.starts.items() if name in cursors}

    # --- what must hold ---

    def look(self) -> None:
        """Compare with the store, as a reader beside it sees it."""
        with self._ground.peek() as transaction:
            cursors = transaction.cursors()
            log = transaction.read(0, 1 << 40, 1 << 20)
            rows = transaction.deliveries()
        self._take(log)
        for name, position in cursors.items():
            self.starts.setdefault(name, position)
        kept = {(row.subscription, row.entry.id) for row in rows}
        for handler in self.handlers:
            if handler.name in cursors:
                self._check_passed(handler, cursors[handler.name], kept)

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.id not in self.begun:
                self._broken(f"{entry.id} is in the log, and nobody appended it")
            self.events[entry.id] = entry

    def _check_passed(self, handler: Subscribed, cursor: int, kept: set) -> None:
        start = self.starts[handler.name]
        for entry in self.events.values():
            if not (start < entry.position <= cursor and handler.hears(entry)):
                continue
            if (handler.name, entry.id) not in kept and not self.effects[handler.name, entry.id]:
                self._broken(
                    f"{handler.name} has passed {entry.position} ({entry.id}), which it neither handled nor set aside"
                )

    def check_order(self) -> None:
        """Of each record, a handler did the first time what it did in the order of the log."""
        for handler in self.handlers:
            if not handler.ordered:
                continue
            for (name, key), ids in self.order.items():
                positions = [self.events[each].position for each in ids if each in self.events]
                if name == handler.name and key and positions != sorted(positions):
                    self._broken(f"{name} did the events of {key} in the order {positions}")

    def check_emitted(self) -> None:
        """What a handler emits is in the log once, however often it ran."""
        emitted = Counter(entry.causation_id for entry in self.events.values() if entry.causation_id)
        if twice := [cause for cause, count in emitted.items() if count > 1]:
            self._broken(f"what was emitted for {twice[0]} is in the log {emitted[twice[0]]} times")

    def check_end(self, now: float) -> None:
        """All is drained: every event was handled by everybody who hears it, or is a dead letter that had to be one."""
        with self._ground.peek() as transaction:
            rows = transaction.deliveries()
            holder = transaction.holder()
        if open_rows := [row for row in rows if row.state == "open"]:
            self._broken(f"{len(open_rows)} deliveries are still open, such as {open_rows[0]}")
        if holder is not None and (holder.expires - START).total_seconds() > now + LEASE:
            self._broken(f"{holder.worker} has gone, and nobody can take over before {holder.expires}")
        self.look()
        dead = {(row.subscription, row.entry.id) for row in rows}
        for handler in self.handlers:
            for entry in self.events.values():
                if handler.name not in self.starts or entry.position <= self.starts[handler.name]:
                    continue
                done = self.effects[handler.name, entry.id] or (handler.name, entry.id) in dead
                if handler.hears(entry) and not done:
                    self._broken(f"{handler.name} never handled {entry.position} ({entry.id})")
