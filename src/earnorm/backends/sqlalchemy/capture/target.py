"""A target: a model's table, with the columns of it that triggers write down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Column, Table, inspect
from sqlalchemy.orm import Mapper

from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of, mappings, root_of
from earnorm.bus import EventBus
from earnorm.errors import NotCapturable

__all__ = ["Target", "model_named", "target_of", "targets"]


@dataclass(frozen=True)
class Target:
    """`key`, `kept` and `hidden` are names of columns; of hidden ones only that they changed is written down."""

    subject: str
    table: Table
    mapper: Mapper[Any]
    key: tuple[str, ...]
    kept: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.table.fullname

    @property
    def specification(self) -> str:
        """What the triggers were made from, as text: if it is another now, they are stale."""
        parts = {"subject": self.subject, "key": self.key, "kept": self.kept, "hidden": self.hidden}
        return json.dumps(parts, ensure_ascii=True)

    @cached_property
    def columns(self) -> dict[str, Column[Any]]:
        return {column.name: column for column in self.table.columns}

    def mapping_for(self, values: dict[str, Any]) -> Mapping | None:
        """The mapping of a row's own class: in a hierarchy its discriminator says which."""
        mapper = self.mapper
        if mapper.polymorphic_on is not None:
            named = values.get(getattr(mapper.polymorphic_on, "name", ""))
            mapper = mapper.polymorphic_map.get(named, mapper)
        return mapping_of(mapper.class_)


def targets(bus: EventBus) -> dict[str, Target]:
    """Every table of the bus's models that could be captured, by its subject."""
    found: dict[str, Target] = {}
    for mapping in mappings():
        mapper: Mapper[Any] = inspect(mapping.cls)
        if mapping.bus is bus and root_of(mapper) is mapper and _refusal(mapper) is None:
            found[mapping.info.subject] = _target(mapping, mapper)
    return found


def target_of(bus: EventBus, model: type | str) -> Target:
    """Of a class, or of the name of a class, subject or table. Raises NotCapturable."""
    mapping = mapping_of(model) if isinstance(model, type) else model_named(bus, model)
    if mapping is None or mapping.bus is not bus:
        known = sorted(target.name for target in targets(bus).values())
        raise NotCapturable(model, f"it is no model known here; known tables: {', '.join(known) or 'none'}")
    mapper: Mapper[Any] = inspect(mapping.cls)
    base = root_of(mapper)
    refusal = _refusal(base)
    if refusal is not None:
        raise NotCapturable(model, refusal)
    root = mapping_of(base.class_)
    if root is None:
        raise NotCapturable(model, f"attach {base.class_.__name__}, whose table it shares")
    return _target(root, base)


def model_named(bus: EventBus, name: str) -> Mapping | None:
    """The model by the name of its table, of its subject or of its class, the first that fits."""
    ours = [mapping for mapping in mappings() if mapping.bus is bus]
    for names in (_table_of, lambda found: found.info.subject, lambda found: found.cls.__name__):
        matching = [mapping for mapping in ours if names(mapping) == name]
        if matching:
            return matching[0]
    return None


def _table_of(mapping: Mapping) -> str:
    mapper: Mapper[Any] = inspect(mapping.cls)
    table = mapper.local_table
    return table.fullname if isinstance(table, Table) else ""


def _refusal(mapper: Mapper[Any]) -> str | None:
    table = mapper.local_table
    if not isinstance(table, Table):
        return "it is mapped to a query, which has no triggers; capture the tables that the query reads"
    if not table.primary_key.columns:
        return f"table {table.fullname} has no primary key, by which an event names its record"
    if any(member.local_table is not table and not member.concrete for member in mapper.self_and_descendants):
        return "its hierarchy has several tables, and no single row holds a whole record"
    return None


def _target(root: Mapping, base: Mapper[Any]) -> Target:
    table = base.local_table
    assert isinstance(table, Table)
    stored: dict[str, bool] = {}
    for mapping in _members(base):
        mapper: Mapper[Any] = inspect(mapping.cls)
        for name in mapping.columns:
            column = mapper.columns[name]
            if column.table is table:
                stored[column.name] = stored.get(column.name, False) or name in mapping.info.sensitive
    if isinstance(base.polymorphic_on, Column):
        stored.setdefault(base.polymorphic_on.name, False)
    return Target(
        root.info.subject,
        table,
        base,
        tuple(column.name for column in base.primary_key),
        tuple(name for name, secret in stored.items() if not secret),
        tuple(name for name, secret in stored.items() if secret),
    )


def _members(base: Mapper[Any]) -> Iterator[Mapping]:
    for mapper in base.self_and_descendants:
        found = mapping_of(mapper.class_)
        if found is not None and mapper.local_table is base.local_table:
            yield found
