"""The doors of a record: save, delete, refresh; each finds the transaction it stands in, or opens one.

A door's work is plain sync code over a Session, written once; the async doors run it where it can await.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import Session, object_session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy import bulk
from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.bulk import vanished
from earnorm.backends.sqlalchemy.bulk.vanished import is_there
from earnorm.backends.sqlalchemy.hooks import refuse_save_in_pre_hook
from earnorm.backends.sqlalchemy.salvage import require_sound
from earnorm.backends.sqlalchemy.scope import current_scope, scope_of, within
from earnorm.backends.sqlalchemy.snapshot import is_snapshot
from earnorm.errors import (
    DeletedSubject,
    NotFound,
    ReadOnlySnapshot,
    StaleRecord,
    UnsavedSubject,
)
from earnorm.orm.connected import database_here
from earnorm.portal import refuse_in_coroutine, spawn

__all__ = [
    "Work",
    "adelete",
    "arefresh",
    "arestore",
    "arun",
    "asave",
    "atrash",
    "delete",
    "refresh",
    "restore",
    "run",
    "save",
    "session_of",
    "trash",
]

T = TypeVar("T")
Work = Callable[[Session], T]


# --- finding the transaction -----------------------------------------------------------------


def run(door: str, record: Any, work: Work[T]) -> T:
    """Do `work` in the transaction open here, in that of the record's own Session, or in a new one."""
    refuse_in_coroutine(door)
    scope = current_scope()
    if scope is not None:
        require_sound(scope.session, f"{_name(record)}.{door}()")
        return _within(scope.session, work)
    session = session_of(record)
    if session is not None:
        return _in_session(session, work)
    with database_here(f"{_name(record)}.{door}()").transaction() as opened:
        return work(opened.session)


async def arun(door: str, record: Any, work: Work[T]) -> T:
    """`run`, awaited."""
    scope = current_scope()
    if scope is not None:
        require_sound(scope.session, f"{_name(record)}.{door}()")
        return await spawn(_within, scope.session, work)
    session = session_of(record)
    if session is not None and async_session(session) is not None:
        return await spawn(_in_session, session, work)
    async with database_here(f"{_name(record)}.{door}()").transaction() as opened:
        return await spawn(work, opened.session.sync_session)


def _name(record: Any) -> str:
    return type(record).__name__ if record is not None else "earnorm"


def session_of(record: Any) -> Session | None:
    return object_session(record) if record is not None and mappings.mapping_of(type(record)) else None


def _within(session: Session, work: Work[T]) -> T:
    with within(scope_of(session)):
        return work(session)


def _in_session(session: Session, work: Work[T]) -> T:
    """A record's own Session: inside its transaction if it has one, else in one that ends with the call."""
    if session.in_transaction():
        return _within(session, work)
    with session.begin():
        return _within(session, work)


# --- records ---------------------------------------------------------------------------------


def save(record: Any) -> None:
    run("save", record, lambda session: _save(session, record))


async def asave(record: Any) -> None:
    await arun("asave", record, lambda session: _save(session, record))


def delete(record: Any) -> None:
    run("delete", record, lambda session: _delete(session, record))


async def adelete(record: Any) -> None:
    await arun("adelete", record, lambda session: _delete(session, record))


def trash(record: Any) -> None:
    run("trash", record, lambda session: _move(session, record, "trash", datetime.now(UTC)))


async def atrash(record: Any) -> None:
    await arun("atrash", record, lambda session: _move(session, record, "trash", datetime.now(UTC)))


def restore(record: Any) -> None:
    run("restore", record, lambda session: _move(session, record, "restore", None))


async def arestore(record: Any) -> None:
    await arun("arestore", record, lambda session: _move(session, record, "restore", None))


def refresh(record: Any) -> None:
    run("refresh", record, lambda session: _refresh(session, record))


async def arefresh(record: Any) -> None:
    await arun("arefresh", record, lambda session: _refresh(session, record))


def _save(session: Session, record: Any) -> None:
    refuse_save_in_pre_hook(record)
    _refuse_gone(record, "save")
    adopt(session, record)
    _flush(session, record)


def _flush(session: Session, record: Any) -> None:
    if session._flushing:
        return
    try:
        session.flush()
    except StaleDataError as error:
        raise StaleRecord(repr(record)) from error


def _delete(session: Session, record: Any) -> None:
    refuse_save_in_pre_hook(record)
    _refuse_gone(record, "delete")
    state = inspect(record)
    if state.transient:
        raise UnsavedSubject("delete", repr(record))
    if state.pending:
        session.expunge(record)
        return
    adopt(session, record)
    _require_row(session, record)
    session.delete(record)
    _flush(session, record)


def _require_row(session: Session, record: Any) -> None:
    """Hold the row that is to be deleted: of one that is gone SQLAlchemy only warns."""
    state: InstanceState[Any] = inspect(record)
    mapper, connection = state.mapper, mappings.connection_of(session, state)
    if mapper.version_id_col is None and not is_there(connection, mapper, tuple(state.identity or ())):
        raise StaleRecord(repr(record))


def _move(session: Session, record: Any, door: str, at: datetime | None) -> None:
    """Into the trash, or out of it."""
    refuse_save_in_pre_hook(record)
    _refuse_gone(record, door)
    state = inspect(record)
    if state.transient or state.pending:
        raise UnsavedSubject(door, repr(record))
    adopt(session, record)
    before = record.trashed_at
    if (before is None) == (at is None):
        return
    record.trashed_at = at
    try:
        _flush(session, record)
    except BaseException:
        record.trashed_at = before
        raise


def _refresh(session: Session, record: Any) -> None:
    _refuse_gone(record, "refresh")
    state = inspect(record)
    if state.transient or state.pending:
        raise UnsavedSubject("refresh", repr(record))
    # Without autoflush, which would write the very changes that are to be loaded over.
    with session.no_autoflush:
        adopt(session, record)
        found = session.get(type(record), state.identity, populate_existing=True)
    if found is None:
        key = state.identity
        raise NotFound(type(record).__name__, key[0] if key is not None and len(key) == 1 else key)


def adopt(session: Session, record: Any) -> None:
    """Bring a record into the session. Another object of the same row there is written and let go first."""
    if object_session(record) is session:
        return
    state: InstanceState[Any] = inspect(record)
    other = session.identity_map.get(state.key) if state.key is not None else None
    if other is not None and other is not record:
        session.flush()
        session.expunge(other)
    elsewhere = object_session(record)
    if elsewhere is not None:
        elsewhere.expunge(record)
    session.add(record)


def _refuse_gone(record: Any, door: str) -> None:
    if is_snapshot(record):
        raise ReadOnlySnapshot(repr(record))
    state = inspect(record)
    if state.deleted or state.was_deleted:
        raise DeletedSubject(door, repr(record))


bulk.listen()
vanished.listen()
