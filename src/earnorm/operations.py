"""Operations: what those who run a system ask of it. Dead letters, pruning, how it stands, who is to pause."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal

from earnorm.clock import Clock, SystemClock
from earnorm.delivery import Attempt, Delivery
from earnorm.durations import Duration, seconds_of
from earnorm.envelope import bare_event_of
from earnorm.errors import AmbiguousName, InvalidSetting, StillKnown, UnknownSubscription
from earnorm.retention import PATIENCE
from earnorm.status import Status, status_of
from earnorm.store import Store, Transaction
from earnorm.telemetry import DeadLetterDiscarded, DeadLetterReopened, HandlerRecord, tell
from earnorm.upkeep import ALL, Selection

__all__ = ["ALL", "Kind", "Operations", "Selection"]

Kind = Literal["handler", "group"]

# Dead letters that are opened again, or discarded, in one transaction.
_BATCH = 500
# Seconds between two tries to prune while another process does.
_BUSY = 0.2


class Operations:
    """`db.operations`. Each verb has an async twin that begins with `a`, and works in transactions of its own."""

    def __init__(
        self,
        store: Store,
        database: str = "",
        *,
        clock: Clock | None = None,
        enter: Callable[[str], object] = lambda _door: None,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        self._store = store
        self._database = database
        self._clock = clock or SystemClock()
        self._enter = enter
        self._wake = wake

    # --- dead letters ------------------------------------------------------------------------

    def dead(self, selection: Selection = ALL, *, limit: int = 1_000) -> list[Delivery]:
        """Dead letters, the oldest first, `limit` at most. Raises InvalidSetting."""
        if type(limit) is not int or limit < 0:
            raise InvalidSetting("dead", "limit", limit, "a whole number of at least 0")
        self._enter("dead")
        with self._store.begin(readonly=True) as transaction:
            return transaction.dead(selection, limit)

    def count_dead(self, selection: Selection = ALL) -> int:
        """How many dead letters there are."""
        self._enter("count_dead")
        with self._store.begin(readonly=True) as transaction:
            return transaction.count_dead(selection)

    def attempts(self, letter: int) -> list[Attempt]:
        """The failed attempts of a dead letter, by its id, oldest first."""
        self._enter("attempts")
        with self._store.begin(readonly=True) as transaction:
            return transaction.attempts(letter)

    def retry(self, selection: Selection) -> int:
        """Let dead letters have one more attempt, at once; returns how many.

        Out of order: later events of their records have been handled meanwhile. Those of a handler that was retired
        stay dead: nobody would come for them.
        """
        self._enter("retry")
        count = self._each(selection, _reopen, self._reopened)
        if count:
            self._wake()
        return count

    def discard(self, selection: Selection) -> int:
        """Remove dead letters for good, with what is known of their attempts; returns how many."""
        self._enter("discard")
        return self._each(selection, _discard, self._discarded)

    def _each(
        self,
        selection: Selection,
        act: Callable[[Transaction, Sequence[Delivery]], list[int]],
        told: Callable[[Delivery], HandlerRecord],
    ) -> int:
        count, after = 0, 0
        while True:
            with self._store.begin() as transaction:
                found = transaction.dead(selection, _BATCH, after)
                done = set(act(transaction, found))
            for row in found:
                if row.id in done:
                    tell(told(row))
            count += len(done)
            if len(found) < _BATCH:
                return count
            after = found[-1].id

    def _reopened(self, row: Delivery) -> HandlerRecord:
        event = bare_event_of(row.entry, attempt=row.attempt + 1, database=self._database)
        return DeadLetterReopened(event, row.subscription)

    def _discarded(self, row: Delivery) -> HandlerRecord:
        event = bare_event_of(row.entry, attempt=row.attempt, database=self._database)
        return DeadLetterDiscarded(event, row.subscription, row.error.partition("\n")[0])

    # --- pruning -----------------------------------------------------------------------------

    def prune(self, older_than: Duration, *, batch: int = 1_000, dry_run: bool = False) -> int:
        """Remove events older than that which every subscription has passed, a batch at a time; returns how many.

        Idempotency keys of that age go as well. Each batch is a transaction of its own, and keeps nobody waiting for
        long. A subscription that nobody knew for as long, and for a week at least, is not waited for. `dry_run` only
        counts. Raises InvalidDuration, InvalidSetting.
        """
        age = timedelta(seconds=seconds_of(older_than))
        if type(batch) is not int or batch < 1:
            raise InvalidSetting("prune", "batch", batch, "a whole number of at least 1")
        self._enter("prune")
        count, after = 0, 0
        while True:
            with self._store.begin(readonly=dry_run) as transaction:
                now = transaction.now()
                pruned = transaction.prune(now - age, batch, after, unseen=now - max(age, PATIENCE), dry=dry_run)
            if pruned is None:
                self._clock.wait(threading.Event(), _BUSY)
            elif not pruned.count:
                break
            else:
                count, after = count + pruned.count, pruned.position

        if not dry_run:
            self._forget_keys(age, batch)
        return count

    def _forget_keys(self, age: timedelta, batch: int) -> None:
        """A key is unique for as long as events are kept."""
        while True:
            with self._store.begin() as transaction:
                if transaction.forget_keys(transaction.now() - age, batch) < batch:
                    return

    # --- how it stands, and who works --------------------------------------------------------

    def status(self) -> Status:
        """How the log stands: groups, subscriptions, leases, workers, and what is wrong."""
        self._enter("status")
        with self._store.begin(readonly=True) as transaction:
            return status_of(transaction)

    def pause(self, name: str, kind: Kind | None = None) -> Kind:
        """Have a handler, or all of a group, run by nobody from now on, wherever it is; returns which of them it was.

        Workers heed it within two seconds, what runs ends. It lasts until `resume`, over restarts; its events wait
        meanwhile. Raises UnknownSubscription, AmbiguousName.
        """
        self._enter("pause")
        return self._pause(name, kind, paused=True)

    def resume(self, name: str, kind: Kind | None = None) -> Kind:
        """Undo `pause`: what has waited is delivered. Raises UnknownSubscription, AmbiguousName."""
        self._enter("resume")
        return self._pause(name, kind, paused=False)

    def _pause(self, name: str, kind: Kind | None, *, paused: bool) -> Kind:
        found = self._set_paused(name, kind, paused=paused)
        # Who rests looks now, and not when it next would.
        self._wake()
        return found

    def _set_paused(self, name: str, kind: Kind | None, *, paused: bool) -> Kind:
        with self._store.begin() as transaction:
            groups = transaction.groups()
            # Taken back if both are meant: a handler is known by its former names too, which nobody lists.
            is_handler = kind != "group" and transaction.pause(name, paused=paused)
            if is_handler and kind is None and name in groups:
                raise AmbiguousName(name)
            if is_handler:
                return "handler"
            if kind != "handler" and transaction.pause_group(name, paused=paused):
                return "group"
            known = {"handler": [follower.name for follower in transaction.followers()], "group": list(groups)}
        listed = known[kind] if kind is not None else [*known["handler"], *known["group"]]
        raise UnknownSubscription(name, kind or "handler or group", listed)

    def retire(self, name: str) -> int:
        """Forget a handler's subscription, and drop its open deliveries; returns how many those were.

        Its dead letters stay. Raises UnknownSubscription, and StillKnown while a worker is alive that knows it.
        """
        self._enter("retire")
        with self._store.begin() as transaction:
            before = {follower.name for follower in transaction.followers()}
            dropped = transaction.retire(name)
            if dropped is None:
                raise UnknownSubscription(name, "handler", before)
            # Workers know it as it was recorded, by whichever of its names it is called here.
            retired = before - {follower.name for follower in transaction.followers()}
            now = transaction.now()
            known = [one.worker for one in transaction.workers() if one.expires > now and retired & one.knows]
            if known:
                raise StillKnown(name, known)
        return dropped

    # --- async twins -------------------------------------------------------------------------

    async def adead(self, selection: Selection = ALL, *, limit: int = 1_000) -> list[Delivery]:
        """`dead`, awaited."""
        return await asyncio.to_thread(self.dead, selection, limit=limit)

    async def aattempts(self, letter: int) -> list[Attempt]:
        """`attempts`, awaited."""
        return await asyncio.to_thread(self.attempts, letter)

    async def acount_dead(self, selection: Selection = ALL) -> int:
        """`count_dead`, awaited."""
        return await asyncio.to_thread(self.count_dead, selection)

    async def aretry(self, selection: Selection) -> int:
        """`retry`, awaited."""
        return await asyncio.to_thread(self.retry, selection)

    async def adiscard(self, selection: Selection) -> int:
        """`discard`, awaited."""
        return await asyncio.to_thread(self.discard, selection)

    async def aprune(self, older_than: Duration, *, batch: int = 1_000, dry_run: bool = False) -> int:
        """`prune`, awaited."""
        return await asyncio.to_thread(self.prune, older_than, batch=batch, dry_run=dry_run)

    async def astatus(self) -> Status:
        """`status`, awaited."""
        return await asyncio.to_thread(self.status)

    async def apause(self, name: str, kind: Kind | None = None) -> Kind:
        """`pause`, awaited."""
        return await asyncio.to_thread(self.pause, name, kind)

    async def aresume(self, name: str, kind: Kind | None = None) -> Kind:
        """`resume`, awaited."""
        return await asyncio.to_thread(self.resume, name, kind)

    async def aretire(self, name: str) -> int:
        """`retire`, awaited."""
        return await asyncio.to_thread(self.retire, name)


def _reopen(transaction: Transaction, letters: Sequence[Delivery]) -> list[int]:
    recorded = {follower.name for follower in transaction.followers()}
    return transaction.reopen([letter.id for letter in letters if letter.subscription in recorded])


def _discard(transaction: Transaction, letters: Sequence[Delivery]) -> list[int]:
    return transaction.discard([letter.id for letter in letters])
