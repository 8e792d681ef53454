"""A handle: what `emit` gives back; the event's id now, and what came of it at its handlers later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from earnorm._uuid7 import uuid7
from earnorm.delivery import Outcome
from earnorm.durations import Duration
from earnorm.emission import IdempotencyKey
from earnorm.errors import NoOutcomes
from earnorm.event import Event

__all__ = [
    "Emission",
    "EventHandle",
    "Fate",
    "Handle",
    "MutedHandle",
    "RepeatedHandle",
    "SeenEvent",
    "UnseenHandle",
    "Waiter",
    "handle_of",
]

Fate = Literal["open", "settling", "kept", "unheard", "rolled back", "asked for"]
"""What is known of an emit: in a transaction still open, waiting for its handler's settle, in the log, not kept since
nobody hears it, gone with its transaction or attempt; or nothing, of one asked for by its id."""


class Handle:
    """What `emit` gives back. `id` is the event's, known before any commit.

    `repeated` says that an earlier emit had the same key: `id` is that one's event.
    """

    __slots__ = ()

    @property
    def id(self) -> UUID:
        raise NotImplementedError

    @property
    def repeated(self) -> bool:
        return False

    def outcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:  # noqa: ARG002  others wait
        """Wait until every durable handler that hears the event is done with it; the outcome of each, by its name.

        A handler that returned, or had nothing to do, is Done; one that gave up is Dead, with its error. Whichever
        process delivers, it is waited for. Raises OutcomesPending after `timeout` (seconds, a timedelta, or "5m"),
        OutcomesTooEarly before the commit and inside a transaction or handler, EmitRolledBack, NoOutcomes.
        """
        raise NoOutcomes(str(self.id))

    async def aoutcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:  # noqa: ARG002  as above
        """`outcomes`, awaited."""
        raise NoOutcomes(str(self.id))


class UnseenHandle(Handle, msgspec.Struct, eq=False, gc=False):
    """The handle of an event that no handler asked for, so that none was made."""

    # Made on demand: an id costs more than the dispatch.
    _id: UUID | None = None

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    @property
    def id(self) -> UUID:
        if self._id is None:
            self._id = uuid7()
        return self._id


class SeenEvent(Event, Handle, frozen=True):
    """An event in memory that a handler took: its own handle, since a second object costs as much as a handler."""


class EventHandle(Handle, msgspec.Struct, eq=False):
    """The handle of an event that stands elsewhere as well."""

    event: Event

    def __repr__(self) -> str:
        return f"<Handle of {self.event!r}>"

    @property
    def id(self) -> UUID:
        return self.event.id


def handle_of(event: Event) -> Handle:
    return EventHandle(event=event)


class MutedHandle(EventHandle):
    """The handle of an event that was muted, and so has come to nothing anywhere."""

    def outcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:  # noqa: ARG002  there is nothing to wait for
        return {}

    async def aoutcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:  # noqa: ARG002  as above
        return {}


class RepeatedHandle(Handle, msgspec.Struct, eq=False, kw_only=True):
    """The handle of an emit that did not happen again, since its key belongs to an event of here."""

    of: Handle

    def __repr__(self) -> str:
        return f"<Handle of a repetition, {self.of!r}>"

    @property
    def id(self) -> UUID:
        return self.of.id

    @property
    def repeated(self) -> bool:
        return True

    def outcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:
        return self.of.outcomes(timeout)

    async def aoutcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:
        return await self.of.aoutcomes(timeout)


class Waiter(Protocol):
    """Who waits for what becomes of an emission."""

    def outcomes(self, emission: Emission, timeout: Duration) -> Mapping[str, Outcome]: ...

    async def aoutcomes(self, emission: Emission, timeout: Duration) -> Mapping[str, Outcome]: ...


class Emission(Handle, msgspec.Struct, eq=False, kw_only=True):
    """The handle of an event for a log, which the event's transaction tells its fate.

    `due` is the earliest time of its deliveries. `first` is the event that stands for this one, if an earlier emit had
    its key.
    """

    waiter: Waiter
    event: Event | None = None
    due: datetime | None = None
    key: IdempotencyKey | None = None
    fate: Fate = "open"
    first: UUID | None = None

    def __repr__(self) -> str:
        about = f"of {self.event!r}" if self.event is not None and self.first is None else str(self.id)
        return f"<Handle {about}, {self.fate}>"

    @property
    def id(self) -> UUID:
        if self.first is not None:
            return self.first
        assert self.event is not None
        return self.event.id

    @property
    def repeated(self) -> bool:
        return self.first is not None and self.fate != "asked for"

    def outcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:
        return self.waiter.outcomes(self, timeout)

    async def aoutcomes(self, timeout: Duration = 30.0) -> Mapping[str, Outcome]:
        return await self.waiter.aoutcomes(self, timeout)

    def repeat(self, first: UUID) -> None:
        """It turned out to be a repetition of an event that is committed."""
        self.first, self.fate = first, "kept"
