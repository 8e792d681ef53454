"""Emits that need a database: in the transaction open here, in one of their own, or with a durable handler's settle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Session, object_session

from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.boundary import outbox_of
from earnorm.backends.sqlalchemy.bubbling import bubble_in, refuse_at_once
from earnorm.backends.sqlalchemy.emissions import Emissions, refuse_reuse
from earnorm.backends.sqlalchemy.hooks import attach_session
from earnorm.backends.sqlalchemy.log import Log
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox
from earnorm.backends.sqlalchemy.salvage import require_sound
from earnorm.backends.sqlalchemy.scope import Scope, current_scope, scope_of, within
from earnorm.backends.sqlalchemy.snapshot import is_snapshot
from earnorm.backends.sqlalchemy.standing import standing_of
from earnorm.binding import RESERVED
from earnorm.bus import EventBus
from earnorm.dispatch import tell_emitted
from earnorm.emission import Emit, IdempotencyKey
from earnorm.envelope import encode_payload, fingerprint
from earnorm.errors import (
    DeletedSubject,
    EventError,
    InvalidSubject,
    LifecycleEmitted,
    NotConnected,
    ReservedPayloadKey,
    UnsavedSubject,
    ViewEmitted,
)
from earnorm.event import running
from earnorm.handle import Emission, Handle, MutedHandle, RepeatedHandle, handle_of
from earnorm.handler import Handler, Phase
from earnorm.occurrence import Occurrence
from earnorm.orm.connected import connected_database, database_here
from earnorm.orm.doors import arun, run, session_of
from earnorm.orm.log import DatabaseLog
from earnorm.portal import refuse_in_coroutine, spawn
from earnorm.registry import ModelInfo
from earnorm.settling import Settling, settling_here
from earnorm.store import Transaction

__all__ = ["SQLAlchemyDoor"]

PLAIN = Emit()


class SQLAlchemyDoor:
    """Emits that need a transaction: about models, and all of them once a database is connected."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    @property
    def connected(self) -> bool:
        return connected_database(self._bus) is not None

    def prepare(self, name: str, cls: type, declared: type | None) -> Emits:
        return Emits(self._bus, name, cls, declared)


class Emits:
    """Emits of one name about one class: what is the same for all of them is found out once."""

    def __init__(self, bus: EventBus, name: str, cls: type, declared: type | None) -> None:
        self.bus = bus
        self.name = name
        self.connected = bus.connected
        self.found = mappings.mapping_of(cls)
        self.info = self.found.info if self.found is not None else None
        self.heard = Heard.by(bus.plans.custom(name, cls, declared))
        self._told_by_writes = _told_by_writes(name, self.info, bus.registry.model_in(name))
        if not self.connected:
            bus.warn_if_closed(name, self.heard.all)

    def emit(self, subject: Any, payload: Mapping[str, Any], declared: Any = None, options: Emit = PLAIN) -> Handle:
        self.refuse(subject, payload, declared)
        emit = _Emit(self, subject, payload, declared, options)
        if emit.is_in_memory():
            return emit.here()
        refuse_in_coroutine("emit")
        if (scope := current_scope()) is not None:
            with within(scope):
                return emit(scope.session)
        log = emit.settling_log()
        handle = emit.with_settle(log) if log is not None else None
        return run("emit", subject, emit) if handle is None else handle

    async def aemit(
        self, subject: Any, payload: Mapping[str, Any], declared: Any = None, options: Emit = PLAIN
    ) -> Handle:
        self.refuse(subject, payload, declared)
        emit = _Emit(self, subject, payload, declared, options)
        if emit.is_in_memory():
            return await spawn(emit.here)
        log = emit.settling_log()
        handle = None
        if log is not None:
            # With options it asks the database, for which no loop waits.
            plain = options == PLAIN
            handle = emit.with_settle(log) if plain else await asyncio.to_thread(emit.with_settle, log)
        return await arun("aemit", subject, emit) if handle is None else handle

    def refuse(self, subject: Any, payload: Mapping[str, Any], declared: Any) -> None:
        """What can never be right, before a transaction is opened for it."""
        if self._told_by_writes is not None:
            raise self._told_by_writes()
        self._refuse_words(payload)
        if is_snapshot(subject):
            raise DeletedSubject(self.name, repr(subject))
        if self.info is None:
            if self.connected and subject is not None and subject is not declared:
                raise InvalidSubject(self.name, subject)
            return
        state = inspect(subject)
        if state.deleted or state.was_deleted:
            raise DeletedSubject(self.name, repr(subject))
        if state.transient or state.pending:
            raise UnsavedSubject(self.name, repr(subject))

    def _refuse_words(self, payload: Mapping[str, Any]) -> None:
        if not RESERVED.isdisjoint(payload):
            raise ReservedPayloadKey(next(key for key in payload if key in RESERVED), self.name)
        if self.info is not None:
            for key in payload:
                if key[:4] in ("old_", "new_") and key[4:] in self.info.fields:
                    raise ReservedPayloadKey(key, self.name)


