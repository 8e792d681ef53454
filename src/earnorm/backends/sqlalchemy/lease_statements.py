"""The store's statements on subscriptions, groups, workers and cursors."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Update, bindparam, delete, literal_column, or_, select, update
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.elements import ClauseElement

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects.idling import LimitIdling
from earnorm.backends.sqlalchemy.prepared import prepared
from earnorm.backends.sqlalchemy.tables import alias, cursor, group, subscription, worker

__all__ = ["SOON_OVER", "LeaseStatements"]

_ONE: ColumnElement[int] = literal_column("1")
_NOUGHT: ColumnElement[int] = literal_column("0")
_NOBODY: ColumnElement[str] = literal_column("''")
# Who is frozen or cut off amid a settle or a move must not keep others from what they take over from the dead.
SOON_OVER = LimitIdling(10)
"""Of every statement that locks what somebody else may have to take over."""


# --- groups and subscriptions ----------------------------------------------------------------


def _lock_group() -> ClauseElement:
    # To the letter, where rows have locks: an UPDATE alone would not wait for those that share the row (`share_group`).
    return select(group.c.generation).where(group.c.name == bindparam("called"), SOON_OVER).with_for_update()


def _share_group() -> ClauseElement:
    """Nobody changes who follows, from here to the commit."""
    query = select(group.c.generation).where(group.c.name == bindparam("called"))
    return query.with_for_update(key_share=True, read=True)


def _change_group() -> Update:
    return update(group).where(group.c.name == bindparam("called")).values(generation=group.c.generation + _ONE)


def _change_follower(**values: Any) -> Update:
    return update(subscription).where(subscription.c.name == bindparam("called")).values(**values)


def _note_seen() -> ClauseElement:
    return _change_follower(seen=bindparam("at")).where(subscription.c.seen < bindparam("at"), SOON_OVER)


def _follow() -> ClauseElement:
    return _change_follower(apart=bindparam("is_apart"), start=bindparam("from_position"))


# --- cursors ---------------------------------------------------------------------------------


def _of_cursor() -> ColumnElement[bool]:
    return (cursor.c.group_name == bindparam("of_group")) & (cursor.c.name == bindparam("called"))


def _is_it() -> ColumnElement[bool]:
    return _of_cursor() & (cursor.c.first == bindparam("from_slot"))


def _is_held() -> ColumnElement[bool]:
    return _is_it() & (cursor.c.worker == bindparam("by")) & (cursor.c.fence == bindparam("under")) & SOON_OVER


def _take() -> ClauseElement:
    is_free = or_(cursor.c.worker == _NOBODY, cursor.c.worker == bindparam("by"))
    return (
        update(cursor)
        .where(_is_it(), cursor.c.last == bindparam("to_slot"), is_free, SOON_OVER)
        .values(worker=bindparam("by"), fence=cursor.c.fence + _ONE)
        .returning(cursor)
    )


def _shorten() -> ClauseElement:
    changed = update(cursor).where(_is_held()).values(last=bindparam("to_slot"), fence=cursor.c.fence + _ONE)
    return changed.returning(cursor)


def _lengthen() -> ClauseElement:
    values: dict[str, Any] = {"last": bindparam("to_slot"), "fence": bindparam("to_fence"), "deaths": bindparam("died")}
    return update(cursor).where(_is_held()).values(**values)


def _move() -> ClauseElement:
    """Checks the lease, moves the cursor and locks its row in one: a takeover then waits for this transaction."""
    stands = cursor.c.position == bindparam("previous")
    return update(cursor).where(_is_held(), stands).values(position=bindparam("to_position"), deaths=_NOUGHT)


def _move_along() -> ClauseElement:
    """Rows that nobody has worked yet, inside a range that moves."""
    untouched = cursor.c.fence == _NOUGHT
    inside = (cursor.c.first >= bindparam("from_slot")) & (cursor.c.last <= bindparam("to_slot"))
    between = (cursor.c.position >= bindparam("previous")) & (cursor.c.position < bindparam("to_position"))
    moved = update(cursor).where(_of_cursor(), untouched, inside, between)
    return moved.values(position=bindparam("to_position"))


def _unhold(**values: Any) -> ClauseElement:
    held = update(cursor).where(cursor.c.worker == bindparam("by"), SOON_OVER)
    return held.values(worker=_NOBODY, fence=cursor.c.fence + _ONE, **values)


def _regroup() -> ClauseElement:
    moved = update(cursor).where(_of_cursor())
    return moved.values(group_name=bindparam("to_group"), worker=_NOBODY, fence=cursor.c.fence + _ONE)


# --- workers ---------------------------------------------------------------------------------


def _lock_worker() -> ClauseElement:
    return select(worker.c.expires).where(worker.c.id == bindparam("by"), SOON_OVER).with_for_update()


def _beat() -> ClauseElement:
    return update(worker).where(worker.c.id == bindparam("by"), SOON_OVER).values(expires=bindparam("to_expires"))


def _reenter() -> ClauseElement:
    values: dict[str, Any] = {name: bindparam(f"to_{name}") for name in ("expires", "dedicated", "idle", "knows")}
    return update(worker).where(worker.c.id == bindparam("by"), SOON_OVER).values(**values)


class LeaseStatements:
    """By their verbs."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    groups = prepared(lambda: select(group).order_by(group.c.name))
    lock_group = prepared(_lock_group)
    share_group = prepared(_share_group)
    change_group = prepared(_change_group)
    pause_group = prepared(lambda: _change_group().values(paused=bindparam("is_paused")))

    followers = prepared(lambda: select(subscription).order_by(subscription.c.name))
    note_seen = prepared(_note_seen)
    follow = prepared(_follow)
    join_group = prepared(lambda: _change_follower(group_name=bindparam("to_group")))
    pause = prepared(lambda: _change_follower(paused=bindparam("is_paused")))
    forget = prepared(lambda: delete(subscription).where(subscription.c.name == bindparam("called")))
    aliases = prepared(lambda: select(alias))
    forget_aliases = prepared(lambda: delete(alias).where(alias.c.name == bindparam("called")))

    cursors = prepared(lambda: select(cursor).order_by(cursor.c.group_name, cursor.c.name, cursor.c.first))
    rows = prepared(lambda: select(cursor).where(_of_cursor()).order_by(cursor.c.first))
    drop_rows = prepared(lambda: delete(cursor).where(_of_cursor()))
    take = prepared(_take)
    release = prepared(lambda: update(cursor).where(_is_held()).values(worker=_NOBODY))
    lock_held = prepared(lambda: select(cursor).where(_is_held()).with_for_update())
    shorten = prepared(_shorten)
    lengthen = prepared(_lengthen)
    drop_held = prepared(lambda: delete(cursor).where(_is_held()))
    move = prepared(_move)
    move_along = prepared(_move_along)
    unhold = prepared(_unhold)
    unhold_dead = prepared(lambda: _unhold(deaths=cursor.c.deaths + _ONE))
    regroup = prepared(_regroup)

    workers = prepared(lambda: select(worker).order_by(worker.c.id))
    lock_worker = prepared(_lock_worker)
    reenter = prepared(_reenter)
    beat = prepared(_beat)
    remove = prepared(lambda: delete(tables.worker).where(worker.c.id == bindparam("by")))
