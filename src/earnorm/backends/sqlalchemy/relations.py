"""Relations that a flush has to be asked about, worked out once for a mapper and kept on it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapper, RelationshipDirection, RelationshipProperty

__all__ = ["LETTING_GO", "associations_of", "letting_go"]

# On a mapper, once asked.
LETTING_GO = "earnorm_letting_go"
_ASSOCIATIONS = "earnorm_many_to_many"


def letting_go(mapper: Mapper[Any]) -> dict[str, RelationshipProperty[Any]]:
    """The relationships whose records are deleted when they are let go of."""
    found: dict[str, RelationshipProperty[Any]] | None = vars(mapper).get(LETTING_GO)
    if found is None:
        relations = mapper.relationships
        found = vars(mapper)[LETTING_GO] = {r.key: r for r in relations if r.cascade.delete_orphan}
    return found


def associations_of(mapper: Mapper[Any]) -> tuple[RelationshipProperty[Any], ...]:
    """The many-to-many relationships that a class may write."""
    found: tuple[RelationshipProperty[Any], ...] | None = vars(mapper).get(_ASSOCIATIONS)
    if found is None:
        many = RelationshipDirection.MANYTOMANY
        relations = mapper.relationships
        found = vars(mapper)[_ASSOCIATIONS] = tuple(r for r in relations if r.direction is many and not r.viewonly)
    return found
