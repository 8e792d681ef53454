"""Alone: a flush that writes one record, as most do. Fewer questions are asked of it than of many."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.orphans import may_orphan
from earnorm.backends.sqlalchemy.scope import is_nobodys
from earnorm.backends.sqlalchemy.written import Written, flow_of
from earnorm.occurrence import CHANGING, Kind

__all__ = ["as_announced", "dispatch_simply", "is_simple", "lone", "lone_write", "only", "run_simply", "size"]


def only(session: Session) -> InstanceState[Any] | None:
    """The record this flush writes, if it is one alone and no orphan comes of it."""
    new, changed, gone = session._new, session.identity_map._modified, session._deleted
    if len(new) + len(changed) + len(gone) != 1:
        return None
    found: InstanceState[Any]
    (found,) = new or changed or gone
    return None if may_orphan(found) else found


def lone_write(session: Session) -> InstanceState[Any] | None:
    """The record this flush inserts or updates, if it is one alone and nothing is deleted."""
    new, changed = session._new, session.identity_map._modified
    if session._deleted or len(new) + len(changed) != 1:
        return None
    return next(iter(new or changed))


# What `size` says of a flush of one record.
_ONE: dict[Kind, tuple[int, int, int]] = {"created": (1, 0, 0), "updated": (0, 1, 0), "deleted": (0, 0, 1)}


def size(session: Session) -> tuple[int, int, int]:
    """How many records a flush would write: new, changed, deleted."""
    return len(session._new), len(session.identity_map._modified), len(session._deleted)


def lone(session: Session, state: InstanceState[Any], mapping: Mapping) -> Written | None:
    """What this flush writes of the one record, which is not new; None if it is what it was."""
    kind: Kind = "deleted" if session._deleted else "updated"
    flow = flow_of(mapping, kind)
    if kind != "updated":
        return Written(mapping, state, kind, flow)
    info = mapping.info
    if not flow.silent or info.trash is not None or mapping.bus.attentive:
        mapping.recall(session, state)
    changes = mapping.changes(state)
    if not changes:
        return None
    if info.trash is not None:
        kind = info.kind_of(changes)
        flow = flow_of(mapping, kind)
    return Written(mapping, state, kind, flow, changes)


def is_simple(written: Written) -> bool:
    """Whether hooks in the transaction that take only `self` are all that learns of it."""
    mapping, flow = written.mapping, written.flow
    if mapping.info.trash is not None and written.kind in CHANGING:
        return False  # what kind of change it is depends on what its hooks change
    return flow.simple and not mapping.bus.attentive and (flow.silent or is_nobodys())


def run_simply(session: Session, written: Written) -> bool:
    """Pre hooks that take only `self`; False if they have added, changed or deleted other records."""
    hooks = written.flow.before
    if not hooks:
        return True
    written.call(hooks, written.record, session, before=True)
    if written.kind == "updated":
        written.changes = written.mapping.changes(written.state)
    return size(session) == _ONE[written.kind]


def as_announced(written: Written, context: UOWTransaction) -> bool:
    """Whether the flush did to the record what it set out to, and to no other: an orphan is deleted or let go of."""
    states = context.states
    return len(states) == 1 and states.get(written.state) == (written.kind == "deleted", False)


def dispatch_simply(session: Session, written: Written) -> None:
    """One record whose hooks in the transaction take only `self`: nothing to keep for a log or for after the commit."""
    mapping = written.mapping
    hooks = written.flow.always or mapping.bus.plans.now(mapping.cls, written.kind, written.changes)
    if hooks:
        written.call(hooks, written.record, session, before=False)