def _told_by_writes(name: str, *models: ModelInfo | None) -> Callable[[], EventError] | None:
    """What a write of a record tells, nobody else may: of the subject's model, and of the one in the name."""
    for info in models:
        if info is None:
            continue
        if (field := info.view_of(name)) is not None:
            return partial(ViewEmitted, name, field)
        if info.is_lifecycle(name):
            return partial(LifecycleEmitted, name)
    return None


class Heard(NamedTuple):
    """Who hears an event: all, those inside the transaction and those after it; and whether all do by the log alone."""

    all: Sequence[Handler]
    now: Sequence[Handler]
    later: Sequence[Handler]
    by_log_alone: bool

    @classmethod
    def by(cls, handlers: Sequence[Handler]) -> Heard:
        return cls(
            handlers,
            tuple(handler for handler in handlers if handler.phase is Phase.TRANSACTION),
            tuple(handler for handler in handlers if handler.phase in (Phase.AFTER_COMMIT, Phase.DURABLE)),
            all(handler.phase is Phase.DURABLE for handler in handlers),
        )


class _Emit(msgspec.Struct, frozen=True):
    """One emit on its way to its transaction. Called with a Session, it happens in that one's."""

    emits: Emits
    subject: Any
    payload: Mapping[str, Any]
    declared: Any
    options: Emit

    def occurrence(self) -> Occurrence:
        emits, subject, payload = self.emits, self.subject, self.payload
        found, info, handlers = emits.found, emits.info, emits.heard.all
        emits.bus.caller.require_payload(handlers, emits.name, payload, info)
        occurrence = Occurrence(
            emits.name,
            self.declared if subject is None else subject,
            payload,
            info=info,
            identity=found.identity(inspect(subject)) if found is not None else (),
            declared=self.declared,
            handlers=handlers,
        )
        if emits.connected:
            occurrence.data = encode_payload(payload, occurrence.identity, mappings.refer)
        return occurrence

    # --- without a transaction ---------------------------------------------------------------

    def is_in_memory(self) -> bool:
        """Whether there is no database and no transaction to be part of."""
        if self.emits.connected or current_scope() is not None:
            return False
        session = session_of(self.subject)
        return session is None or not session.in_transaction()

    def here(self) -> Handle:
        bus = self.emits.bus
        return bus.once.run(self.occurrence(), self.options, bus.run_here)

    # --- with a settle -----------------------------------------------------------------------

    def settling_log(self) -> DatabaseLog | None:
        """In a durable handler and outside a transaction: the log that its settle writes to."""
        session = session_of(self.subject)
        if current_scope() is not None or (session is not None and session.in_transaction()):
            return None
        log = database_here(f"emit of {self.emits.name}").log
        return None if settling_here(log.name) is None else log

    def with_settle(self, log: DatabaseLog) -> Handle | None:
        """Have it appended when the handler settles, if only the log hears it.

        What runs in this process now needs a transaction now.
        """
        here, occurrence, watch = settling_here(log.name), self.occurrence(), self.emits.bus.watch
        bubbles = occurrence.info is not None and occurrence.info.bubbles_to is not None
        if here is None or bubbles or not self.emits.heard.by_log_alone:
            return None
        emission = Emission(waiter=log.waiter, event=occurrence.event)
        if self.options != PLAIN:
            with log.store.begin(readonly=True) as transaction:
                first = self._first(log, transaction, self._opted(emission, transaction, occurrence), here)
            if first is not None:
                return first
        if watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        occurrence.emission = emission
        if not log.wait_for_settle(occurrence):
            return None
        emission.fate = "settling"
        tell_emitted(occurrence)
        return emission

    # --- in a transaction --------------------------------------------------------------------

    def __call__(self, session: Session) -> Handle:
        emits, occurrence = self.emits, self.occurrence()
        watch = emits.bus.watch
        # A repetition is no event, for those who capture either; what it is, only its transaction knows.
        if self.options.key is None and watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        scope = scope_of(session)
        outbox, connection = self._outbox(session, scope, occurrence)
        occurrence.handlers, occurrence.later = emits.heard.now, emits.heard.later
        if emits.found is not None:
            occurrence.bubble = bubble_in(session, emits.found)
        if occurrence.bubble is not None or outbox.log is None or not emits.heard.by_log_alone:
            attach_session(occurrence, session)
        handle = self._handle(outbox, connection, occurrence)
        if handle.repeated:
            return handle
        if self.options.key is not None and watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        if isinstance(handle, Emission):
            occurrence.emission = handle
            outbox.emissions.add(handle)
        if not occurrence.handlers and occurrence.bubble is None:
            outbox.record(occurrence)
        else:
            with within(scope):
                outbox.emit(occurrence, emits.bus.caller, scope.dispatcher)
        return handle

    def _outbox(self, session: Session, scope: Scope, occurrence: Occurrence) -> tuple[ConnectionOutbox, Connection]:
        """Where the event goes, on which connection: as before, while the session's transaction is the same."""
        emits, standing = self.emits, scope.standing
        # Emitted by a handler, its event's record may have a database of its own.
        is_plain = emits.found is not None or occurrence.link is None
        if is_plain and standing is not None and standing.serves(session, emits.found):
            return standing.outbox, standing.connection
        if scope.database is not None:
            require_sound(session, f"emit of {emits.name}")
        connection = session.connection(bind_arguments=_bind(session, emits.found))
        outbox = outbox_of(connection, emits.bus, f"emit of {emits.name}")
        outbox.serve(session)
        scope.standing = standing_of(session, emits.found, connection, outbox) if is_plain else None
        return outbox, connection

    def _handle(self, outbox: ConnectionOutbox, connection: Connection, occurrence: Occurrence) -> Handle:
        """Its own, or that of the emit which had its key before."""
        log = outbox.log
        if log is None:
            if self.options != PLAIN:
                raise NotConnected(f"{self.emits.name} is emitted once or for later, which only a log remembers")
            return handle_of(occurrence.event)
        emission = Emission(waiter=log.waiter, event=occurrence.event)
        if self.options is PLAIN or self.options == PLAIN:
            return emission
        transaction = log.join(connection)
        first = self._first(log, transaction, self._opted(emission, transaction, occurrence), outbox.emissions)
        return emission if first is None else first

    # --- once, and later ---------------------------------------------------------------------

    def _opted(self, emission: Emission, transaction: Transaction, occurrence: Occurrence) -> Emission:
        """The emission, with what its options say. Raises DelayedInProcess."""
        event, options = occurrence.event, self.options
        if options.later:
            refuse_at_once(occurrence)
            emission.due = options.due(transaction.now)
        if options.key is not None:
            emission.key = IdempotencyKey(
                tenant=occurrence.tenant or "",
                name=self.emits.name,
                text=options.key,
                event=event.id,
                digest=fingerprint(occurrence.key, occurrence.data),
                at=event.time,
            )
        return emission

    @staticmethod
    def _first(log: Log, transaction: Transaction, emission: Emission, here: Emissions | Settling) -> Handle | None:
        """The handle of the event that has the key, of this very transaction or a committed one. Raises KeyReused."""
        key = emission.key
        if key is None:
            return None
        if (before := here.under(key.place)) is not None:
            refuse_reuse(key, before.key)
            return RepeatedHandle(of=before)
        known = transaction.reserved(*key.place)
        if known is None:
            return None
        refuse_reuse(key, known)
        return Emission(waiter=log.waiter, key=known, first=known.event, fate="kept")


def _bind(session: Session, found: mappings.Mapping | None) -> dict[str, Any]:
    """Which of a session's databases an event belongs to: its record's, else that of the event it is emitted in."""
    if found is None and (now := running()) is not None:
        subject = now.event.subject
        found = mappings.mapping_of(type(subject))
        if found is None or object_session(subject) is not session:
            return {}
    return {} if found is None else {"mapper": inspect(found.cls)}
