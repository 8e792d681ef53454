"""Emits that need a database: in the transaction open here, in one of their own, or with a durable handler's settle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

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
from earnorm.backends.sqlalchemy.scope import current_scope, scope_of, within
from earnorm.binding import RESERVED
from earnorm.bus import EventBus
from earnorm.dispatch import tell_emitted
from earnorm.emission import Emit, IdempotencyKey
from earnorm.envelope import encode_payload, fingerprint
from earnorm.errors import (
    DeletedSubject,
    InvalidSubject,
    LifecycleEmitted,
    NotConnected,
    ReservedPayloadKey,
    UnsavedSubject,
    ViewEmitted,
)
from earnorm.event import running
from earnorm.handle import Emission, Handle, MutedHandle, RepeatedHandle, handle_of
from earnorm.handler import Phase
from earnorm.occurrence import Occurrence
from earnorm.orm.connected import connected_database, database_here
from earnorm.orm.doors import arun, run, session_of
from earnorm.orm.loading import is_snapshot
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

    def emit(
        self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any, options: Emit | None = None
    ) -> Handle:
        emit = _Emit(self._bus, self.connected, name, subject, payload, declared, options or PLAIN)
        emit.refuse()
        if emit.is_in_memory():
            return emit.here()
        refuse_in_coroutine("emit")
        log = emit.settling_log()
        handle = emit.with_settle(log) if log is not None else None
        return run("emit", subject, emit) if handle is None else handle

    async def aemit(
        self, name: str, subject: Any, payload: Mapping[str, Any], declared: Any, options: Emit | None = None
    ) -> Handle:
        emit = _Emit(self._bus, self.connected, name, subject, payload, declared, options or PLAIN)
        emit.refuse()
        if emit.is_in_memory():
            return await spawn(emit.here)
        log = emit.settling_log()
        handle = None
        if log is not None:
            # With options it asks the database, for which no loop waits.
            handle = emit.with_settle(log) if options is None else await asyncio.to_thread(emit.with_settle, log)
        return await arun("aemit", subject, emit) if handle is None else handle


class _Emit(msgspec.Struct, frozen=True):
    """One emit on its way to its transaction. Called with a Session, it happens in that one's."""

    bus: EventBus
    connected: bool
    name: str
    subject: Any
    payload: Mapping[str, Any]
    declared: Any
    options: Emit

    def refuse(self) -> None:
        """What can never be right, before a transaction is opened for it."""
        found = mappings.mapping_of(type(self.subject))
        info = found.info if found is not None else None
        for key in self.payload:
            old_or_new = key[:4] in ("old_", "new_") and info is not None and key[4:] in info.fields
            if key in RESERVED or old_or_new:
                raise ReservedPayloadKey(key, self.name)
        self._refuse_name(info)
        if is_snapshot(self.subject):
            raise DeletedSubject(self.name, repr(self.subject))
        if info is None:
            if self.connected and self.subject is not None and self.subject is not self.declared:
                raise InvalidSubject(self.name, self.subject)
            return
        state = inspect(self.subject)
        if state.deleted or state.was_deleted:
            raise DeletedSubject(self.name, repr(self.subject))
        if state.transient or state.pending:
            raise UnsavedSubject(self.name, repr(self.subject))

    def _refuse_name(self, about: ModelInfo | None) -> None:
        """What a write of a record tells, nobody else may: of the subject's model, and of the one in the name."""
        for info in (about, self._model_named()):
            if info is None:
                continue
            if (field := info.view_of(self.name)) is not None:
                raise ViewEmitted(self.name, field)
            if info.is_lifecycle(self.name):
                raise LifecycleEmitted(self.name)

    def _model_named(self) -> ModelInfo | None:
        models, subject = self.bus.registry.models, self.name
        while (subject := subject.rpartition(".")[0]) and subject not in models:
            pass
        return models.get(subject)

    def occurrence(self) -> Occurrence:
        subject, payload = self.subject, self.payload
        found = mappings.mapping_of(type(subject))
        info = found.info if found is not None else None
        declared = type(self.declared) if self.declared is not None else None
        handlers = self.bus.plans.custom(self.name, type(subject), declared)
        self.bus.caller.require_payload(handlers, self.name, payload, info)
        occurrence = Occurrence(
            self.name,
            self.declared if subject is None else subject,
            payload,
            info=info,
            identity=found.identity(inspect(subject)) if found is not None else (),
            declared=self.declared,
            handlers=handlers,
        )
        if self.connected:
            occurrence.data = encode_payload(payload, occurrence.identity, mappings.refer)
        return occurrence

    # --- without a transaction ---------------------------------------------------------------

    def is_in_memory(self) -> bool:
        """Whether there is no database and no transaction to be part of."""
        if self.connected or current_scope() is not None:
            return False
        session = session_of(self.subject)
        return session is None or not session.in_transaction()

    def here(self) -> Handle:
        return self.bus.once.run(self.occurrence(), self.options, self.bus.run_here)

    # --- with a settle -----------------------------------------------------------------------

    def settling_log(self) -> DatabaseLog | None:
        """In a durable handler and outside a transaction: the log that its settle writes to."""
        session = session_of(self.subject)
        if current_scope() is not None or (session is not None and session.in_transaction()):
            return None
        log = database_here(f"emit of {self.name}").log
        return None if settling_here(log.name) is None else log

    def with_settle(self, log: DatabaseLog) -> Handle | None:
        """Have it appended when the handler settles, if only the log hears it.

        What runs in this process now needs a transaction now.
        """
        here, occurrence = settling_here(log.name), self.occurrence()
        bubbles = occurrence.info is not None and occurrence.info.bubbles_to is not None
        if here is None or bubbles or any(handler.phase is not Phase.DURABLE for handler in occurrence.handlers):
            return None
        emission = Emission(waiter=log.waiter, event=occurrence.event)
        if self.options != PLAIN:
            with log.store.begin(readonly=True) as transaction:
                first = self._first(log, transaction, self._opted(emission, transaction, occurrence), here)
            if first is not None:
                return first
        if self.bus.watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        occurrence.emission = emission
        if not log.wait_for_settle(occurrence):
            return None
        emission.fate = "settling"
        tell_emitted(occurrence)
        return emission

    # --- in a transaction --------------------------------------------------------------------

    def __call__(self, session: Session) -> Handle:
        occurrence = self.occurrence()
        # A repetition is no event, for those who capture either; what it is, only its transaction knows.
        if self.options.key is None and self.bus.watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        attach_session(occurrence, session)
        found = mappings.mapping_of(type(self.subject))
        if found is not None:
            occurrence.bubble = bubble_in(session, found)
        connection = session.connection(bind_arguments=_bind(session, found))
        outbox = outbox_of(connection, self.bus, f"emit of {self.name}")
        outbox.serve(session)
        self.bus.in_transaction(occurrence)
        handle = self._handle(outbox, connection, occurrence)
        if handle.repeated:
            return handle
        if self.options.key is not None and self.bus.watch.silences(occurrence):
            return MutedHandle(event=occurrence.event)
        if isinstance(handle, Emission):
            occurrence.emission = handle
            outbox.emissions.add(handle)
        scope = scope_of(session)
        with within(scope):
            outbox.emit(occurrence, self.bus.caller, scope.dispatcher)
        return handle

    def _handle(self, outbox: ConnectionOutbox, connection: Connection, occurrence: Occurrence) -> Handle:
        """Its own, or that of the emit which had its key before."""
        log = outbox.log
        if log is None:
            if self.options != PLAIN:
                raise NotConnected(f"{self.name} is emitted once or for later, which only a log remembers")
            return handle_of(occurrence.event)
        emission = Emission(waiter=log.waiter, event=occurrence.event)
        if self.options == PLAIN:
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
                name=self.name,
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
