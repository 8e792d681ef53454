"""The ways of deliveries: what all those to one handler of events about one model have in common, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from earnorm.bus import EventBus
from earnorm.delivery import Delivery
from earnorm.errors import UnknownHandler
from earnorm.event import Entry, Event
from earnorm.handler import Handler
from earnorm.registry import ModelInfo

__all__ = ["Way", "Ways"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a handler is called for events about one model, or about none.

    database   whose log they are in
    timeout    that of an attempt
    told       the event of a delivery, for who asks for it in passing
    call       with `(subject, payload, event, moment)`; where it asks for `nothing`, without any
    when       its condition, called alike
    record, moment, keys   what else it asks for
    record_alone   that it asks for nothing but its record
    payload_alone  or for nothing but what is in its payload
    is_light       that it may be called without anything that may block, or that has to be timed
    """

    handler: Handler
    info: ModelInfo | None
    database: str
    timeout: float | None
    told: Callable[[Delivery], Event]
    call: Callable[..., Any]
    when: Callable[..., Any] | None = None
    nothing: bool = False
    record: bool = False
    moment: bool = False
    keys: frozenset[str] = frozenset()
    record_alone: bool = False
    payload_alone: bool = False
    is_light: bool = False


class Ways:
    """The durable handlers of a bus by the names of their subscriptions, and the ways to them, as of now.

    `find` works one out.
    """

    def __init__(self, bus: EventBus, find: Callable[[Handler, Entry], Way]) -> None:
        self.registry = bus.registry
        self._find = find
        self._version = -1
        self._recorded: Mapping[str, str] = {}
        self._handlers: dict[str, Handler] = {}
        self._known: dict[tuple[str, str], Way] = {}

    def record(self, names: Mapping[str, str]) -> None:
        """From now on subscriptions go by their recorded names, given here by those of their handlers."""
        self._recorded = dict(names)
        self._version = -1

    def handler(self, name: str) -> Handler | None:
        if self.registry.version != self._version:
            self._look()
        return self._handlers.get(name)

    def of(self, delivery: Delivery) -> Way:
        """Raises UnknownHandler."""
        if self.registry.version != self._version:
            self._look()
        entry, known = delivery.entry, self._known
        # What is about no record is about no model.
        key = (delivery.subscription, entry.subject if entry.key else "")
        found = known.get(key)
        if found is None:
            handler = self._handlers.get(key[0])
            if handler is None:
                raise UnknownHandler(key[0])
            found = known[key] = self._find(handler, entry)
        return found

    def _look(self) -> None:
        version, named = self.registry.version, self._recorded
        self._handlers = {named.get(handler.name, handler.name): handler for handler in self.registry.durable()}
        # A new table rather than an emptied one: what a thread is working out right now goes into the old.
        self._known = {}
        # What was recorded meanwhile is yet to be looked at.
        self._version = version if named is self._recorded else -1
