"""An event: an immutable fact about a subject, as handlers see it (Event) and as the log keeps it (Entry)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr

from earnorm._uuid7 import uuid7, uuid_of
from earnorm.instants import microseconds, to_time

__all__ = [
    "NO_CHANGES",
    "NO_PAYLOAD",
    "Change",
    "Changes",
    "Entries",
    "Entry",
    "Event",
    "Origin",
    "Running",
    "Runs",
    "caused_by",
    "current_event",
    "running",
]


class Change(NamedTuple):
    """What happened to one field: `old, new = event.changes["status"]`."""

    old: Any
    new: Any


Changes = Mapping[str, Change]
NO_CHANGES: Changes = MappingProxyType({})
NO_PAYLOAD: Mapping[str, Any] = MappingProxyType({})


class Origin(msgspec.Struct, frozen=True, eq=False):
    """Where an event comes from and where it is kept. It lies apart: an event in memory is made faster without it."""

    cause: Event | None = None
    emitter: str = ""
    causation_id: UUID | None = None
    correlation_id: UUID | None = None
    depth: int = 0
    database: str = ""
    tenant: str | None = None
    version: int = 1
    position: int | None = None
    attempt: int = 1


_NO_ORIGIN = Origin()


class Event(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """Something that happened, in the past tense. `str(event)` is its name.

    `id` is known before the commit and never changes, so it is the idempotency key to hand to
    the outside world; `attempt` counts the runs of one handler for it. `correlation_id` is the id
    of the first event of the chain, `causation_id` that of the event whose handler (`emitter`) emitted this one.
    """

    name: str
    subject: Any = None
    payload: Mapping[str, Any] = NO_PAYLOAD
    changes: Changes = NO_CHANGES
    key: str = ""
    origin: Origin = _NO_ORIGIN
    # Written on first use or by us alone: an id costs more than a whole in-memory dispatch.
    _id: UUID | None = None
    _at: float = 0.0
    _stopped: bool = False

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        about = f" of {self.key}" if self.key else ""
        return f"<Event {self.name}{about} {self.id}>"

    @property
    def id(self) -> UUID:
        if self._id is None:
            force_setattr(self, "_id", uuid7())
        assert self._id is not None
        return self._id

    @property
    def cause(self) -> Event | None:
        return self.origin.cause

    @property
    def emitter(self) -> str:
        return self.origin.emitter

    @property
    def causation_id(self) -> UUID | None:
        return self.origin.causation_id

    @property
    def correlation_id(self) -> UUID:
        return self.origin.correlation_id or self.id

    @property
    def depth(self) -> int:
        return self.origin.depth

    @property
    def database(self) -> str:
        return self.origin.database

    @property
    def tenant(self) -> str | None:
        return self.origin.tenant

    @property
    def version(self) -> int:
        return self.origin.version

    @property
    def position(self) -> int | None:
        return self.origin.position

    @property
    def attempt(self) -> int:
        return self.origin.attempt

    @property
    def time(self) -> datetime:
        """When it happened, aware, in UTC. An event nobody asked the time of has none until then."""
        return datetime.fromtimestamp(self._seconds, UTC)

    @property
    def _seconds(self) -> float:
        if not self._at:
            force_setattr(self, "_at", time.time())
        return self._at

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop_propagation(self) -> None:
        """Let the later handlers of this event in this in-process phase not run. In a durable handler: an error."""
        force_setattr(self, "_stopped", True)


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """One event as the log keeps it: the words as columns, the data as bytes only a codec reads.

    Its fields are the columns of a row that is read, in their order and as they are, so that thousands are made of rows
    without a step in Python. Ids are their sixteen bytes, times are microseconds since 1970: more is made of those for
    whoever asks, as few do. `Entry.of` is given what is made of them.

    `subject` is the model's event name ("user", "" for none), `key` the record ("user:42").
    `position` is 0 until the store has given one. `due` is the earliest time of its deliveries, if they are to wait;
    one set aside has its own.
    """

    position: int = 0
    raw_id: bytes
    name: str
    subject: str
    key: str
    data: bytes
    raw_at: int
    raw_correlation_id: bytes
    raw_causation_id: bytes | None
    depth: int = 0
    tenant: str | None = None
    version: int = 1
    raw_due: int | None = None

    @classmethod
    def of(
        cls,
        *,
        id: UUID,  # noqa: A002  the event's own word
        at: datetime,
        correlation_id: UUID,
        causation_id: UUID | None = None,
        due: datetime | None = None,
        **others: Any,
    ) -> Entry:
        return cls(
            raw_id=id.bytes,
            raw_at=microseconds(at),
            raw_correlation_id=correlation_id.bytes,
            raw_causation_id=None if causation_id is None else causation_id.bytes,
            raw_due=None if due is None else microseconds(due),
            **others,
        )

    @property
    def id(self) -> UUID:
        return uuid_of(int.from_bytes(self.raw_id))

    @property
    def at(self) -> datetime:
        return to_time(self.raw_at)

    @property
    def correlation_id(self) -> UUID:
        return uuid_of(int.from_bytes(self.raw_correlation_id))

    @property
    def causation_id(self) -> UUID | None:
        return None if self.raw_causation_id is None else uuid_of(int.from_bytes(self.raw_causation_id))

    @property
    def due(self) -> datetime | None:
        return None if self.raw_due is None else to_time(self.raw_due)


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that differ in id, key and data alone: a column of each, and what they share once.

    An id is its sixteen bytes. Without a `correlation_id` each is the first of its chain.
    """

    ids: Sequence[bytes]
    keys: Sequence[str]
    data: Sequence[bytes]
    name: str
    subject: str
    at: datetime
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    depth: int = 0
    tenant: str | None = None
    version: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Entry]:
        at, first, cause = microseconds(self.at), self.correlation_id, self.causation_id
        for sixteen, key, data in zip(self.ids, self.keys, self.data, strict=True):
            yield Entry(
                raw_id=sixteen,
                name=self.name,
                subject=self.subject,
                key=key,
                data=data,
                raw_at=at,
                raw_correlation_id=sixteen if first is None else first.bytes,
                raw_causation_id=None if cause is None else cause.bytes,
                depth=self.depth,
                tenant=self.tenant,
                version=self.version,
            )


