"""Isolation: what a test registers, defines and connects is gone when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

from sqlalchemy.orm import Mapper

from earnorm import declared, telemetry
from earnorm.backends.sqlalchemy import boundary, mapping, snapshot
from earnorm.bus import EventBus, default_bus
from earnorm.handler import Handler
from earnorm.names import Trie
from earnorm.orm import attach, connected, references, tables
from earnorm.orm.model import BaseModel
from earnorm.registry import Registry

__all__ = ["isolated"]


@contextmanager
def isolated() -> Iterator[None]:
    """A clean slate: models, handlers, listeners and databases made inside are forgotten at the end.

    What was defined before stays usable inside. No database is connected inside; those connected before are again
    afterwards, those connected inside are closed, without waiting for what is due. Not for use in a coroutine.
    """
    with ExitStack() as stack:
        stack.enter_context(_bus(default_bus))
        stack.enter_context(_models())
        stack.enter_context(_listeners())
        stack.enter_context(_databases())
        yield


# --- handlers --------------------------------------------------------------------------------


@contextmanager
def _bus(bus: EventBus) -> Iterator[None]:
    registry, captures, door = bus.registry, bus.watch._captures, bus._door
    kept = {name: getattr(registry, name) for name in _COPIED}
    heard = {handler: list(handler.events) for handler in registry.all()}
    for name, value in kept.items():
        setattr(registry, name, _copied(value))
    registry._patterns, patterns = _patterns_of(registry), registry._patterns
    bus.watch._captures = list(captures)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(registry, name, value)
        registry._patterns = patterns
        for handler, events in heard.items():
            handler.events[:] = events
        bus.watch._captures = captures
        bus.attach_door(door)
        registry._touch()


_COPIED = ("models", "_classes", "_by_name", "_functions", "_all", "_exact", "_excluded", "_by_class", "_bindings")


def _copied(table: dict[Any, Any]) -> dict[Any, Any]:
    """A copy whose lists and tables are copies as well."""
    return {key: copy(value) if isinstance(value, (list, dict)) else value for key, value in table.items()}


def _patterns_of(registry: Registry) -> Trie[Handler]:
    patterns: Trie[Handler] = Trie()
    for handler in registry._all:
        for event in handler.events:
            if isinstance(event, str) and "*" in event:
                patterns.add(event, handler)
    return patterns


# --- models ----------------------------------------------------------------------------------


@contextmanager
def _models() -> Iterator[None]:
    with ExitStack() as stack:
        tables_by_class: tuple[dict[Any, Any], ...] = (
            mapping._mappings,
            mapping._by_subject,
            snapshot._snapshots,
            declared._by_name,
            attach._attachments,
        )
        for known in tables_by_class:
            stack.enter_context(_restored(known))
        bases = list(tables.KEPT)
        known_tables = set(BaseModel.metadata.tables)
        managers = set(BaseModel.registry._managers)
        referred = {name: list(models) for name, models in references._models.get(BaseModel.metadata, {}).items()}
        waiting = list(references._waiting.get(BaseModel.metadata, ()))
        try:
            yield
        finally:
            tables.KEPT[:] = bases
            _forget_models(managers, known_tables)
            references._models[BaseModel.metadata] = referred
            references._waiting[BaseModel.metadata] = waiting


def _forget_models(managers: set[Any], known_tables: set[str]) -> None:
    """Undo what SQLAlchemy knows of the models defined since, so that their names and tables are free again."""
    for manager in set(BaseModel.registry._managers) - managers:
        if manager.is_mapped:
            _leave_hierarchy(manager.mapper)
        BaseModel.registry._dispose_manager_and_mapper(manager)
        BaseModel.registry._managers.pop(manager, None)
    for name in set(BaseModel.metadata.tables) - known_tables:
        BaseModel.metadata.remove(BaseModel.metadata.tables[name])


def _leave_hierarchy(mapper: Mapper[Any]) -> None:
    known = mapper.polymorphic_map
    for identity in [identity for identity, other in known.items() if other is mapper]:
        del known[identity]


@contextmanager
def _restored(table: dict[Any, Any]) -> Iterator[None]:
    kept = dict(table)
    try:
        yield
    finally:
        table.clear()
        table.update(kept)


# --- listeners and databases -----------------------------------------------------------------


@contextmanager
def _listeners() -> Iterator[None]:
    kept = {kind: list(listeners) for kind, listeners in telemetry._listeners.items()}
    try:
        yield
    finally:
        telemetry._listeners.clear()
        telemetry._listeners.update(kept)
        telemetry._announce_change()


@contextmanager
def _databases() -> Iterator[None]:
    before, logs = dict(connected.BY_NAME), dict(boundary._logs)
    closed = default_bus._closed
    connected.BY_NAME.clear()
    boundary._logs.clear()
    default_bus.forget_plans()
    try:
        yield
    finally:
        default_bus.once.clear()
        for opened in connected.databases():
            opened.close(drain=0)
        connected.BY_NAME.clear()
        connected.BY_NAME.update(before)
        boundary._logs.clear()
        boundary._logs.update(logs)
        default_bus.forget_plans()
        default_bus._closed = closed
