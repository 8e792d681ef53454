"""The preparation of an attempt: what its handler asks for is decoded and loaded, and what nobody asks for is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

from earnorm.binding import Moment, Source
from earnorm.bus import EventBus
from earnorm.delivery import Delivery, Skipped
from earnorm.dispatch import DEPTH_LIMIT, refuse_loop
from earnorm.envelope import bare_event_of
from earnorm.errors import PayloadError
from earnorm.event import Entry, Event, _running
from earnorm.handler import Handler
from earnorm.registry import ModelInfo
from earnorm.settling import _attempt
from earnorm.tenant import act_for, acting_for
from earnorm.underway import Run
from earnorm.way import Way

__all__ = ["Ahead", "Hydrated", "Loaded", "Preparation"]

# What of its arguments gives a handler its record; `event` has it as `event.subject`.
_OF_RECORDS = (Source.SUBJECT, Source.EVENT, Source.CONTEXT, Source.DECLARED)
_OF_PAYLOADS = {Source.KEY, Source.REST}
_OF_MOMENTS = (Source.CREATED, Source.OLD, Source.SESSION, Source.DECLARED)

# Seconds for which a record that was loaded ahead may wait for its handler.
_FRESH = 0.1


@dataclass(frozen=True, slots=True)
class Hydrated:
    """What the database found for an entry: its record, loaded fresh, and its declared event object.

    `missing` says that the entry has a record and its row is gone for good.
    """

    subject: Any = None
    info: ModelInfo | None = None
    declared: Any = None
    missing: bool = False


_NOTHING = Hydrated()


class Ahead(Protocol):
    """Who loads records together, before their handlers run."""

    def together(self, entries: Sequence[Entry]) -> Sequence[Any]:
        """The records of many entries, one object for each, by one query a model; None for what is not there."""
        ...

    def writes(self) -> int:
        """A number that grows with each commit of this process: what was loaded before it may be out of date."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A record that was loaded ahead, when, and after how many writes of this process."""

    record: Any
    writes: int
    at: float


