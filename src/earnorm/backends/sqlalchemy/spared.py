"""Spared: what SQLAlchemy does for deletions in every flush, in one that has none.

For each hierarchy that a flush writes, SQLAlchemy plans one action that saves and one that deletes, and executes
both: the second looks for a connection, sorts and groups, to find that there is nothing to delete. That is some thirty
of the functions that saving one record calls. Where nothing can turn up to be deleted, that action is in the plan from
the start, disabled, as SQLAlchemy itself disables those that it has no use for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Mapper, UOWTransaction
from sqlalchemy.orm.unitofwork import _DeleteAll

__all__ = ["spare_deletions"]

# On a mapper, once asked.
_SPARED = "earnorm_spared"


@dataclass(frozen=True, slots=True)
class _Spared:
    """The action of a mapper that is not to be executed, while its relationships are these; none where they matter."""

    relationships: Any
    plan: dict[Any, Any]


def spare_deletions(context: UOWTransaction, mapper: Mapper[Any]) -> None:
    """Of a flush that writes one record of this mapper and deletes none, when no listener is left to change that."""
    known: _Spared | None = vars(mapper).get(_SPARED)
    # Another one if a relationship has been added since, such as the other side of one that a later model declares.
    if known is None or known.relationships is not mapper.relationships:
        known = vars(mapper)[_SPARED] = _spared(mapper)
    # A record of a relationship may be deleted with this one, or instead of it.
    if known.plan and not mapper._dependency_processors and not mapper._delete_orphans:
        plan = context.postsort_actions
        # Whatever a listener has planned already is to be executed.
        if not plan:
            plan.update(known.plan)


def _spared(mapper: Mapper[Any]) -> _Spared:
    if mapper.relationships or mapper.inherits is not None:
        return _Spared(mapper.relationships, {})
    action: Any = object.__new__(_DeleteAll)
    # The rest it is given by each flush that plans it, always the same.
    action.disabled = True
    return _Spared(mapper.relationships, {(_DeleteAll, mapper): action})
