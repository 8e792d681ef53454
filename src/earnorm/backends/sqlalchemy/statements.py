"""The store's statements on the log and on deliveries set aside; those on subscriptions are `lease_statements`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.elements import ClauseElement

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.attempt_statements import AttemptStatements
from earnorm.backends.sqlalchemy.lease_statements import SOON_OVER, LeaseStatements
from earnorm.backends.sqlalchemy.payloads import columns_of
from earnorm.backends.sqlalchemy.prepared import Prepared, by_index, prepared
from earnorm.backends.sqlalchemy.tables import ENTRY_COLUMNS, delivery, idempotency, log
from earnorm.backends.sqlalchemy.width import NARROW, Width
from earnorm.fleet import Range
from earnorm.glance import Span
from earnorm.slots import LAST_SLOT

__all__ = ["Statements", "parameters_of"]


_ONE: ColumnElement[int] = literal_column("1")
_ENTRY = [log.c.position, log.c.id, *(log.c[name] for name in ENTRY_COLUMNS), log.c.due]
_EMPTY: ColumnElement[str] = literal_column("''")
_MORE = or_(
    log.c.causation_id.is_not(None),
    log.c.depth != literal_column("0"),
    log.c.tenant.is_not(None),
    log.c.version != _ONE,
    log.c.due.is_not(None),
)
_NOTHING_MORE = case((_MORE, _ONE))


def _read(dialect: Dialect, ranges: int, *, narrow: bool = False) -> Prepared:
    """Entries by position, of so many ranges of slots; of all slots for none. In the order of Entry's fields.

    With `narrow` only the first of those, and then NULL where the others are what they are if nobody says anything.
    """
    limit: Any = bindparam("limit")
    # Without statistics, as of a log that is minutes old, PostgreSQL believes that few rows meet the conditions, and
    # then reads and sorts all that follow, batch after batch. Half a range is less rare to it than a whole one; and
    # where it is not shown how many are asked for, it counts on a tenth of what there is, and walks the index.
    if dialect.name == "postgresql":
        limit = select(cast(limit, BigInteger)).scalar_subquery()
    columns = columns_of(log, [column.name for column in _ENTRY])
    found = select(*columns[:NARROW], _NOTHING_MORE) if narrow else select(*columns)
    found = (
        found.where(log.c.position > bindparam("after"), log.c.position <= bindparam("upto"))
        .order_by(log.c.position)
        .limit(limit)
    )
    return Prepared(found.where(_in_halves(ranges)) if ranges else found, dialect)


def _in_halves(ranges: int) -> ColumnElement[bool]:
    """`_in_slots` of the log, each range as two conditions that do not look like one."""
    slot = log.c.slot
    firsts = (slot >= bindparam(f"first_{n}") for n in range(ranges))
    lasts = (slot - bindparam(f"last_{n}") <= literal_column("0") for n in range(ranges))
    return or_(*(and_(first, last) for first, last in zip(firsts, lasts, strict=True)))


def _due_slots(dialect: Dialect, ranges: int) -> Prepared:
    return Prepared(_due().where(_in_slots(delivery, ranges)), dialect)


def _in_slots(table: Any, ranges: int) -> ColumnElement[bool]:
    """In one of so many ranges, given as first_0, last_0, first_1 …"""
    each = (table.c.slot.between(bindparam(f"first_{n}"), bindparam(f"last_{n}")) for n in range(ranges))
    return or_(*each)


def _find() -> ClauseElement:
    return (
        select(*_ENTRY)
        .where(log.c.key == bindparam("key"), log.c.name == bindparam("name"), log.c.position > bindparam("after"))
        .order_by(log.c.position)
        .limit(_ONE)
    )


def _get() -> ClauseElement:
    return select(*_ENTRY).where(log.c.id == bindparam("event_id"))


def _reserved() -> ClauseElement:
    words = {"tenant": idempotency.c.tenant, "name": idempotency.c.name, "text": idempotency.c.key}
    return select(idempotency).where(*(column == bindparam(word) for word, column in words.items()))


def _forget_keys() -> ClauseElement:
    place = (idempotency.c.tenant, idempotency.c.name, idempotency.c.key)
    awaited = exists().where(delivery.c.event == idempotency.c.event, tables.is_open(delivery))
    old = select(*place).where(idempotency.c.at < bindparam("before"), not_(awaited)).order_by(idempotency.c.at)
    return delete(idempotency).where(tuple_(*place).in_(old.limit(bindparam("limit"))))


def _stands() -> ClauseElement:
    return select(_ONE).where(log.c.position == bindparam("place"), log.c.id == bindparam("event_id"))


def _first_since() -> ClauseElement:
    return select(log.c.position).where(log.c.at >= bindparam("since")).order_by(log.c.position).limit(_ONE)


def _forget_interests() -> ClauseElement:
    return delete(tables.interest).where(tables.interest.c.subscription == bindparam("name"))


# --- deliveries set aside --------------------------------------------------------------------


def _deliveries() -> Select[Any]:
    return select(delivery).order_by(delivery.c.id)


def _free(row: Any) -> ColumnElement[bool]:
    """Open, run by nobody, and behind no earlier one. "Blocked" is stored nowhere and so is never out of date."""
    earlier = delivery.alias("earlier")
    before = (
        select(_ONE)
        .where(
            tables.is_waited_for(earlier),
            earlier.c.subscription == row.c.subscription,
            earlier.c.key == row.c.key,
            earlier.c.id < row.c.id,
        )
        .with_hint(earlier, *by_index("earnorm_delivery_lane"))
    )
    waits = before.correlate(row).exists()
    return and_(tables.is_open(row), row.c.worker == _EMPTY, or_(not_(row.c.ordered), ~waits))


def _due() -> Select[Any]:
    """It walks the index of due times and asks that of lanes once a row: it costs what is due, not what is open."""
    return (
        select(*columns_of(delivery, delivery.columns.keys()))
        .where(_free(delivery), delivery.c.subscription == bindparam("name"), delivery.c.due <= bindparam("now"))
        .order_by(delivery.c.due, delivery.c.id)
        .limit(bindparam("limit"))
    )


def _groups_and_waiting() -> ClauseElement:
    """Both in one, as `groups` and `waiting` have them; the first column says of which."""
    group, waiting = tables.group, _waiting()
    groups = select(literal_column("1"), group.c.name, group.c.generation, group.c.paused)
    return groups.union_all(waiting.with_only_columns(literal_column("2"), *waiting.selected_columns))


def _waiting() -> Select[Any, Any, bool]:
    """It leaps through the index from one subscription to the next, however many rows each of them has."""
    row, later, soonest, apart = (delivery.alias(name) for name in ("d", "later", "soonest", "apart"))
    # ORDER BY and LIMIT rather than min(): every database answers that with one look at a partial index.
    first = select(row.c.subscription).where(tables.is_open(row)).order_by(row.c.subscription).limit(_ONE)
    names = select(first.scalar_subquery().label("name")).cte("names", recursive=True)
    following = (
        select(later.c.subscription)
        .where(tables.is_open(later), later.c.subscription > names.c.name)
        .order_by(later.c.subscription)
        .limit(_ONE)
    )
    names = names.union_all(select(following.scalar_subquery()).where(names.c.name.is_not(None)))
    due = (
        select(soonest.c.due)
        .where(_free(soonest), soonest.c.subscription == names.c.name)
        .order_by(soonest.c.due, soonest.c.id)
        .limit(_ONE)
        .with_hint(soonest, *by_index("earnorm_delivery_due"))
    )
    running = (
        select(_ONE)
        .where(tables.is_running(apart), apart.c.subscription == names.c.name)
        .with_hint(apart, *by_index("earnorm_delivery_running"))
    )
    return select(names.c.name, due.scalar_subquery(), running.exists()).where(names.c.name.is_not(None))


def _running() -> ClauseElement:
    return _deliveries().where(tables.is_running(delivery), delivery.c.worker == bindparam("by"))


def _ours() -> ColumnElement[bool]:
    """Run by nobody, or by the worker that asks."""
    return or_(delivery.c.worker == _EMPTY, delivery.c.worker == bindparam("by"))


def _reschedule() -> ClauseElement:
    return (
        update(delivery)
        .where(delivery.c.id == bindparam("row"), _ours(), SOON_OVER)
        .values(
            attempt=bindparam("to_attempt"),
            due=bindparam("to_due"),
            state=bindparam("to_state"),
            error=bindparam("to_error"),
            fingerprint=bindparam("to_fingerprint"),
            worker=bindparam("to_worker"),
            suspect=bindparam("to_suspect"),
        )
    )


def _finish() -> ClauseElement:
    return delete(delivery).where(delivery.c.id == bindparam("row"), _ours(), SOON_OVER)


def _is_run_by() -> ClauseElement:
    # Locked, where rows have locks: whoever buries this worker waits for the settle.
    return (
        select(delivery.c.id)
        .where(delivery.c.id == bindparam("row"), delivery.c.worker == bindparam("by"), SOON_OVER)
        .with_for_update()
    )


def _unhand() -> ClauseElement:
    return (
        update(delivery).where(tables.is_running(delivery), delivery.c.worker == bindparam("by")).values(worker=_EMPTY)
    )


def _drop_open() -> ClauseElement:
    return delete(delivery).where(tables.is_open(delivery), delivery.c.subscription == bindparam("called"))


def parameters_of(slots: Sequence[Range]) -> dict[str, int]:
    """The parameters of so many ranges (`_in_slots`)."""
    firsts = {f"first_{number}": first for number, (first, _) in enumerate(slots)}
    return firsts | {f"last_{number}": last for number, (_, last) in enumerate(slots)}


class Statements(LeaseStatements, AttemptStatements):
    """Every fixed statement, by its verb."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self.width = Width()
        # A worker reads the same number of ranges again and again.
        self._read = lru_cache(maxsize=32)(partial(_read, dialect))
        self.due_slots = lru_cache(maxsize=32)(partial(_due_slots, dialect))

    def reading(
        self, after: int, upto: int, limit: int, slots: Sequence[Range], *, narrow: bool = False
    ) -> tuple[Prepared, dict[str, int]]:
        """The statement that reads entries of these slots, all of them if none are given, and its parameters.

        Of `narrow` ones `width` says whether they are all there is.
        """
        words = {"after": after, "upto": upto, "limit": limit}
        if not slots or (0, LAST_SLOT) in slots:
            return self._read(0, narrow=narrow), words
        return self._read(len(slots), narrow=narrow), words | parameters_of(slots)

    def looking(self, upto: int, span: Span) -> tuple[Prepared, dict[str, int]]:
        """The same for a look, as wide as it has to be going by those before it."""
        return self.reading(span.after, upto, span.limit, span.slots, narrow=self.width.is_narrow(span.limit))

    find = prepared(_find)
    get = prepared(_get)
    reserved = prepared(_reserved)
    forget_keys = prepared(_forget_keys)
    stands = prepared(_stands)
    first_since = prepared(_first_since)
    interests = prepared(lambda: select(tables.interest.c.subscription, tables.interest.c.pattern))
    forget_interests = prepared(_forget_interests)
    due = prepared(_due)
    waiting = prepared(_waiting)
    groups_and_waiting = prepared(_groups_and_waiting)
    deliveries = prepared(_deliveries)
    deliveries_of = prepared(lambda: _deliveries().where(delivery.c.event == bindparam("event_id")))
    running = prepared(_running)
    is_run_by = prepared(_is_run_by)
    unhand = prepared(_unhand)
    reschedule = prepared(_reschedule)
    finish = prepared(_finish)
    drop_open = prepared(_drop_open)
    any_waited_for = prepared(lambda: select(_ONE).where(tables.is_waited_for(delivery)).limit(_ONE))
