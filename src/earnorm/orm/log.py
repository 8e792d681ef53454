"""The log of a database: events in, as entries of the caller's transaction; out again, with their records loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.bus import EventBus
from earnorm.codec import Reference
from earnorm.declared import declared_of
from earnorm.envelope import encode_change, entry_of, event_of, identity_of
from earnorm.event import Entry, Event
from earnorm.handler import require_durable_name
from earnorm.occurrence import Occurrence
from earnorm.orm.loading import load, snapshot
from earnorm.runner import Hydrated
from earnorm.telemetry import Appended, HandlerSkipped, tell, wanted

__all__ = ["DatabaseLog", "durable_names"]


def durable_names(bus: EventBus) -> list[str]:
    """The subscriptions this process knows. Raises HandlerNameNeeded."""
    durable = bus.registry.durable()
    for handler in durable:
        require_durable_name(handler)
    return [handler.name for handler in durable]


class DatabaseLog:
    """What the boundary writes to and the worker's runner reads with.

    `reading` opens a session for reading, `subscribed` says whether every known handler is recorded, `wake` is
    called after a commit.
    """

    def __init__(
        self,
        name: str,
        bus: EventBus,
        store: SQLAlchemyStore,
        *,
        reading: Callable[[], AbstractContextManager[Session]],
        subscribed: Callable[[], bool],
        wake: Callable[[], object],
    ) -> None:
        self.name = name
        self.bus = bus
        self.store = store
        self._reading = reading
        self._subscribed = subscribed
        self._wake = wake

    def append(self, connection: Connection, occurrences: Sequence[Occurrence]) -> None:
        """Write a transaction's events into the log, in that transaction."""
        transaction = self.store.join(connection)
        if not self._subscribed():
            # Handlers defined since: recorded in this very transaction, so that they miss nothing of it.
            transaction.subscribe(durable_names(self.bus))
        transaction.append([entry_of(occurrence.event, self._data(occurrence)) for occurrence in occurrences])

    def _data(self, occurrence: Occurrence) -> bytes:
        if occurrence.data:
            return occurrence.data
        hidden = occurrence.info.sensitive if occurrence.info is not None else frozenset[str]()
        return encode_change(occurrence.event, occurrence.identity, mappings.refer, hidden)

    def appended(self, occurrences: Sequence[Occurrence]) -> None:
        """They are committed: the worker need not wait for its next look."""
        if wanted(Appended):
            for occurrence in occurrences:
                tell(Appended(occurrence.event))
        if occurrences:
            self._wake()

    def refresh(self, occurrence: Occurrence) -> Occurrence | None:
        """For a handler after the commit: the record as it is now; None (told as skipped) if it is gone."""
        found = mappings.mapping_of(type(occurrence.subject))
        if found is None:
            return occurrence
        if occurrence.kind == "deleted":
            return occurrence.about(snapshot(found, occurrence.identity, occurrence.payload))
        subject = self._load(found, occurrence.identity)
        if subject is None:
            for handler in occurrence.later:
                tell(HandlerSkipped(occurrence.event, handler.name, "missing"))
            return None
        return occurrence.about(subject)

    def decode(self, entry: Entry, attempt: int) -> Event:
        return event_of(entry, attempt=attempt, database=self.name, resolve=self._resolve)

    def _resolve(self, reference: Reference) -> Any:
        """A model in a payload, loaded; the reference itself if its row is gone or its class unknown here."""
        found = mappings.mapping_of_subject(reference.subject)
        if found is None:
            return reference
        record = self._load(found, reference.key)
        return reference if record is None else record

    def hydrate(self, entry: Entry, event: Event) -> Hydrated:
        declared = declared_of(entry.name)
        value = declared.build(event.payload) if declared is not None else None
        found = mappings.mapping_of_subject(entry.subject) if entry.key else None
        if found is None:
            return Hydrated(value, None, value, missing=False)
        identity = identity_of(entry)
        if entry.name == f"{entry.subject}.deleted":
            return Hydrated(snapshot(found, identity, event.payload), found.info, value, missing=False)
        subject = self._load(found, identity)
        return Hydrated(subject, found.info, value, missing=subject is None)

    def _load(self, found: mappings.Mapping, identity: tuple[Any, ...]) -> Any | None:
        with self._reading() as session:
            return load(session, found, identity)
