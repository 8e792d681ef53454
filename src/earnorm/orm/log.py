"""The log of a database: events in, as entries of the caller's transaction; out again, with their records loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal
from weakref import WeakSet

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.appending import Appending
from earnorm.backends.sqlalchemy.attention import LOOK_AGAIN
from earnorm.backends.sqlalchemy.boundary import commits
from earnorm.backends.sqlalchemy.dialects import MANY
from earnorm.backends.sqlalchemy.scope import current_scope
from earnorm.backends.sqlalchemy.snapshot import snapshot
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore, SQLAlchemyTransaction
from earnorm.bus import EventBus
from earnorm.clock import Clock
from earnorm.codec import Reference
from earnorm.declared import declared_of
from earnorm.envelope import encode_change, event_of, identity_of, payload_of
from earnorm.event import Entries, Entry, Event
from earnorm.handler import require_durable_name
from earnorm.interest import Interests, interests_of
from earnorm.multitude import FEW, Happening, Multitude, singly
from earnorm.occurrence import Occurrence, identify
from earnorm.orm.captures import Captures
from earnorm.orm.loading import find, hint_of, load, load_together
from earnorm.orm.outcomes import Outcomes
from earnorm.orm.stage import StageScope
from earnorm.orm.strays import TRANSLATED, Strays
from earnorm.preparation import Hydrated
from earnorm.registry import ModelInfo
from earnorm.runner import Runner
from earnorm.settling import settling_here
from earnorm.strange import Strange
from earnorm.subscription import registrations_of
from earnorm.telemetry import Appended, HandlerSkipped, tell, wanted

__all__ = ["DatabaseLog", "Kept", "durable_names"]

Kept = Literal["all", "subscribed"]
"""What a log keeps: every event, or those that a subscription hears."""


def durable_names(bus: EventBus) -> list[str]:
    """The subscriptions this process knows. Raises HandlerNameNeeded."""
    durable = bus.registry.durable()
    for handler in durable:
        require_durable_name(handler)
    return [handler.name for handler in durable]


# Models that a handler listens to in vain, of which that was said.
_said: WeakSet[type[Any]] = WeakSet()


def _warn_of_unattached(bus: EventBus) -> None:
    """A handler of a model that nobody attached would wait for ever, without a word."""
    for cls in list(bus.registry._by_class):
        known = any(issubclass(info.cls, cls) for info in bus.registry.models.values())
        if known or cls in _said or inspect(cls, raiseerr=False) is None:
            continue
        _said.add(cls)
        warnings.warn(
            f"a handler listens to {cls.__name__}, of which nothing is told, since it is not attached; "
            f"call earnorm.attach with it, or with its base",
            stacklevel=2,
        )


class DatabaseLog:
    """What the boundary writes to and the worker's runner reads with.

    `read` does some work in a session for reading, `subscribed` says whether every known handler is recorded. `wake` is
    called after a commit, with whether that told the workers of other processes, as `claim` lets it. `ready` makes the
    tables be there, `waiter` waits for outcomes. `kept` is what it keeps of models that do not say so themselves, and
    of events about none. `strays` is told of what is written where it will not be found.
    """

    def __init__(
        self,
        name: str,
        bus: EventBus,
        store: SQLAlchemyStore,
        *,
        clock: Clock,
        kept: Kept,
        read: Callable[[Callable[[Session], Any]], Any],
        subscribed: Callable[[], bool],
        wake: Callable[[bool], object],
        claim: Callable[[], str | None],
        ready: Callable[[], object],
        waiter: Outcomes,
        strays: Strays,
    ) -> None:
        self.name = name
        self.captures = Captures(self, ready)
        self.bus = bus
        self.store = store
        self.clock = clock
        self._kept: Kept = kept
        self._interests = Interests({})
        self._look_again = 0.0
        self._read = read
        self._subscribed = subscribed
        self._wake = wake
        self._claim = claim
        self.waiter = waiter
        self._strays = strays

    # --- who is subscribed -------------------------------------------------------------------

    def subscribe(self, transaction: SQLAlchemyTransaction) -> None:
        """Record the handlers of this process, and learn of those of all others."""
        _warn_of_unattached(self.bus)
        durable_names(self.bus)
        recorded = transaction.subscribe(registrations_of(self.bus.registry))
        heard = interests_of(self.bus.registry)
        transaction.hear({recorded[name]: patterns for name, patterns in heard.items()})
        self._learn(transaction)

    def look(self, connection: Connection) -> None:
        """See in the database who is subscribed by now, unless that was seen a moment ago."""
        if self.clock.monotonic() >= self._look_again:
            self._learn(self.store.join(connection))

    def _learn(self, transaction: SQLAlchemyTransaction) -> None:
        self._interests = Interests(transaction.interests())
        self._look_again = self.clock.monotonic() + LOOK_AGAIN
        self.bus.silences = {}

    def keeps_of(self, info: ModelInfo) -> bool:
        """Whether it would keep any save or deletion of the model, as far as it knows who is subscribed."""
        return (info.log or self._kept) == "all" or self._interests.hears_of(info.subject, info.fields)

    def _keeps(self, happening: Happening) -> bool:
        """Whether it would keep it: of a multitude each."""
        info = happening.info
        if ((info.log if info is not None else None) or self._kept) == "all":
            return True
        if isinstance(happening, Multitude):
            return all(self._chosen(happening))
        if happening.emission is not None and happening.emission.key is not None:
            # It is what a repetition of it is told by.
            return True
        subject = info.subject if info is not None else ""
        return self._interests.hears(happening.name, subject, happening.changes)

    def _is_handed_on(self, happening: Happening) -> bool:
        """Whether a handler after the commit hears it, as far as it knows who is subscribed."""
        if isinstance(happening, Multitude):
            return any(self._chosen(happening))
        info, changes = happening.info, happening.changes
        if self._interests.hears(happening.name, info.subject if info is not None else "", changes):
            return True
        if info is None or happening.kind == "event":
            return bool(happening.later)
        return bool(self.bus.plans.later(info.cls, happening.kind, changes, durable=False))

    def _chosen(self, many: Multitude) -> list[bool]:
        return [self._interests.hears(many.name, many.info.subject, changes) for changes in many.records.changes]

    def _kept_of(self, happening: Happening) -> Happening | None:
        """What of it is kept."""
        if self._keeps(happening):
            return happening
        if not isinstance(happening, Multitude):
            if happening.emission is not None:
                happening.emission.fate = "unheard"
            return None
        chosen = self._chosen(happening)
        return happening.where(chosen) if any(chosen) else None

    # --- in ----------------------------------------------------------------------------------

    def join(self, connection: Connection) -> SQLAlchemyTransaction:
        return self.store.join(connection)

    def append(
        self, connection: Connection, told: Sequence[Happening], muted: set[str], *, with_commit: bool
    ) -> Appending:
        """Write a transaction's events into the log, in that transaction, or hold them back for its COMMIT."""
        transaction = self.store.join(connection)
        if not self._subscribed():
            # Handlers defined since: recorded in this very transaction, so that they miss nothing of it.
            self.subscribe(transaction)
        kept = told
        if not all(map(self._keeps, told)):
            self.look(connection)
            kept = [some for happening in told if (some := self._kept_of(happening)) is not None]
        if connection.get_execution_options().get(TRANSLATED):
            self._strays.notice(connection, kept, self._is_handed_on)
        if muted or self.captures.expects(kept):
            return Appending(self._append_joined(transaction, kept, muted))
        entries = self._entries_alone(kept)
        if entries is not None:
            told_of = transaction.append_with_commit(entries, self._claim) if with_commit else None
            if told_of is not None:
                return Appending(kept, committed=True, told=told_of)
            return Appending(self._met(transaction, kept, transaction.append_meeting(entries)))
        return Appending(self._met(transaction, kept, self._write(transaction, kept)))

    def _met(self, transaction: SQLAlchemyTransaction, kept: Sequence[Happening], met: bool) -> Sequence[Happening]:  # noqa: FBT001  # what the append answered
        """What is kept of events that are appended, if triggers have `met` changes of this transaction as well."""
        if not met:
            return kept
        # The first such transaction of this process. Its place is behind what it may now have to wait for.
        transaction.take_back([occurrence.event.id.bytes for occurrence in singly(kept)])
        return self._append_joined(transaction, kept, set())

    def _write(self, transaction: SQLAlchemyTransaction, kept: Sequence[Happening]) -> bool:
        """Append them in order; returns whether triggers may have captured changes of this transaction as well."""
        met = False
        for is_one, some in groupby(kept, lambda happening: isinstance(happening, Occurrence)):
            if is_one:
                met = transaction.append_meeting(self._entries(singly(some))) or met
                continue
            for many in some:
                assert isinstance(many, Multitude)
                # What triggers saw they have seen by now: nothing of a bundle is ever taken back.
                if len(many) >= MANY and transaction.append_bundled(many):
                    continue
                met = transaction.append_many_meeting(self._entries_of(many)) or met
        return met

    def _append_joined(
        self, transaction: SQLAlchemyTransaction, told: Sequence[Happening], muted: set[str]
    ) -> Sequence[Occurrence]:
        """Append what was told of this transaction and what triggers saw of it, as one."""
        before, joined = self.captures.settle_own(transaction.connection, list(singly(told)), muted)
        kept = [occurrence for occurrence in joined if self._keeps(occurrence)]
        transaction.append([*self.entries(before), *self._entries(kept)])
        return kept

    def entries(self, occurrences: Sequence[Occurrence]) -> list[Entry]:
        """Of those of the events that are kept."""
        return self._entries([occurrence for occurrence in occurrences if self._keeps(occurrence)])

    def _entries(self, occurrences: Iterable[Occurrence]) -> list[Entry]:
        found = list(occurrences)
        if len(found) >= FEW:
            identify(found)
        return [self._entry(occurrence) for occurrence in found]

    def wait_for_settle(self, occurrence: Occurrence) -> bool:
        """Let a durable handler's own settle append the event; False where none runs here, or nothing keeps it."""
        here = settling_here(self.name)
        if here is None or not self._keeps(occurrence):
            return False
        occurrence.database = self.name
        return here.add(self._entry(occurrence), occurrence.emission)

    def _entries_alone(self, kept: Sequence[Happening]) -> list[Entry] | None:
        """The entries of what is kept, if no multitude is among it, as in most transactions."""
        if len(kept) == 1 and isinstance(kept[0], Occurrence):
            return [self._entry(kept[0])]
        return self._entries(singly(kept)) if {*map(type, kept)} == {Occurrence} else None

    def _entry(self, occurrence: Occurrence) -> Entry:
        if occurrence.data:
            return occurrence.entry(occurrence.data)
        info, values, changes = occurrence.info, occurrence.payload, occurrence.changes
        hidden = info.sensitive if info is not None else frozenset[str]()
        if info is not None and info.strange is not None:
            values, changes = info.strange.logged_values(values), info.strange.logged_changes(changes)
        return occurrence.entry(encode_change(occurrence.identity, values, changes, mappings.refer, hidden))

    @staticmethod
    def _entries_of(many: Multitude) -> Entries:
        records, strange = many.records, many.info.strange
        if strange is not None:
            records = records.spelled(strange.names, strange.logged_value)
        return many.entries(records.written(mappings.refer, many.info.sensitive))

    def appended(self, appending: Appending) -> None:
        """They are committed: the worker need not wait for its next look."""
        if wanted(Appended):
            for occurrence in singly(appending.kept):
                tell(Appended(occurrence.event))
        if appending.kept:
            self._wake(appending.told)

    def refresh(self, occurrence: Occurrence) -> Occurrence | None:
        """For a handler after the commit: the record as it is now; None (told as skipped) if it is gone."""
        found = mappings.mapping_of(_class_of(occurrence))
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

    # --- out ---------------------------------------------------------------------------------

    def runner(self, version: str | None) -> Runner:
        """Whoever runs handlers of this log; `version` is that of the application's code, else the environment's."""
        return Runner(
            self.bus,
            self.hydrate,
            self.decode,
            payloads=self.payload,
            database=self.name,
            hint=hint_of,
            clock=self.clock,
            ahead=self,
            version=os.environ.get("EARNORM_CODE_VERSION", "") if version is None else version,
        )

    def decode(self, entry: Entry, attempt: int) -> Event:
        strange = _strange(entry)
        return event_of(entry, attempt=attempt, database=self.name, resolve=self._resolve, strange=strange)

    def payload(self, entry: Entry) -> Mapping[str, Any]:
        payload, strange = payload_of(entry, self._resolve), _strange(entry)
        return payload if strange is None else strange.native_values(payload)

    def _resolve(self, reference: Reference) -> Any:
        """A model in a payload, loaded; the reference itself if its row is gone or its class unknown here."""
        found = mappings.mapping_of_subject(reference.subject)
        if found is None:
            return reference
        record = self._load(found, reference.key)
        return reference if record is None else record

    def hydrate(self, entry: Entry, event: Callable[[], Event], record: Any = None) -> Hydrated:
        declared = declared_of(entry.name)
        value = declared.build(event().payload) if declared is not None else None
        found = mappings.mapping_of_subject(entry.subject) if entry.key else None
        if found is None:
            return Hydrated(value, None, value, missing=False)
        if record is not None:
            return Hydrated(record, found.info, value, missing=False)
        identity = identity_of(entry)
        if entry.name == f"{entry.subject}.deleted":
            return Hydrated(snapshot(found, identity, event().payload), found.info, value, missing=False)
        subject = self._load(found, identity)
        return Hydrated(subject, found.info, value, missing=subject is None)

    def together(self, entries: Sequence[Entry]) -> list[Any]:
        """Their records, loaded fresh, by one query a model; None for what is not there."""
        records: list[Any] = [None] * len(entries)
        by_subject: dict[str, list[int]] = {}
        for place, entry in enumerate(entries):
            by_subject.setdefault(entry.subject, []).append(place)
        for subject, places in by_subject.items():
            found = mappings.mapping_of_subject(subject)
            if found is None:
                continue
            identities = [identity_of(entries[place]) for place in places]
            with self.store.noticing_loss():
                loaded = self._read(partial(load_together, mapping=found, identities=identities))
            for place, record in zip(places, loaded, strict=True):
                records[place] = record
        return records

    def writes(self) -> int:
        return commits()

    def _load(self, found: mappings.Mapping, identity: tuple[Any, ...]) -> Any | None:
        scope = current_scope()
        if isinstance(scope, StageScope):
            # In the handler's own session, and so attached to it.
            return find(scope.session, found, identity)
        with self.store.noticing_loss():
            return self._read(lambda session: load(session, found, identity))


def _strange(entry: Entry) -> Strange | None:
    found = mappings.mapping_of_subject(entry.subject)
    return None if found is None else found.info.strange


def _class_of(occurrence: Occurrence) -> type[Any]:
    """Of its subject, or of the record that a bulk write changed unseen."""
    if occurrence.subject is None and occurrence.info is not None and occurrence.kind != "event":
        return occurrence.info.cls
    return type(occurrence.subject)