class Preparation:
    """Decodes, hydrates and asks `when=`."""

    def __init__(
        self,
        bus: EventBus,
        hydrate: Callable[..., Hydrated],
        events: Callable[[Entry, int], Event],
        *,
        payloads: Callable[[Entry], Mapping[str, Any]],
        database: str,
        ahead: Ahead | None,
    ) -> None:
        self._bus = bus
        self._hydrate = hydrate
        self._events = events
        self._payloads = payloads
        self._database = database
        self._ahead = ahead

    def way(self, handler: Handler, entry: Entry) -> Way:
        """What this delivery has in common with others, until the registry changes."""
        info = self._bus.registry.models.get(entry.subject) if entry.key else None
        try:
            return self._find(handler, info)
        except Exception as error:  # noqa: BLE001  whatever it is, each attempt fails of it
            return self._way(handler, info, partial(_refuse, error), nothing=True)

    def _find(self, handler: Handler, info: ModelInfo | None) -> Way:
        call, when, _ = self._bus.caller.compiled(handler, info)
        target = handler.target
        if target is None:
            return self._way(handler, info, call, nothing=True)
        binding = self._bus.registry.binding(handler, info)
        if not binding.arguments and when is None:
            # Past the call that was compiled: it would only call this.
            return self._way(handler, info, target, nothing=True)
        record = when is not None or binding.uses(*_OF_RECORDS)
        moment = when is not None or binding.uses(*_OF_MOMENTS)
        asks: dict[str, Any] = {"record": record, "moment": moment, "keys": binding.required}
        if when is None:
            sources = {argument.source for argument in binding.arguments}
            asks |= {"record_alone": sources == {Source.SUBJECT}, "payload_alone": sources <= _OF_PAYLOADS}
        return self._way(handler, info, call, when, **asks)

    def _way(self, handler: Handler, info: ModelInfo | None, *call: Any, **asks: Any) -> Way:
        timeout = handler.options.timeout
        asks["is_light"] = timeout is None and bool(asks.get("nothing") or asks.get("payload_alone"))
        return Way(handler, info, self._database, timeout, self.told, *call, **asks)

    def told(self, delivery: Delivery) -> Event:
        """The event for who asks for it in passing; of damaged data, as far as it can be known without."""
        entry, attempt = delivery.entry, delivery.attempt
        try:
            return self._events(entry, attempt)
        except PayloadError:
            return bare_event_of(entry, attempt=attempt, database=self._database)

    def prepare(self, run: Run) -> Skipped | None:
        """All that comes before the call; says why there is none, if so."""
        way, entry = run.way, run.delivery.entry
        # The context that runs here becomes the handler's own.
        if entry.tenant is not None:
            act_for(entry.tenant)
        _running.set(run)
        _attempt.set(run)
        if entry.depth > DEPTH_LIMIT:
            refuse_loop(way.handler, run.event)
        if way.nothing:
            run.target = way.call
            return None
        if way.payload_alone:
            run.target, run.arguments = way.call, self.payload(way, entry)
            return None
        # Of damaged data, the attempt fails of what it asks for and of nothing else.
        event = None if way.record_alone else self._event(run)
        found = _NOTHING
        if way.record:
            found = self._found(run, entry)
            if found.missing:
                return Skipped("missing")
            run.tell_subject(found.subject)
        info = found.info if way.record else way.info
        if event is None and info is way.info:
            run.target, run.arguments = way.call, (found.subject, None, None, None)
            return None
        return self._compose(run, event or self._event(run), found, info)

    def payload(self, way: Way, entry: Entry) -> tuple[Any, ...]:
        """The arguments of a handler that takes nothing but its payload. Raises PayloadError."""
        payload = self._payloads(entry)
        self._require_keys(way, entry.name, payload, way.info)
        return None, payload, None, None

    def _event(self, run: Run) -> Event:
        """Read once, whoever was told of it before. Raises PayloadError."""
        if not run.is_read:
            run.event, run.is_read = self._events(run.delivery.entry, run.delivery.attempt), True
        return run.event

    def _found(self, run: Run, entry: Entry) -> Hydrated:
        record = (run.loaded.record,) if self.is_fresh(run.loaded) else ()
        return self._hydrate(entry, partial(self._event, run), *record)

    def _compose(self, run: Run, event: Event, found: Hydrated, info: ModelInfo | None) -> Skipped | None:
        way = run.way
        self._require_keys(way, event.name, event.payload, info)
        call, when = way.call, way.when
        if info is not way.info:
            call, when, _ = self._bus.caller.compiled(way.handler, info)
        run.target = call
        moment = self._moment(run, found) if way.moment else None
        run.arguments = (event.subject, event.payload, event, moment)
        if when is not None and not when(*run.arguments):
            return Skipped("when")
        return None

    def _require_keys(self, way: Way, name: str, payload: Mapping[str, Any], info: ModelInfo | None) -> None:
        if not way.keys <= payload.keys():
            self._bus.caller.require_payload((way.handler,), name, payload, info)

    @staticmethod
    def _moment(run: Run, found: Hydrated) -> Moment:
        entry, stage = run.delivery.entry, run.stage
        moment = Moment(None, entry.name == f"{entry.subject}.created", found.declared)
        if stage is not None:
            moment.session, moment.async_session = stage.session, stage.async_session
        return moment

    def may_block(self, run: Run) -> bool:
        """Whether it belongs in a thread: a record to load, a condition to ask. Of a way that asks for anything."""
        way, entry = run.way, run.delivery.entry
        if way.when is not None or self.refers(entry):
            return True
        return way.record and self.loads(way, entry) and not self.is_fresh(run.loaded)

    @staticmethod
    def refers(entry: Entry) -> bool:
        """Whether its payload has records in it, which are loaded."""
        # Not by `in`: bytes in bytes take five times as long.
        return entry.data.find(b'"$ref"') >= 0

    # --- ahead -------------------------------------------------------------------------------

    @staticmethod
    def loads(way: Way, entry: Entry) -> bool:
        """Whether a record is loaded for this entry."""
        return way.record and entry.key != "" and entry.name != f"{entry.subject}.deleted"

    def load(self, deliveries: Sequence[Delivery]) -> list[Loaded | None]:
        """Their records, by as few queries as can be, each delivery's its own."""
        assert self._ahead is not None
        writes, at = self._ahead.writes(), time.perf_counter()
        records: list[Loaded | None] = [None] * len(deliveries)
        # Two handlers of one event share no object, nor does one handler see what another tenant's table holds.
        groups: dict[tuple[str, str | None], list[int]] = {}
        for place, delivery in enumerate(deliveries):
            groups.setdefault((delivery.subscription, delivery.entry.tenant), []).append(place)
        for (_, tenant), places in groups.items():
            with acting_for(tenant):
                found = self._ahead.together([deliveries[place].entry for place in places])
            for place, record in zip(places, found, strict=True):
                records[place] = None if record is None else Loaded(record, writes, at)
        return records

    def is_fresh(self, loaded: Loaded | None) -> bool:
        """Whether what was loaded ahead may still be handed out."""
        if loaded is None or self._ahead is None:
            return False
        return loaded.writes == self._ahead.writes() and time.perf_counter() - loaded.at < _FRESH


def _refuse(error: Exception) -> NoReturn:
    raise error.with_traceback(None)
