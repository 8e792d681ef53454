"""Classes: a bulk write that would make a row the record of another class of its hierarchy.

One record would go and another come, under another name and with other fields, and no hook could be handed the one that
is gone: it is refused. A Session's flush warns of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.orm import Mapper

from earnorm.backends.sqlalchemy.bulk.given import attribute_of
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.errors import BulkRefused

__all__ = ["discriminator_of", "require_class", "require_classes"]


def discriminator_of(mapper: Mapper[Any]) -> str | None:
    """The attribute that says which class a row is of."""
    return None if mapper.polymorphic_on is None else attribute_of(mapper.polymorphic_on, mapper)


def require_class(model: Model, what: str, mapper: Mapper[Any], sets: Iterable[str]) -> None:
    """Raises BulkRefused if the discriminator is among what is set to whatever rows."""
    if (name := discriminator_of(mapper)) is not None and name in sets:
        raise BulkRefused(model.info.name, what, _WHY.format(f"sets {name!r}"))


def require_classes(
    model: Model, what: str, mapper: Mapper[Any], before: Mapping[Key, Row], given: Iterable[Mapping[str, Any]]
) -> None:
    """Raises BulkRefused if one of these rows is given the discriminator of another class than it has."""
    name = discriminator_of(mapper)
    if name is None:
        return
    for values in given:
        row = before.get(tuple(values.get(key) for key in model.primary_key))
        if row is None or name not in values:
            continue
        meant = mapper.polymorphic_map.get(values[name])
        if meant is None or meant.class_ is not row.mapping.cls:
            key = ", ".join(map(str, row.key))
            raise BulkRefused(model.info.name, what, _WHY.format(f"sets {name!r} of {row.mapping.info.name} {key}"))


_WHY = (
    "it {}, which makes records of another class of its rows; write the table, which tells nothing "
    "(update(Model.__table__)), and emit what it means"
)
