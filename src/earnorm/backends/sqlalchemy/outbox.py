"""An outbox whose end is the end of a Connection's transaction: what it keeps, and whom it hands it to."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from earnorm.backends.sqlalchemy.appending import NOTHING
from earnorm.backends.sqlalchemy.emissions import Emissions
from earnorm.backends.sqlalchemy.log import Log
from earnorm.backends.sqlalchemy.mapping import mapping_of
from earnorm.backends.sqlalchemy.scope import outside
from earnorm.backends.sqlalchemy.snapshot import snapshot
from earnorm.bus import EventBus
from earnorm.composition import compose_parts
from earnorm.dispatch import Outbox
from earnorm.handler import Handler, Phase
from earnorm.multitude import Happening, Multitude, singly
from earnorm.occurrence import Occurrence
from earnorm.telemetry import HandlerFailed, tell
from earnorm.tenant import acting_for

__all__ = ["ConnectionOutbox"]


class ConnectionOutbox(Outbox):
    """An outbox whose end is the end of a Connection's transaction."""

    def __init__(self, bus: EventBus, log: Log | None, connection: Connection) -> None:
        super().__init__()
        self.bus = bus
        self.log = log
        self.connection = weakref.ref(connection)
        self.engine = connection.engine
        self.database = "" if log is None else log.name
        # Not a WeakSet, which takes longer to make than all the rest: there is one Session, or a few.
        self.references: list[weakref.ref[Session]] = []
        self._sealed: list[int] = []
        self.muted: set[str] = set()  # records whose changes nobody is to hear of, whoever saw them
        self.composed: list[Happening] | None = None
        self.appending = NOTHING
        self._emissions: Emissions | None = None

    def serve(self, session: Session) -> None:
        """Events of this Session's transaction come in here."""
        for reference in self.references:
            if reference() is session:
                return
        self.references.append(weakref.ref(session))

    @property
    def sessions(self) -> list[Session]:
        return [session for reference in self.references if (session := reference()) is not None]

    @property
    def emissions(self) -> Emissions:
        if self._emissions is None:
            self._emissions = Emissions()
        return self._emissions

    def record(self, occurrence: Occurrence) -> None:
        occurrence.database = self.database
        super().record(occurrence)

    def keep(self, occurrence: Occurrence) -> None:
        """`record` what a log alone hears of, and nobody watches."""
        occurrence.database = self.database
        self.happenings.append(occurrence)

    def record_many(self, multitude: Multitude) -> None:
        multitude.database = self.database
        super().record_many(multitude)

    def seal(self) -> None:
        """What has happened so far is composed apart from what comes after."""
        self._sealed.append(len(self.happenings))

    def append(self, connection: Connection, *, with_commit: bool = False) -> None:
        # One, as most transactions have, is what it is.
        alone = len(self.happenings) == 1
        self.composed = self.happenings[:] if alone else compose_parts(self.happenings, self._sealed)
        if self.log is not None and (self.composed or self.muted):
            if self._emissions is not None and self._emissions.are_keyed:
                self.composed = self._emissions.reserve(self.log.join(connection), self.composed)
            self.appending = self.log.append(connection, self.composed, self.muted, with_commit=with_commit)

    def release(self) -> None:
        """The transaction is committed: run what runs after it, in this process."""
        if self._emissions is not None:
            self._emissions.commit()
        if self.log is not None:
            self.log.appended(self.appending)
        for occurrence in singly(filter(self._is_heard_later, self.composed or ())):
            occurrence.later = self._later(occurrence)
            if occurrence.later:
                with acting_for(occurrence.event.tenant):
                    fresh = self._loaded(occurrence, occurrence.later)
                    if fresh is not None:
                        self._run(fresh, occurrence.later)

    def _is_heard_later(self, happening: Happening) -> bool:
        """Of most the log alone does; a handler may have been registered since a multitude happened."""
        info, kind = happening.info, happening.kind
        if info is None or kind == "event" or (self.log is None and isinstance(happening, Occurrence)):
            return True
        return not self.bus.plans.flow(info.cls, kind).logged

    def _later(self, occurrence: Occurrence) -> Sequence[Handler]:
        """Who hears it after the commit, in this process: with a log, the durable ones read that."""
        durable = self.log is None
        if occurrence.info is not None and occurrence.kind != "event":
            return self.bus.plans.later(occurrence.info.cls, occurrence.kind, occurrence.changes, durable=durable)
        return [h for h in occurrence.later if durable or h.phase is Phase.AFTER_COMMIT]

    def _loaded(self, occurrence: Occurrence, later: Sequence[Handler]) -> Occurrence | None:
        try:
            return self._unexpired(occurrence) if self.log is None else self.log.refresh(occurrence)
        except Exception as error:  # noqa: BLE001  # the write is committed; its caller has nothing to mend
            for handler in later:
                tell(HandlerFailed(occurrence.event, handler.name, error))
            return None

    def _unexpired(self, occurrence: Occurrence) -> Occurrence:
        """Without a log a handler gets the live record, unless its Session has expired it at the commit."""
        info, identity = occurrence.info, occurrence.identity
        if info is None or not instance_state(occurrence.subject).expired:
            return occurrence
        if info.strange is not None:
            identity = info.strange.native(identity)
        with Session(self.engine, expire_on_commit=False) as session:
            found: Any = session.get(info.cls, identity)
            session.expunge_all()
        return occurrence if found is None else occurrence.about(found)

    def give_up(self) -> None:
        """The transaction is rolled back."""
        with outside(self.sessions):
            for happening in self.rollback():
                if happening.info is not None and happening.kind != "event":
                    hooks = self.bus.plans.hooks(happening.info.cls, happening.kind, Phase.ROLLBACK)
                    for occurrence in singly([happening]) if hooks else ():
                        self._run(_as_written(occurrence), hooks)

    def _run(self, occurrence: Occurrence, handlers: Sequence[Handler]) -> None:
        occurrence.later = handlers
        self.bus.run_after(occurrence)


def _as_written(occurrence: Occurrence) -> Occurrence:
    """With the values that are lost now, where the record's Session has let go of them, as its own commit does."""
    subject = occurrence.subject
    found = None if subject is None else mapping_of(type(subject))
    if found is None or not instance_state(subject).expired:
        return occurrence
    return occurrence.about(snapshot(found, occurrence.identity, occurrence.payload))
