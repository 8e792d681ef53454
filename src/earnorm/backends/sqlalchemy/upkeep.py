"""The SQL store's upkeep: statements of those who run a system, made as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Delete, Update, delete, func, or_, select, update

from earnorm.backends.sqlalchemy.dialects import Dialect
from earnorm.backends.sqlalchemy.rows import microseconds, parse_id, to_delivery
from earnorm.backends.sqlalchemy.tables import delivery, is_dead, log, subscription
from earnorm.clock import Clock
from earnorm.delivery import Delivery
from earnorm.upkeep import Pruned, Selection

__all__ = ["SQLAlchemyUpkeep"]

# Values in one IN list: below the parameters that any database takes (SQLite 32,766).
_VALUES_A_LIST = 10_000


class SQLAlchemyUpkeep:
    """`Upkeep`, on the connection of a transaction."""

    __slots__ = ()

    _connection: Connection
    _dialect: Dialect
    _clock: Clock

    # --- dead letters ---

    def dead(self, selection: Selection, limit: int, after: int = 0) -> list[Delivery]:
        found: list[Delivery] = []
        for chosen in _conditions(selection):
            rows = select(delivery).where(*chosen, delivery.c.id > after).order_by(delivery.c.id).limit(limit)
            found += map(to_delivery, self._connection.execute(rows))
        return sorted(found, key=lambda row: row.id)[:limit]

    def count_dead(self, selection: Selection) -> int:
        counts = (select(func.count()).select_from(delivery).where(*chosen) for chosen in _conditions(selection))
        return sum(self._connection.execute(count).scalar_one() for count in counts)

    def reopen(self, ids: Sequence[int]) -> list[int]:
        now = microseconds(self._dialect.now(self._connection, self._clock))
        return self._change(update(delivery).values(state="open", attempt=delivery.c.attempt + 1, due=now), ids)

    def discard(self, ids: Sequence[int]) -> list[int]:
        return self._change(delete(delivery), ids)

    def _change(self, change: Update | Delete, ids: Sequence[int]) -> list[int]:
        changed: list[int] = []
        for chosen in _conditions(Selection(ids=tuple(ids))):
            changed += self._connection.scalars(change.where(*chosen).returning(delivery.c.id))
        return sorted(changed)

    # --- pruning ---

    def prune(self, before: datetime, limit: int, after: int = 0, *, dry: bool = False) -> Pruned | None:
        if not (dry or self._dialect.lock_pruning(self._connection)):
            return None
        # A span of positions, not a search for old entries: what is looked at is `limit` rows, however long the log.
        upto = self._upto(limit, after)
        if upto is None:
            return Pruned(0, after)
        old = (log.c.position > after, log.c.position <= upto, log.c.at < microseconds(before))
        if dry:
            count = self._connection.execute(select(func.count()).select_from(log).where(*old)).scalar_one()
        else:
            count = self._connection.execute(delete(log).where(*old)).rowcount
        return Pruned(count, upto)

    def _upto(self, limit: int, after: int) -> int | None:
        passed = self._connection.execute(select(func.min(subscription.c.position))).scalar()
        if passed is None:
            passed = self._dialect.horizon(self._connection, self._clock)
        span = select(log.c.position).where(log.c.position > after, log.c.position <= passed)
        last = select(func.max(span.order_by(log.c.position).limit(limit).subquery().c.position))
        return self._connection.execute(last).scalar()


def _conditions(selection: Selection) -> Iterator[list[ColumnElement[bool]]]:
    """The condition; several if there are more ids than one statement takes. No row fits two of them."""
    fits: list[ColumnElement[bool]] = [is_dead(delivery)]
    if selection.handler is not None:
        fits.append(delivery.c.subscription == selection.handler)
    if selection.event is not None:
        fits.append(or_(delivery.c.name == selection.event, delivery.c.event == parse_id(selection.event)))
    if selection.error:
        # LIKE minds capitals in some databases and not in others; replacing minds them in all.
        fits.append(func.replace(delivery.c.error, selection.error, "") != delivery.c.error)
    if selection.since is not None:
        fits.append(delivery.c.due >= microseconds(selection.since))
    if selection.ids is None:
        yield fits
        return
    ids = sorted(set(selection.ids))
    for start in range(0, len(ids), _VALUES_A_LIST):
        yield [*fits, delivery.c.id.in_(ids[start : start + _VALUES_A_LIST])]
