"""Orphans: records that a flush deletes without having been told to, since their parent has let go of them.

SQLAlchemy finds them while it flushes (`cascade="all, delete-orphan"`); their pre hooks have to run before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy.orm import Mapper, RelationshipDirection, RelationshipProperty
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE, PASSIVE_OFF
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.relations import LETTING_GO, letting_go

__all__ = ["is_orphan", "may_orphan", "orphaned_by"]


def is_orphan(state: InstanceState[Any]) -> bool:
    """Whether a flush deletes this record (or drops it, if it is new) rather than write it."""
    mapper: Mapper[Any] = state.mapper
    if not mapper._delete_orphans and mapper.inherits is None:
        return False
    return bool(mapper._is_orphan(state)) and (state.key is not None or state._orphaned_outside_of_session)


def may_orphan(state: InstanceState[Any]) -> bool:
    """Whether a flush of this record may delete it or another one as an orphan."""
    mapper: Mapper[Any] = state.manager.mapper
    if not mapper._delete_orphans and mapper.inherits is None and not vars(mapper).get(LETTING_GO, True):
        return False
    return is_orphan(state) or bool(_changed_relations(state))


def orphaned_by(states: Iterable[InstanceState[Any]], *, deep: bool) -> Iterator[InstanceState[Any]]:
    """Records that the flush deletes since these have let go of them; with `deep`, what that takes along too."""
    for state in states:
        for relation in _changed_relations(state):
            for child in _let_go(state, relation):
                yield child
                if deep:
                    yield from (found[2] for found in relation.mapper.cascade_iterator("delete", child) if found[2].key)


def _changed_relations(state: InstanceState[Any]) -> list[RelationshipProperty[Any]]:
    known = letting_go(state.mapper)
    return [known[name] for name in state.committed_state if name in known] if known else []


def _let_go(state: InstanceState[Any], relation: RelationshipProperty[Any]) -> Iterator[InstanceState[Any]]:
    """As the flush sees it: what the attribute held and no other parent has taken."""
    impl = state.manager[relation.key].impl
    loads = relation.direction is RelationshipDirection.MANYTOONE and not relation.passive_deletes
    history = impl.get_history(state, state.dict, PASSIVE_OFF if loads else PASSIVE_NO_INITIALIZE)
    for record in history.deleted or ():
        child: InstanceState[Any] | None = record and record._sa_instance_state
        if child is not None and child.key is not None and not impl.hasparent(child):
            yield child
