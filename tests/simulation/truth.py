"""The truth: what was committed, what was done, and what must hold between the two after every commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from earnorm.event import Entry
from earnorm.slots import SLOTS, slot_of
from earnorm.store import Cursor, Follower
from earnorm.tenure import _IDLE_LIFE
from tests.simulation.faults import LEASE, Call, Record
from tests.simulation.kernel import START

LEASING = frozenset(
    {"subscribe", "part", "rejoin", "leave", "bury", "take", "release", "split", "merge", "settle", "retire"}
)
WRITING = LEASING | {"append", "enter", "beat", "pause", "pause_group"}


# What the transactional handler appends for each event: its effect.
PAID = "order.settled"


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class Subscribed:
    """A handler as a story knows it."""

    name: str
    pattern: str
    ordered: bool = True
    transactional: bool = False

    def hears(self, entry: Entry) -> bool:
        return self.pattern == "**" or entry.name == self.pattern


@dataclass
class Truth:
    """Knows from outside what the engine only knows from the store.

    poison     events whose handlers always fail
    begun      ids that a transaction which is meant to commit has appended
    forgotten  ids that were committed, and that a failover has lost
    effects    how often a handler did what it does, by handler and event
    order      by handler and record, the events that it did, in the order of the first time
    starts     by handler, where its subscription began
    called_off by handler and event, what was to be done no more
    cursors    as of the last commit that changed leases
    lives      by worker, until when it said it lives
    """

    handlers: tuple[Subscribed, ...]
    ground: object = None
    poison: set[UUID] = field(default_factory=set)
    begun: set[UUID] = field(default_factory=set)
    events: dict[UUID, Entry] = field(default_factory=dict)
    forgotten: set[UUID] = field(default_factory=set)
    effects: Counter = field(default_factory=Counter)
    order: dict = field(default_factory=lambda: defaultdict(list))
    starts: dict[str, int] = field(default_factory=dict)
    cursors: dict = field(default_factory=dict)
    lives: dict[str, float] = field(default_factory=dict)
    called_off: set = field(default_factory=set)
    broken: Violation | None = None

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
        verbs = {call.verb for call in record.calls}
        for call in record.calls:
            match call.verb:
                case "append":
                    self._take(call.arguments[0])
                case "enter":
                    (presence,) = call.arguments
                    self._lives(presence.worker, presence.expires, record)
                case "beat" if call.result:
                    worker, expires = call.arguments
                    self._lives(worker, expires, record)
                case "bury" if call.result:
                    self._check_burial(call)
                case "settle":
                    self._check_settle(*call.arguments)
                case "retire" if call.result is not None:
                    self._retired(*call.arguments)
        if verbs & WRITING:
            self.ground.remember()
        if verbs & LEASING:
            self._look_at_leases()
        if verbs & {"settle", "subscribe"}:
            self.look()

    def _lives(self, worker: str, expires: datetime, record: Record) -> None:
        """It lives for a lease (or many, of one that idles), by the store's clock as it was asked."""
        until = (expires - START).total_seconds()
        asked = record.of("now")[-1]
        if not any(asked.began - 0.01 < until - lives < asked.ended + 0.01 for lives in (LEASE, _IDLE_LIFE * LEASE)):
            self._broken(f"{worker} lives until {until:.1f} s, and it was {asked.ended:.1f} s when it said so")
        self.lives[worker] = until

    def _check_burial(self, call: Call) -> None:
        worker, left = call.arguments[0], self.lives.get(call.arguments[0], 0.0) - call.ended
        if left > 0.0:
            self._broken(f"{worker} was buried with {left:.1f} s to live")

    def _check_settle(self, settlement) -> None:
        """Under a lease that is given to somebody else nothing is settled any more."""
        for advance in settlement.advances:
            cursor = self.cursors.get(advance.cursor.place)
            held = advance.cursor.worker, advance.cursor.fence
            if cursor is None or (cursor.worker, cursor.fence) != held:
                self._broken(f"{settlement.worker} settled {advance.cursor}, which is now {cursor}")
        for delivery in (*settlement.set_aside, *settlement.rescheduled):
            if delivery.state == "dead" and delivery.entry.id not in self.poison:
                self._broken(f"{delivery.subscription} gave {delivery.entry.id} up: {delivery.error[:200]}")
        self._take(settlement.emitted)

    def _retired(self, name: str) -> None:
        """Whatever it had still to do is called off; recorded again, it begins anew."""
        self.starts.pop(name, None)
        self.called_off |= {(name, entry) for entry in self.events}

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.id not in self.begun:
                self._broken(f"{entry.id} is in the log, and nobody appended it")
            if entry.name == PAID and entry.id not in self.events:
                self._paid(entry)
            self.events[entry.id] = entry

    def _paid(self, entry: Entry) -> None:
        """A transactional handler's effect stands, and no other of the same event may."""
        cause = self.events.get(entry.causation_id)
        if cause is None and entry.causation_id not in self.forgotten:
            self._broken(f"pay ran for {entry.causation_id}, which was never committed")
        self.effects["pay", entry.causation_id] += 1
        if self.effects["pay", entry.causation_id] > 1:
            self._broken(f"what pay did for {entry.causation_id} stands twice")
        if cause is not None:
            self.order["pay", cause.key].append(cause.id)

    def forget(self, standing: set[UUID]) -> None:
        """A failover lost what does not stand in the log any more. Its handlers may have run."""
        gone = self.events.keys() - standing
        self.forgotten |= gone
        for lost in gone:
            self._unpaid(self.events.pop(lost))
        self.called_off.clear()
        with self.ground.peek() as transaction:
            names = {follower.name for follower in transaction.followers()}
            self.cursors = {cursor.place: cursor for cursor in transaction.cursors()}
            self.lives = {each.worker: (each.expires - START).total_seconds() for each in transaction.workers()}
        self.starts = {name: start for name, start in self.starts.items() if name in names}

    def _unpaid(self, lost: Entry) -> None:
        """An effect goes with the commit that it was part of."""
        if lost.name == PAID:
            self.effects["pay", lost.causation_id] -= 1
            for ids in self.order.values():
                if lost.causation_id in ids:
                    ids.remove(lost.causation_id)

    # --- what must hold ---

    def look(self) -> None:
        """Compare with the store, as a reader beside it sees it."""
        with self.ground.peek() as transaction:
            followers = {follower.name: follower for follower in transaction.followers()}
            cursors = transaction.cursors()
            self._take(transaction.read(0, 1 << 40, 1 << 20))
            rows = transaction.deliveries()
        for row in rows:
            # One that is recorded anew begins at the horizon, which an open transaction may have held back.
            again = (follower := followers.get(row.subscription)) and row.entry.position > follower.start
            if row.state == "open" and not again and (row.subscription, row.entry.id) in self.called_off:
                self._broken(f"{row.subscription} was retired, and is to do {row.entry.id} again")
        kept = {(row.subscription, row.entry.id) for row in rows}
        for handler in self.handlers:
            if follower := followers.get(handler.name):
                self.starts.setdefault(handler.name, follower.start)
                own = [c for c in cursors if (c.group, c.name) == (follower.group, follower.cursor)]
                self._check_passed(handler, follower, own, kept)

    def _look_at_leases(self) -> None:
        with self.ground.peek() as transaction:
            self.cursors = {cursor.place: cursor for cursor in transaction.cursors()}
            workers = {presence.worker for presence in transaction.workers()}
        for cursor in self.cursors.values():
            if cursor.worker and cursor.worker not in workers:
                self._broken(f"{cursor} is held by {cursor.worker}, which is not there, so nobody will bury it")

    def _check_passed(self, handler: Subscribed, follower: Follower, cursors: list[Cursor], kept: set) -> None:
        """What a subscription's cursors have passed is done, or set aside."""
        start = self.starts[handler.name]
        stands = {slot: row.position for row in cursors for slot in range(row.first, row.last + 1)}
        if len(stands) != SLOTS:
            self._broken(f"{handler.name} follows cursors of {len(stands)} slots")
            return
        for entry in self.events.values():
            if not handler.hears(entry) or entry.position <= start:
                continue
            if entry.position > max(follower.start, stands[slot_of(entry.key, entry.id.bytes)]):
                continue
            if (handler.name, entry.id) not in kept and not self.effects[handler.name, entry.id]:
                self._broken(
                    f"{handler.name} has passed {entry.position} ({entry.id}), which it neither handled nor set aside"
                )

    def check_order(self) -> None:
        """Of each record, a handler did the first time what it did in the order of the log.

        What stands before its start was called off when it was retired; a batch under way may have done it later still.
        """
        for handler in self.handlers:
            if not handler.ordered:
                continue
            start = self.starts.get(handler.name, 0)
            for (name, key), ids in self.order.items():
                standing = [self.events[each].position for each in ids if each in self.events]
                positions = [position for position in standing if position > start]
                if name == handler.name and key and positions != sorted(positions):
                    self._broken(f"{name} did the events of {key} in the order {positions}")

    def check_emitted(self) -> None:
        """What a handler emits is in the log once, however often it ran."""
        emitted = Counter((entry.causation_id, entry.name) for entry in self.events.values() if entry.causation_id)
        if twice := [cause for cause, count in emitted.items() if count > 1]:
            self._broken(f"{twice[0][1]}, emitted for {twice[0][0]}, is in the log {emitted[twice[0]]} times")

    def check_end(self) -> None:
        """All is drained: every event was handled by everybody who hears it, or is a dead letter that had to be one."""
        self.look()
        with self.ground.peek() as transaction:
            rows = transaction.deliveries()
        if open_rows := [row for row in rows if row.state == "open"]:
            self._broken(f"{len(open_rows)} deliveries are still open, such as {open_rows[0]}")
        dead = {(row.subscription, row.entry.id) for row in rows}
        for handler in self.handlers:
            for entry in self.events.values():
                if handler.name not in self.starts or entry.position <= self.starts[handler.name]:
                    continue
                done = self.effects[handler.name, entry.id] or (handler.name, entry.id) in dead
                if handler.hears(entry) and not done:
                    self._broken(f"{handler.name} never handled {entry.position} ({entry.id})")
