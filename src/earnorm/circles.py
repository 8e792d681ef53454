"""Circles of `before=` and `after=`, found before the first event meets one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from earnorm.bus import EventBus
from earnorm.declared import declared_of
from earnorm.errors import OrderCycle
from earnorm.explanation import explain, explain_all
from earnorm.handler import Handler
from earnorm.names import is_pattern, qualify
from earnorm.order import in_order

__all__ = ["refuse_circles"]


def refuse_circles(bus: EventBus) -> None:
    """Raise OrderCycle if handlers that hear the same event are each to run before the other."""
    try:
        in_order(bus.registry.all())
    except OrderCycle:
        # Between handlers that never hear the same event it means nothing, so each event is asked.
        explain_all(bus)
        for name in _unnamed(bus):
            explain(bus, name)


def _unnamed(bus: EventBus) -> Iterator[str]:
    """The events of handlers that name none: one that fits for a pattern, its own for a declared class."""
    own = [qualify(event, info.subject) for info in bus.registry.models.values() for event in _events(info.handlers)]
    others = _events(handler for handler in bus.registry.all() if handler.model is None)
    for event in dict.fromkeys([*own, *others]):
        if isinstance(event, str):
            if is_pattern(event) and not event.startswith("!"):
                yield event.replace("**", "*").replace("*", "any")
        elif (declared := declared_of(event)) is not None:
            yield declared.name


def _events(handlers: Iterable[Handler]) -> list[Any]:
    return [event for handler in handlers for event in handler.events]
