"""Outcomes: what came of one event at each durable handler, waited for; whichever process delivers, the store knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from earnorm.backends.sqlalchemy.scope import current_scope
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore, SQLAlchemyTransaction
from earnorm.clock import Clock
from earnorm.delivery import Dead, Done, Outcome
from earnorm.durations import Duration, seconds_of
from earnorm.errors import EmitRolledBack, OutcomesPending, OutcomesTooEarly, UnknownEvent
from earnorm.event import Entry, running
from earnorm.handle import Emission
from earnorm.interest import hearers
from earnorm.portal import refuse_in_coroutine
from earnorm.slots import slot_of
from earnorm.worker import Worker

__all__ = ["Outcomes"]

# Seconds between two looks: the first, and the last after doubling. A worker of this process says when to look sooner.
_SOON, _IDLE = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is by now. Nothing is pending and nothing ended while the event is not in the log yet."""

    ended: Mapping[str, Outcome]
    pending: Collection[str] = ()
    appended: bool = True

    @property
    def is_whole(self) -> bool:
        return self.appended and not self.pending


class Outcomes:
    """Waits for the outcomes of events of one database. `ready` makes its tables be there."""

    def __init__(
        self,
        database: str,
        store: SQLAlchemyStore,
        clock: Clock,
        worker: Callable[[], Worker],
        ready: Callable[[], object],
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._worker = worker
        self._ready = ready

    def of(self, event: UUID | str) -> Emission:
        """The handle of an event known by its id alone. Raises UnknownEvent."""
        try:
            known = event if isinstance(event, UUID) else UUID(event)
        except (ValueError, TypeError, AttributeError):  # as UUID refuses what is no text
            raise UnknownEvent(repr(event), self._database) from None
        return Emission(waiter=self, first=known, fate="asked for")

    def outcomes(self, emission: Emission, timeout: Duration) -> Mapping[str, Outcome]:
        refuse_in_coroutine("outcomes")
        wait = self._begin(emission, timeout, "outcomes")
        if emission.fate == "unheard":
            return {}
        self._ready()
        watch = threading.Event()
        with self._worker().watched(watch):
            while True:
                watch.clear()
                if (found := self._look(wait)).is_whole:
                    return found.ended
                self._clock.wait(watch, wait.next(found))

    async def aoutcomes(self, emission: Emission, timeout: Duration) -> Mapping[str, Outcome]:
        wait = self._begin(emission, timeout, "aoutcomes")
        if emission.fate == "unheard":
            return {}
        await asyncio.to_thread(self._ready)
        watch = _TaskWatch()
        with self._worker().watched(watch):
            while True:
                watch.clear()
                # In a thread for as long as it looks, and not while it waits: the loop's threads are few.
                if (found := await asyncio.to_thread(self._look, wait)).is_whole:
                    return found.ended
                await watch.wait(self._clock, wait.next(found))

    def _begin(self, emission: Emission, timeout: Duration, door: str) -> _Wait:
        """Raises OutcomesTooEarly, EmitRolledBack."""
        event, seconds = str(emission.id), seconds_of(timeout)
        if current_scope() is not None:
            raise OutcomesTooEarly(event, "a transaction", door)
        if (now := running()) is not None:
            raise OutcomesTooEarly(event, f"the handler {now.handler}", door)
        if emission.fate == "open":
            raise OutcomesTooEarly(event, "the transaction that emitted it", door)
        if emission.fate == "rolled back":
            raise EmitRolledBack(event)
        return _Wait(emission, seconds, self._clock)

    def _look(self, wait: _Wait) -> _Found:
        """Raises UnknownEvent, EmitRolledBack."""
        with self._store.begin(readonly=True) as transaction:
            if wait.entry is None:
                wait.entry = transaction.get(wait.emission.id)
            if wait.entry is None:
                return self._look_for_pruned(transaction, wait)
            # Before the deliveries: one is set aside in the transaction in which its cursor passes the event.
            return wait.found(transaction, wait.entry.name, _passed(transaction, wait.entry))

    def _look_for_pruned(self, transaction: SQLAlchemyTransaction, wait: _Wait) -> _Found:
        """It has left the log, which every subscription has passed then, or has not reached it."""
        emission = wait.emission
        if emission.fate == "settling":
            return _Found({}, appended=False)
        if emission.fate == "rolled back":
            raise EmitRolledBack(str(emission.id))
        aside = transaction.deliveries(str(emission.id))
        event = aside[0].entry if aside else emission.event
        if event is None:
            raise UnknownEvent(str(emission.id), self._database)
        return wait.found(transaction, event.name, {follower.name for follower in transaction.followers()})


def _passed(transaction: SQLAlchemyTransaction, entry: Entry) -> Collection[str]:
    """The subscriptions that are past an entry, one that was recorded after it among them.

    The cursors are read first: one that its follower has left since may be past what that was never given.
    """
    slot, position = slot_of(entry.key, entry.raw_id), entry.position
    stand = {(c.group, c.name): c.position for c in transaction.cursors() if c.first <= slot <= c.last}
    followers = transaction.followers()
    return {f.name for f in followers if max(f.start, stand.get((f.group, f.cursor), 0)) >= position}


class _Wait:
    """What is known of an event by now, and how long to wait for the next look, until there is no more time."""

    def __init__(self, emission: Emission, seconds: float, clock: Clock) -> None:
        self.emission = emission
        self.entry: Entry | None = None
        self._heard: Collection[str] | None = None
        self._seconds = seconds
        self._clock = clock
        self._until = clock.monotonic() + seconds
        self._pause = _SOON

    def found(self, transaction: SQLAlchemyTransaction, name: str, passed: Collection[str]) -> _Found:
        """What its handlers have come to, of which `passed` are past it; of those it is over unless it is set aside."""
        if self._heard is None:
            self._heard = hearers(transaction.interests(), name)
        aside = {delivery.subscription: delivery for delivery in transaction.deliveries(str(self.emission.id))}
        dead = {name: Dead(delivery.error) for name, delivery in aside.items() if delivery.state == "dead"}
        heard = sorted({*self._heard, *aside})
        pending = [name for name in heard if name not in dead and (name in aside or name not in passed)]
        return _Found({name: dead.get(name, Done()) for name in heard if name not in pending}, pending)

    def next(self, found: _Found) -> float:
        """Raises OutcomesPending."""
        remaining = self._until - self._clock.monotonic()
        if remaining <= 0:
            raise OutcomesPending(str(self.emission.id), self._seconds, found.pending, found.ended)
        pause, self._pause = self._pause, min(2 * self._pause, _IDLE)
        return min(pause, remaining)


class _TaskWatch:
    """A `threading.Event` for the task that made it: whichever thread sets it, no thread waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and so nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, clock: Clock, seconds: float) -> None:
        """Until it is set, or as long."""
        both = [asyncio.ensure_future(self._event.wait()), asyncio.ensure_future(clock.sleep(seconds))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
