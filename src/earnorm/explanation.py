"""An explanation: who hears an event, moment by moment, in the order in which they would run. Nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earnorm.bus import EventBus
from earnorm.declared import declared_of
from earnorm.event import NO_CHANGES, Change
from earnorm.handler import Handler, Phase
from earnorm.names import qualify
from earnorm.occurrence import CHANGING, Kind
from earnorm.order import in_order
from earnorm.registry import ModelInfo

__all__ = ["Explained", "Hearer", "explain", "explain_all", "explain_model"]

_KINDS: tuple[Kind, ...] = ("created", "updated", "deleted")
_TRASH_KINDS: tuple[Kind, ...] = ("trashed", "restored")


@dataclass(frozen=True, slots=True)
class Hearer:
    """A handler of an event. With `fields` it hears an update only if that changes one of them."""

    handler: Handler
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """An event and who hears it: before the SQL, in the transaction, after the commit, durably, after a rollback."""

    event: str
    hearers: Sequence[Hearer]


def explain_all(bus: EventBus) -> list[Explained]:
    """Every model's events, by the name of the model, and then the other names that a handler was registered for."""
    infos = [info for _, info in sorted(bus.registry.models.items())]
    others = [name for name in _named(bus) if bus.registry.model_in(name) is None]
    return [*(event for info in infos for event in explain_model(bus, info)), *(explain(bus, name) for name in others)]


def explain_model(bus: EventBus, info: ModelInfo) -> list[Explained]:
    """What writes of a model tell, and the custom events of it that a handler names."""
    kinds = (*_KINDS, *(_TRASH_KINDS if info.trash else ()))
    own = [qualify(event, info.subject) for handler in info.handlers for event in handler.events]
    named = [name for name in sorted({*own, *_named(bus)}) if bus.registry.model_in(name) is info and "*" not in name]
    custom = [name for name in named if not info.is_lifecycle(name) and info.view_of(name) is None]
    return [*(_of_writes(bus, info, kind) for kind in kinds), *(explain(bus, name) for name in custom)]


def explain(bus: EventBus, name: str) -> Explained:
    """Who hears the event of this name: about a record, if it is named after a model. Of a view, who names it."""
    info = bus.registry.model_in(name)
    for kind in (*_KINDS, *_TRASH_KINDS):
        if info is not None and name == f"{info.subject}.{kind}" and info.is_lifecycle(name):
            return _of_writes(bus, info, kind)
    if info is not None and (info.is_lifecycle(name) or info.view_of(name) is not None):
        return _explained(name, in_order(bus.registry.viewing(name, info.cls), info.cls))
    declared = declared_of(name)
    return _explained(name, bus.plans.custom(name, info.cls if info else None, declared.cls if declared else None))


def _explained(name: str, heard: Sequence[Handler]) -> Explained:
    return Explained(name, [Hearer(handler) for phase in Phase for handler in heard if handler.phase is phase])


def _of_writes(bus: EventBus, info: ModelInfo, kind: Kind) -> Explained:
    plans, cls = bus.plans, info.cls
    viewed = {name: _viewing(bus, info, name) for name in sorted(plans.viewed(cls))} if kind in CHANGING else {}
    changes = dict.fromkeys(viewed, Change(None, None))
    found = [
        *plans.hooks(cls, kind, Phase.BEFORE),
        *plans.now(cls, kind, changes),
        *plans.later(cls, kind, changes, durable=False),
        *(handler for handler in plans.after(cls, kind, changes) if handler.phase is Phase.DURABLE),
        *plans.hooks(cls, kind, Phase.ROLLBACK),
    ]
    always = set(plans.after(cls, kind, NO_CHANGES))

    def fields(handler: Handler) -> tuple[str, ...]:
        return () if handler in always else tuple(name for name, heard in viewed.items() if handler in heard)

    return Explained(f"{info.subject}.{kind}", [Hearer(handler, fields(handler)) for handler in found])


def _viewing(bus: EventBus, info: ModelInfo, field: str) -> set[Handler]:
    return set(bus.registry.viewing(f"{info.subject}.{field}.changed", info.cls))


def _named(bus: EventBus) -> list[str]:
    """Names that a handler was registered for, patterns aside."""
    events = [event for handler in bus.registry.all() if handler.model is None for event in handler.events]
    return sorted({str(event) for event in events if isinstance(event, str) and "*" not in event})
