"""Subscriptions: the durable handlers of a bus as the log sees them, and who of them hears an entry. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from earnorm.bus import EventBus
from earnorm.declared import declared_of
from earnorm.errors import PayloadError
from earnorm.event import Change, Entry, Event
from earnorm.flow import remember
from earnorm.handler import Handler, Phase
from earnorm.later import Pair
from earnorm.occurrence import Kind
from earnorm.order import in_order
from earnorm.registry import TRASHING, ModelInfo, Registry
from earnorm.store import DEFAULT_GROUP, Registration

__all__ = ["Audience", "Subscription", "registrations_of"]

# Changes that are heard by their name alone, not by the fields they changed.
_WHOLE: dict[str, Kind] = {"created": "created", "deleted": "deleted"}
_SOME = Change(None, None)
# And those heard by the fields they changed as well.
_SOME_FIELDS: dict[str, Kind] = {"updated": "updated", "trashed": "trashed", "restored": "restored"}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A durable handler, seen from the log. With `ordered`, later events of a record wait for earlier ones.

    `delay` is how many seconds after its event its first attempt is due.
    """

    name: str
    ordered: bool = True
    delay: float | None = None


# --- who hears an entry ----------------------------------------------------------------------


class Audience:
    """The durable handlers of a bus as subscriptions: their names, and who of them hears an entry, in handler order."""

    def __init__(self, bus: EventBus, events: Callable[[Entry, int], Event]) -> None:
        self._bus = bus
        self._registry = bus.registry
        self._events = events
        self._version = -1
        self._names: frozenset[str] = frozenset()
        self._recorded: Mapping[str, str] = {}
        self._heard: dict[Pair, tuple[Subscription, ...]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of the handlers, as this process calls them."""
        self._look()
        return self._names

    def registrations(self) -> list[Registration]:
        return registrations_of(self._registry)

    def record(self, names: Mapping[str, str]) -> None:
        """From now on its subscriptions go by their recorded names, given here by those of their handlers."""
        self._recorded = dict(names)
        self._heard = {}

    def hearing(self, entry: Entry) -> tuple[Subscription, ...]:
        found = self.by_name(entry)
        if found is not None:
            return found
        registry = self._registry
        info, verb = registry.models.get(entry.subject), entry.name.removeprefix(f"{entry.subject}.")
        return self._subscriptions(self._hearing_update(entry, info, _SOME_FIELDS[verb]))

    def by_name(self, entry: Entry) -> tuple[Subscription, ...] | None:
        """Who hears each entry of this name about this model. None, where that depends on what changed in it."""
        if self._registry.version != self._version:
            self._look()
        # Looked up and written in the same dict: what was found before a handler came must not outlast its coming.
        heard, name = self._heard, (entry.subject, entry.name)
        found = heard.get(name)
        if found is not None:
            return found
        registry = self._registry
        info = registry.models.get(entry.subject) if entry.subject else registry.batched(entry.name)
        verb = entry.name.removeprefix(f"{entry.subject}.")
        if entry.subject and (verb == "updated" or (info is not None and info.trash and verb in TRASHING)):
            return None
        return remember(heard, name, self._subscriptions(self._hearing_name(entry, info, verb)))

    def _look(self) -> None:
        version = self._registry.version
        if version != self._version:
            self._names = frozenset(handler.name for handler in self._registry.durable())
            self._heard = {}
            self._version = version

    def _hearing_name(self, entry: Entry, info: ModelInfo | None, verb: str) -> Sequence[Handler]:
        plans = self._bus.plans
        if info is not None and verb in _WHOLE:
            return plans.after(info.cls, _WHOLE[verb])
        if entry.subject and verb == "created":
            return self._hearing_unknown(entry, ())
        declared = declared_of(entry.name)
        return plans.custom(entry.name, info.cls if info else None, declared.cls if declared else None)

    def _hearing_update(self, entry: Entry, info: ModelInfo | None, kind: Kind) -> Sequence[Handler]:
        if info is None:
            return self._hearing_unknown(entry, self._changed(entry, ()))
        viewed = self._bus.plans.viewed(info.cls)
        changed = self._changed(entry, viewed) if viewed else ()
        return self._bus.plans.after(info.cls, kind, dict.fromkeys(changed, _SOME))

    def _hearing_unknown(self, entry: Entry, changed: Iterable[str]) -> Sequence[Handler]:
        """A lifecycle event of a model that this process has not imported, for handlers that name it."""
        views = [f"{entry.subject}.saved", *(f"{entry.subject}.{name}.changed" for name in changed)]
        found = self._registry.hearing(entry.name)
        for view in views:
            found += self._registry.viewing(view, object)
        return in_order(dict.fromkeys(found))

    def _changed(self, entry: Entry, otherwise: Collection[str]) -> Collection[str]:
        """The fields an update changed. Of damaged data all might be: the runner makes dead letters of those."""
        try:
            return self._events(entry, 1).changes
        except PayloadError:
            return otherwise

    def _subscriptions(self, handlers: Iterable[Handler]) -> tuple[Subscription, ...]:
        named = self._recorded
        return tuple(
            Subscription(named.get(h.name, h.name), h.ordered, h.options.delay)
            for h in handlers
            if h.phase is Phase.DURABLE
        )


def registrations_of(registry: Registry) -> list[Registration]:
    """What is to be recorded of the durable handlers known here."""
    return [_registration(handler) for handler in registry.durable()]


def _registration(handler: Handler) -> Registration:
    options = handler.options
    group = options.group or DEFAULT_GROUP
    return Registration(name=handler.name, group=group, since=options.since, formerly=options.formerly)
