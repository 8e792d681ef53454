"""An occurrence: one event in flight in a transaction, with what its handlers are given besides.

The Event itself is made when somebody asks for it: a hook that takes only `self` costs no event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

from msgspec import structs
from msgspec.structs import force_setattr

from earnorm._uuid7 import sixteen, uuid7s, uuid_of
from earnorm.binding import Moment
from earnorm.declared import version_of
from earnorm.envelope import entry_of
from earnorm.event import NO_CHANGES, NO_PAYLOAD, Changes, Entry, Event, Origin, Running, running
from earnorm.handle import Emission
from earnorm.handler import Handler, Phase
from earnorm.instants import microseconds, microseconds_of
from earnorm.registry import ModelInfo
from earnorm.tenant import current_tenant

__all__ = ["CHANGING", "Kind", "Occurrence", "identify", "key_of"]

Kind = Literal["created", "updated", "trashed", "restored", "deleted", "event"]
CHANGING: frozenset[Kind] = frozenset({"updated", "trashed", "restored"})
"""The kinds that are an UPDATE, with fields that changed."""


def key_of(subject: str, identity: Sequence[Any]) -> str:
    """The record's key as text: `user:42`, of a composite primary key `line:7/2`; "" while it has none."""
    if not identity or None in identity:
        return ""
    if len(identity) == 1:
        return f"{subject}:{str(identity[0]).replace('/', '%2F')}"
    return f"{subject}:{'/'.join(str(part).replace('/', '%2F') for part in identity)}"


class Occurrence:
    """What happened, who hears it now (`handlers`) and who later, and what surrounds it.

    `link` is the handler it happened in. `data` are the bytes of a payload encoded at emit. `bubble` makes the
    event of the whole that a part's event is told again as. `emission` is the handle that an emit for a log gave.
    """

    __slots__ = (
        "_event",
        "_id",
        "async_session",
        "at",
        "bubble",
        "changes",
        "data",
        "database",
        "declared",
        "emission",
        "handlers",
        "identity",
        "info",
        "key",
        "kind",
        "later",
        "link",
        "name",
        "payload",
        "session",
        "subject",
        "tenant",
    )

    def __init__(
        self,
        name: str,
        subject: Any = None,
        payload: Mapping[str, Any] = NO_PAYLOAD,
        *,
        kind: Kind = "event",
        changes: Changes = NO_CHANGES,
        info: ModelInfo | None = None,
        identity: tuple[Any, ...] = (),
        session: Any = None,
        declared: Any = None,
        handlers: Sequence[Handler] = (),
        event: Event | None = None,
    ) -> None:
        self.name = name
        self.subject = subject
        self.payload = payload
        self.kind: Kind = kind
        self.changes = changes
        self.info = info
        if info is not None and info.strange is not None:
            identity = info.strange.logged(identity)
        self.identity = identity
        self.key = "" if info is None else key_of(info.subject, identity)
        self.session = session
        self.declared = declared
        self.handlers = handlers
        self.later: Sequence[Handler] = ()
        self.data = b""
        self.database = ""
        self.bubble: Callable[[Occurrence], Occurrence | None] | None = None
        self.emission: Emission | None = None
        self.async_session: Callable[[], Any] | None = None
        self.link: Running | None = running()
        self.tenant = current_tenant()
        self.at = time.time()
        self._event = event
        self._id = b""

    @property
    def event(self) -> Event:
        found = self._event
        if found is None:
            found = self._event = self._make()
        return found

    def identify(self, id_: bytes) -> None:
        """Its event has this id."""
        if self._event is None:
            self._id = id_
        else:
            force_setattr(self._event, "_id", uuid_of(int.from_bytes(id_)))

    def _make(self) -> Event:
        # What a handler writes there, no log takes for what happened. The payload is a dict, since JSON takes no other.
        changes = NO_CHANGES if self.changes is NO_CHANGES else MappingProxyType(self.changes)
        id_ = uuid_of(int.from_bytes(self._id)) if self._id else None
        return Event(self.name, self.subject, dict(self.payload), changes, self.key, self._origin(), id_, self.at)

    def entry(self, data: bytes) -> Entry:
        """As the log keeps it. Nobody here may ever want the Event of it, so that none is made for this."""
        if self._event is not None or self.link is not None:
            return entry_of(self.event, data, self.due)
        self._id = id_ = self._id or sixteen()
        due = self.due
        return Entry(
            raw_id=id_,
            name=self.name,
            subject=self.key.partition(":")[0],
            key=self.key,
            data=data,
            raw_at=microseconds_of(self.at),
            raw_correlation_id=id_,
            raw_causation_id=None,
            depth=0,
            tenant=self.tenant,
            version=self._version(),
            raw_due=None if due is None else microseconds(due),
        )

    def _version(self) -> int:
        return version_of(self.name) if self.kind == "event" else 1

    def _origin(self) -> Origin:
        version = self._version()
        if self.link is None:
            return Origin(database=self.database, tenant=self.tenant, version=version)
        cause = self.link.event
        return Origin(
            cause,
            self.link.handler,
            cause.id,
            cause.correlation_id,
            cause.depth + 1,
            self.database,
            self.tenant,
            version,
        )

    @property
    def due(self) -> datetime | None:
        """The earliest time of its deliveries, if they are to wait."""
        return None if self.emission is None else self.emission.due

    @property
    def in_process(self) -> list[Handler]:
        """Who hears it in this process, and so at once."""
        return [handler for handler in (*self.handlers, *self.later) if handler.phase is not Phase.DURABLE]

    @property
    def stopped(self) -> bool:
        return self._event is not None and self._event.stopped

    @property
    def moment(self) -> Moment:
        return Moment(self.session, self.kind == "created", self.declared, self.async_session)

    def about(self, subject: Any) -> Occurrence:
        """The same event about another object of the same record."""
        event = self.event
        again = Occurrence(
            self.name,
            subject,
            self.payload,
            kind=self.kind,
            changes=self.changes,
            info=self.info,
            identity=self.identity,
            declared=self.declared,
            event=recast(event, self.name, self.changes, subject),
        )
        again.later = self.later
        again.tenant = self.tenant
        return again


def identify(occurrences: Iterable[Occurrence]) -> None:
    """Give those an id that have none yet, in the order given: together in half the time."""
    new = [one for one in occurrences if not (one._id if one._event is None else one._event._id)]
    for one, id_ in zip(new, uuid7s(len(new)), strict=True):
        one.identify(id_)


def recast(
    origin: Event,
    name: str,
    changes: Changes,
    subject: Any,
    last: Event | None = None,
    *,
    payload: Mapping[str, Any] | None = None,
) -> Event:
    """The event under the identity and cause of `origin`, with the values and time of `last` (default: its own)."""
    last = last or origin
    payload = last.payload if payload is None else payload
    kept = structs.replace(
        origin.origin, database=last.database, tenant=last.tenant, version=last.version, position=None, attempt=1
    )
    return Event(name, subject, payload, changes, last.key, kept, _id=origin.id, _at=last._at)