class HasEvent(Protocol):
    """What can say its event when asked."""

    @property
    def event(self) -> Event: ...


class Runs(Protocol):
    """The handler that runs here, for which event, and whether it is a pre hook. The event is made if asked for."""

    @property
    def event(self) -> Event: ...

    @property
    def handler(self) -> str: ...

    @property
    def before(self) -> bool: ...

    def noted(self) -> Running:
        """What runs right now, to be kept: what stands for several handlers in turn says the one of this moment."""
        ...


class Running:
    """One that runs, for as long as somebody wants to know of it."""

    __slots__ = ("_source", "before", "handler")

    def __init__(self, source: Event | HasEvent, handler: str, before: bool = False) -> None:  # noqa: FBT001, FBT002  # every call of a hook makes one
        self._source = source
        self.handler = handler
        self.before = before

    @property
    def event(self) -> Event:
        source = self._source
        return source if isinstance(source, Event) else source.event

    def noted(self) -> Running:
        return self


_running: ContextVar[Runs | None] = ContextVar("earnorm_running", default=None)


def running() -> Running | None:
    found = _running.get()
    return None if found is None else found.noted()


def current_event() -> Event | None:
    """The event whose handler is running here, or None."""
    found = _running.get()
    return None if found is None else found.event


@contextmanager
def caused_by(event: Event, handler: str = "") -> Iterator[None]:
    """Events emitted inside carry `event` as their cause, whatever task or thread they cross with this context."""
    token = _running.set(Running(event, handler))
    try:
        yield
    finally:
        _running.reset(token)
