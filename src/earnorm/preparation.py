"""The preparation of an attempt: what its handler asks for is decoded and loaded, and what nobody asks for is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import force_setattr

from earnorm.binding import Moment, Source
from earnorm.bus import EventBus
from earnorm.delivery import Delivery, Skipped
from earnorm.dispatch import DEPTH_LIMIT, Compiled, refuse_loop
from earnorm.event import Entry, Event
from earnorm.handler import Handler
from earnorm.registry import ModelInfo
from earnorm.tenant import acting_for
from earnorm.underway import Run

__all__ = ["Ahead", "Hydrated", "Loaded", "Preparation", "Way"]

# What of its arguments gives a handler its record; `event` has it as `event.subject`.
_OF_RECORDS = (Source.SUBJECT, Source.EVENT, Source.CONTEXT, Source.DECLARED)
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


@dataclass(frozen=True, slots=True)
class Way:
    """What all deliveries to a handler of events about one model have in common, worked out once.

    nothing, record, moment, keys   what the handler asks for of them
    compiled                        its call, unless it is gone
    """

    info: ModelInfo | None
    nothing: bool
    record: bool = False
    moment: bool = False
    keys: frozenset[str] = frozenset()
    compiled: Compiled | None = None


class Preparation:
    """Decodes, hydrates and asks `when=`. `forget` is due whenever the registry has changed."""

    def __init__(
        self,
        bus: EventBus,
        hydrate: Callable[..., Hydrated],
        events: Callable[[Entry, int], Event],
        database: str,
        ahead: Ahead | None,
    ) -> None:
        self._bus = bus
        self._hydrate = hydrate
        self._events = events
        self._database = database
        self._ahead = ahead
        self.forget()

    def forget(self) -> None:
        self._ways: dict[tuple[str, str, bool], Way] = {}

    def prepare(self, run: Run) -> Skipped | None:
        """All that comes before the call; says why there is none, if so."""
        run.enter(self._database)
        handler, entry = run.handler, run.delivery.entry
        way = self.way(handler, entry)
        if entry.depth > DEPTH_LIMIT:
            refuse_loop(handler, run.event)
        if way.nothing:
            run.target = (way.compiled or self._bus.caller.compiled(handler, way.info)).call
            return None
        event = run.event = self._events(entry, run.delivery.attempt)
        found = _NOTHING
        if way.record:
            found = self._found(run, entry, event)
            if found.missing:
                return Skipped("missing")
            force_setattr(event, "subject", found.subject)
        return self._compose(run, event, found, found.info if way.record else way.info, way)

    def _found(self, run: Run, entry: Entry, event: Event) -> Hydrated:
        if self.is_fresh(run.loaded):
            return self._hydrate(entry, event, run.loaded.record)
        return self._hydrate(entry, event)

    def _compose(self, run: Run, event: Event, found: Hydrated, info: ModelInfo | None, way: Way) -> Skipped | None:
        handler = run.handler
        if not way.keys <= event.payload.keys():
            self._bus.caller.require_payload((handler,), event.name, event.payload, info)
        compiled = way.compiled if info is way.info else None
        compiled = compiled or self._bus.caller.compiled(handler, info)
        run.target = compiled.call
        moment = self._moment(run, found) if way.moment else None
        run.arguments = (event.subject, event.payload, event, moment)
        if compiled.when is not None and not compiled.when(*run.arguments):
            return Skipped("when")
        return None

    @staticmethod
    def _moment(run: Run, found: Hydrated) -> Moment:
        entry, stage = run.delivery.entry, run.stage
        moment = Moment(None, entry.name == f"{entry.subject}.created", found.declared)
        if stage is not None:
            moment.session, moment.async_session = stage.session, stage.async_session
        return moment

    def may_block(self, run: Run) -> bool:
        """Whether it belongs in a thread: a record to load, a condition to ask."""
        entry = run.delivery.entry
        if self.way(run.handler, entry).nothing:
            return False
        if run.handler.options.when is not None or b'"$ref"' in entry.data:
            return True
        return self.loads(run.handler, entry) and not self.is_fresh(run.loaded)

    # --- ahead -------------------------------------------------------------------------------

    def may_load(self, handler: Handler, entry: Entry) -> bool:
        """Whether records are loaded for entries about what this one is about."""
        return bool(entry.key) and self.way(handler, entry).record

    def loads(self, handler: Handler, entry: Entry) -> bool:
        """Whether a record is loaded for this entry."""
        return self.may_load(handler, entry) and entry.name != f"{entry.subject}.deleted"

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

    # --- what is asked for -------------------------------------------------------------------

    def way(self, handler: Handler, entry: Entry) -> Way:
        """What this delivery has in common with others. Raises HandlerError."""
        key = handler.name, entry.subject, not entry.key
        return self._ways.get(key) or self._ways.setdefault(key, self._ask(handler, entry))

    def _ask(self, handler: Handler, entry: Entry) -> Way:
        info = self._bus.registry.models.get(entry.subject) if entry.key else None
        if handler.target is None:
            return Way(info, nothing=True)
        binding = self._bus.registry.binding(handler, info)
        asks = handler.options.when is not None
        return Way(
            info,
            nothing=not binding.arguments and not asks,
            record=asks or binding.uses(*_OF_RECORDS),
            moment=asks or binding.uses(*_OF_MOMENTS),
            keys=binding.required,
            compiled=self._bus.caller.compiled(handler, info),
        )
