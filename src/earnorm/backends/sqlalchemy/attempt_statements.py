"""The store's statements on failed attempts: rows by subscription and event, since a new delivery has no id yet."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, literal_column, or_, select, tuple_
from sqlalchemy.sql import ColumnElement, Select
from sqlalchemy.sql.elements import ClauseElement

from earnorm.backends.sqlalchemy.prepared import prepared
from earnorm.backends.sqlalchemy.tables import attempt, delivery, is_open
from earnorm.store import ATTEMPTS_KEPT

__all__ = ["AttemptStatements", "is_attempt_at"]


def is_attempt_at(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether an attempt is one of a delivery for which all this holds.

    By IN, which begins at the deliveries: by EXISTS, SQLite looks at every attempt that there is.
    """
    return tuple_(attempt.c.event, attempt.c.subscription).in_(
        select(delivery.c.event, delivery.c.subscription).where(*conditions)
    )


def _attempts() -> Select[tuple[object, ...]]:
    columns = [column for column in attempt.c if column is not attempt.c.id]
    return select(*columns).where(is_attempt_at(delivery.c.id == bindparam("row"))).order_by(attempt.c.id)


def _trim() -> ClauseElement:
    """All attempts at one event but the newest ones."""
    mine = (attempt.c.event == bindparam("event_id")) & (attempt.c.subscription == bindparam("called"))
    newest = select(attempt.c.id).where(mine).order_by(attempt.c.id.desc()).limit(literal_column(str(ATTEMPTS_KEPT)))
    return delete(attempt).where(mine, attempt.c.id.not_in(newest))


def _finish() -> ClauseElement:
    ours = or_(delivery.c.worker == literal_column("''"), delivery.c.worker == bindparam("by"))
    return delete(attempt).where(is_attempt_at(delivery.c.id == bindparam("row"), ours))


def _drop_open() -> ClauseElement:
    return delete(attempt).where(is_attempt_at(is_open(delivery), delivery.c.subscription == bindparam("called")))


class AttemptStatements:
    """Those on attempts; each is run before the deliveries themselves are touched."""

    attempts = prepared(_attempts)
    trim_attempts = prepared(_trim)
    finish_attempts = prepared(_finish)
    drop_open_attempts = prepared(_drop_open)
