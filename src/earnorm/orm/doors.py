"""The doors of a record: save, delete, refresh, emit; each finds the transaction it stands in, or opens one.

A door's work is plain sync code over a Session, written once; the async doors run it where it can await.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import Session, object_session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy import bulk, flushing
from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.boundary import outbox_of
from earnorm.backends.sqlalchemy.bubbling import bubble_in
from earnorm.backends.sqlalchemy.hooks import attach_session, refuse_save_in_pre_hook
from earnorm.backends.sqlalchemy.scope import current_scope, scope_of, within
from earnorm.binding import RESERVED
from earnorm.bus import EventBus
from earnorm.dispatch import tell_emitted
from earnorm.envelope import encode_payload
from earnorm.errors import (
    DeletedSubject,
    EventError,
    NotFound,
    ReadOnlySnapshot,
    ReservedPayloadKey,
    StaleRecord,
    UnsavedSubject,
    ViewEmitted,
)
from earnorm.event import running
from earnorm.handler import Phase
from earnorm.occurrence import Occurrence
from earnorm.orm.connected import connected_database, database_here
from earnorm.orm.loading import is_snapshot
from earnorm.plan import Handle, handle_of
from earnorm.portal import refuse_in_coroutine, spawn
from earnorm.settling import settling_here

__all__ = [
    "SQLAlchemyDoor",
    "adelete",
    "arefresh",
    "arestore",
    "asave",
    "atrash",
    "delete",
    "refresh",
    "restore",
    "save",
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
        return _within(scope.session, work)
    session = _session_of(record)
    if session is not None:
        return _in_session(session, work)
    with database_here(f"{_name(record)}.{door}()").transaction() as opened:
        return work(opened.session)


async def arun(door: str, record: Any, work: Work[T]) -> T:
    """`run`, awaited."""
    scope = current_scope()
    if scope is not None:
        return await spawn(_within, scope.session, work)
    session = _session_of(record)
    if session is not None and async_session(session) is not None:
        return await spawn(_in_session, session, work)
    async with database_here(f"{_name(record)}.{door}()").transaction() as opened:
        return await spawn(work, opened.session.sync_session)


def _name(record: Any) -> str:
    return type(record).__name__ if record is not None else "earnorm"


def _session_of(record: Any) -> Session | None:
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
    session.delete(record)
    _flush(session, record)


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
    state = inspect(record)
    if state.transient or state.pending:
        raise UnsavedSubject("refresh", repr(record))
    # Without autoflush, which would write the very changes that are to be loaded over.
    with session.no_autoflush:
        adopt(session, record)
        found = session.get(type(record), state.identity, populate_existing=True)
    if found is None:
        raise NotFound(type(record).__name__, state.identity)


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


# --- events ----------------------------------------------------------------------------------


def _bind(session: Session, found: mappings.Mapping | None) -> dict[str, Any]:
    """Which of a session's databases an event belongs to: its record's, else that of the event it is emitted in."""
    if found is None and (now := running()) is not None:
        subject = now.event.subject
        found = mappings.mapping_of(type(subject))
        if found is None or object_session(subject) is not session:
            return {}
    return {} if found is None else {"mapper": inspect(found.cls)}


class SQLAlchemyDoor:
    """Emits that need a transaction: about models, and all of them once a database is connected."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    @property
    def connected(self) -> bool:
        return connected_database(self._bus) is not None

    def emit(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle:
        work = self._work(name, subject, payload, declared)
        if self._in_memory(subject):
            return self._emit_here(name, subject, payload, declared)
        refuse_in_coroutine("emit")
        handle = self._with_settle(name, subject, payload, declared)
        return run("emit", subject, work) if handle is None else handle

    async def aemit(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle:
        work = self._work(name, subject, payload, declared)
        if self._in_memory(subject):
            return await spawn(self._emit_here, name, subject, payload, declared)
        handle = self._with_settle(name, subject, payload, declared)
        return await arun("aemit", subject, work) if handle is None else handle

    def _in_memory(self, subject: Any) -> bool:
        """Whether there is no database and no transaction to be part of."""
        if self.connected or current_scope() is not None:
            return False
        session = _session_of(subject)
        return session is None or not session.in_transaction()

    def _emit_here(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle:
        return self._bus.run_here(self._occurrence(name, subject, payload, declared))

    def _with_settle(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle | None:
        """In a durable handler and outside a transaction: appended when the handler settles, if only the log hears it.

        What runs in this process now needs a transaction now.
        """
        session = _session_of(subject)
        if current_scope() is not None or (session is not None and session.in_transaction()):
            return None
        log = database_here(f"emit of {name}").log
        if settling_here(log.name) is None:
            return None
        occurrence = self._occurrence(name, subject, payload, declared)
        bubbles = occurrence.info is not None and occurrence.info.bubbles_to is not None
        if bubbles or any(handler.phase is not Phase.DURABLE for handler in occurrence.handlers):
            return None
        if self._bus.watch.silences(occurrence):
            return handle_of(occurrence.event)
        if not log.wait_for_settle(occurrence):
            return None
        tell_emitted(occurrence)
        return handle_of(occurrence.event)

    def _work(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Work[Handle]:
        self._refuse(name, subject, payload)
        return lambda session: self._emit(session, name, subject, payload, declared)

    def _emit(self, session: Session, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Handle:
        occurrence = self._occurrence(name, subject, payload, declared)
        if self._bus.watch.silences(occurrence):
            return handle_of(occurrence.event)
        attach_session(occurrence, session)
        found = mappings.mapping_of(type(subject))
        if found is not None:
            occurrence.bubble = bubble_in(session, found)
        connection = session.connection(bind_arguments=_bind(session, found))
        outbox = outbox_of(connection, self._bus, f"emit of {name}")
        outbox.serve(session)
        scope = scope_of(session)
        with within(scope):
            outbox.emit(self._bus.in_transaction(occurrence), self._bus.caller, scope.dispatcher)
        return handle_of(occurrence.event)

    def _occurrence(self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any) -> Occurrence:
        found = mappings.mapping_of(type(subject))
        info = found.info if found is not None else None
        handlers = self._bus.plans.custom(name, type(subject), type(declared) if declared is not None else None)
        self._bus.caller.require_payload(handlers, name, payload, info)
        occurrence = Occurrence(
            name,
            declared if subject is None else subject,
            payload,
            info=info,
            identity=found.identity(inspect(subject)) if found is not None else (),
            declared=declared,
            handlers=handlers,
        )
        if self.connected:
            occurrence.data = encode_payload(payload, occurrence.identity, mappings.refer)
        return occurrence

    def _refuse(self, name: str, subject: Any, payload: Mapping[str, Any]) -> None:
        """What can never be right, before a transaction is opened for it."""
        found = mappings.mapping_of(type(subject))
        info = found.info if found is not None else None
        for key in payload:
            old_or_new = key[:4] in ("old_", "new_") and info is not None and key[4:] in info.fields
            if key in RESERVED or old_or_new:
                raise ReservedPayloadKey(key, name)
        if info is None:
            return
        if (field := info.view_of(name)) is not None:
            raise ViewEmitted(name, field)
        if info.is_lifecycle(name):
            raise EventError(f"{name} is raised by save() and delete() alone; emit an event of another name")
        state = inspect(subject)
        if is_snapshot(subject) or state.deleted or state.was_deleted:
            raise DeletedSubject(name, repr(subject))
        if state.transient or state.pending:
            raise UnsavedSubject(name, repr(subject))


flushing.listen()
bulk.listen()
