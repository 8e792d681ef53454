"""The SQL store's upkeep: statements of those who run a system, made as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Delete, Update, delete, func, or_, select, update

from earnorm.backends.sqlalchemy.attempt_statements import is_attempt_at
from earnorm.backends.sqlalchemy.bundles import BundleVerbs
from earnorm.backends.sqlalchemy.entries import LogVerbs
from earnorm.backends.sqlalchemy.leases import LeaseVerbs
from earnorm.backends.sqlalchemy.rows import parse_id, to_delivery
from earnorm.backends.sqlalchemy.subscriptions import SubscriptionVerbs
from earnorm.backends.sqlalchemy.tables import BEYOND, attempt, delivery, is_dead, is_open, log, subscription
from earnorm.delivery import Delivery
from earnorm.instants import microseconds, to_time
from earnorm.retention import reach_of
from earnorm.upkeep import Behind, Pruned, Selection, Stall, Tally

__all__ = ["UpkeepVerbs"]

# Values in one IN list: below the parameters that any database takes (SQLite 32,766).
_VALUES_A_LIST = 10_000


class UpkeepVerbs(BundleVerbs, LogVerbs, SubscriptionVerbs, LeaseVerbs):
    """What those who run a system ask."""

    __slots__ = ()

    # --- dead letters ---

    def dead(self, selection: Selection, limit: int, after: int = 0) -> list[Delivery]:
        found: list[Delivery] = []
        # Computed, or a database would walk all deliveries in the order of their ids to find the first dead one. Those
        # of a handler are in that order in the index of the dead; past one, the next is not far.
        search = selection.handler is None and not after
        place = delivery.c.id + 0 if search else delivery.c.id
        for chosen in _conditions(selection):
            # The rows and their data are read only of those that are wanted.
            lowest = select(delivery.c.id).where(*chosen, place > after).order_by(place).limit(limit).subquery()
            rows = select(delivery).join(lowest, lowest.c.id == delivery.c.id)
            found += map(to_delivery, self._connection.execute(rows))
        return sorted(found, key=lambda row: row.id)[:limit]

    def count_dead(self, selection: Selection) -> int:
        counts = (select(func.count()).select_from(delivery).where(*chosen) for chosen in _conditions(selection))
        return sum(self._connection.execute(count).scalar_one() for count in counts)

    def reopen(self, ids: Sequence[int]) -> list[int]:
        now = microseconds(self.now())
        again = update(delivery).values(state="open", attempt=delivery.c.attempt + 1, due=now, error="")
        return self._each_of(again, ids)

    def discard(self, ids: Sequence[int]) -> list[int]:
        for chosen in _conditions(Selection(ids=tuple(ids))):
            self._connection.execute(delete(attempt).where(is_attempt_at(*chosen)))
        return self._each_of(delete(delivery), ids)

    def _each_of(self, change: Update | Delete, ids: Sequence[int]) -> list[int]:
        changed: list[int] = []
        for chosen in _conditions(Selection(ids=tuple(ids))):
            changed += self._connection.scalars(change.where(*chosen).returning(delivery.c.id))
        return sorted(changed)

    # --- pruning ---

    def prune(
        self, before: datetime, limit: int, after: int = 0, *, unseen: datetime, dry: bool = False
    ) -> Pruned | None:
        if not dry:
            if not self._dialect.lock_pruning(self._connection):
                return None
            self._share_groups()
            # Where nobody works the log, its bundles are as old as the rest.
            self.unbundle()
        reach = reach_of(self.followers(), self.cursors(), self.workers(), unseen=unseen, now=self.now())
        # A span of positions, not a search for old entries: what is looked at is `limit` rows, however long the log.
        upto = self._upto(self.horizon() if reach.passed is None else reach.passed, limit, after)
        if upto is None:
            return Pruned(0, after)
        old = (log.c.position > after, log.c.position <= upto, log.c.at < microseconds(before))
        if dry:
            return Pruned(self._count(*old), upto)
        for name, stand in reach.orphans.items():
            if stand < upto:
                missed = subscription.c.missed + self._count(*old, log.c.position > stand)
                self._connection.execute(update(subscription).where(subscription.c.name == name).values(missed=missed))
        return Pruned(self._connection.execute(delete(log).where(*old)).rowcount, upto)

    def _share_groups(self) -> None:
        """Until this transaction ends nobody is recorded, moved or joined, who might be waiting for what goes."""
        for name in sorted(self.groups()):
            self._statements.share_group(self._connection, called=name)

    def _upto(self, passed: int, limit: int, after: int) -> int | None:
        span = select(log.c.position).where(log.c.position > after, log.c.position <= passed)
        last = select(func.max(span.order_by(log.c.position).limit(limit).subquery().c.position))
        return self._connection.execute(last).scalar()

    def _count(self, *where: ColumnElement[bool]) -> int:
        return self._connection.execute(select(func.count()).select_from(log).where(*where)).scalar_one()

    # --- how it stands ---

    def behind(self, after: int, upto: int, limit: int, slots: Sequence[tuple[int, int]] = ()) -> Behind:
        where = [log.c.position > after, log.c.position <= upto]
        if slots:
            where.append(or_(*(log.c.slot.between(first, last) for first, last in slots)))
        found = select(log.c.position, log.c.at).where(*where).order_by(log.c.position)
        first = self._connection.execute(found.limit(1)).fetchone()
        if first is None:
            return Behind()
        counted = select(func.count()).select_from(found.limit(limit).subquery())
        return Behind(self._connection.execute(counted).scalar_one(), to_time(first.at))

    def tally(self) -> dict[str, Tally]:
        # Each state by itself, so that each is answered by its narrow index, and not by the deliveries and their data.
        opened, dead = self._counts(is_open(delivery)), self._counts(is_dead(delivery))
        return {name: Tally(opened.get(name, 0), dead.get(name, 0)) for name in sorted({*opened, *dead})}

    def _counts(self, state: ColumnElement[bool]) -> dict[str, int]:
        name = delivery.c.subscription
        counts = select(name, func.count()).where(state).group_by(name)
        return {row.subscription: row[1] for row in self._connection.execute(counts)}

    def stall(self) -> Stall | None:
        return self._dialect.stall(self._connection)


def _conditions(selection: Selection) -> Iterator[list[ColumnElement[bool]]]:
    """The condition; several if there are more ids than one statement takes. No row fits two of them."""
    fits: list[ColumnElement[bool]] = [is_dead(delivery)]
    if selection.handler is not None:
        fits.append(delivery.c.subscription == selection.handler)
    if selection.event is not None:
        fits.append(or_(delivery.c.name == selection.event, delivery.c.event == parse_id(selection.event)))
    if selection.error:
        # LIKE minds capitals in some databases and not in others; replacing minds them in all.
        holds = func.replace(delivery.c.error, selection.error, "") != delivery.c.error
        fits.append(or_(holds, delivery.c.fingerprint == selection.error))
    if selection.since is not None:
        fits.append(delivery.c.due >= microseconds(selection.since))
    if selection.ids is None:
        yield fits
        return
    ids = sorted(number for number in set(selection.ids) if number < BEYOND)
    for start in range(0, len(ids), _VALUES_A_LIST):
        yield [*fits, delivery.c.id.in_(ids[start : start + _VALUES_A_LIST])]
