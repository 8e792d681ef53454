"""Hooks: a Session's flush, turned into pre hooks before the SQL, and changes and post hooks after it.

Listeners hang on every Session; one that flushes no known model costs a loop over its objects and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.boundary import ConnectionOutbox, outbox_of
from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of
from earnorm.backends.sqlalchemy.scope import within
from earnorm.binding import Moment
from earnorm.dispatch import Kind, Occurrence, new_event
from earnorm.errors import SaveInPreHook, StopPropagation
from earnorm.event import NO_CHANGES, Changes
from earnorm.handler import Phase
from earnorm.portal import await_here, can_await

__all__ = ["refuse_save_in_pre_hook", "session_moment"]

_FLUSH = "earnorm_flush"


@dataclass(slots=True)
class _Change:
    """One record that a flush writes."""

    mapping: Mapping
    state: InstanceState[Any]
    kind: Kind
    values: dict[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=lambda: NO_CHANGES)


@dataclass(frozen=True, slots=True)
class _Running:
    hook: str
    record: object


_pre_hook: ContextVar[_Running | None] = ContextVar("earnorm_pre_hook", default=None)


def refuse_save_in_pre_hook(record: object) -> None:
    """Raises SaveInPreHook if a pre hook of this very record is running here."""
    now = _pre_hook.get()
    if now is not None and now.record is record:
        raise SaveInPreHook(now.hook, repr(record))


def session_moment(session: Session, *, created: bool = False, declared: Any = None) -> Moment:
    return Moment(session, created, declared, lambda: async_session(session) or session)


# --- before the SQL --------------------------------------------------------------------------


@event.listens_for(Session, "before_flush")
def _before_flush(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    done: dict[InstanceState[Any], Kind] = {}
    # A pre hook may add, change or delete other records, whose own pre hooks then run as well.
    while fresh := [change for change in _pending(session) if done.get(change.state) != change.kind]:
        for change in fresh:
            done[change.state] = change.kind
            _run_before(session, change)
    if done:
        for change in _pending(session):
            _validate(change)


def _pending(session: Session) -> Iterable[_Change]:
    """Known records that this flush would write, in the order new, changed, deleted."""
    for record in session.new:
        if (mapping := mapping_of(type(record))) is not None:
            yield _Change(mapping, instance_state(record), "created")
    for record in session.dirty:
        if (mapping := mapping_of(type(record))) is not None:
            state = instance_state(record)
            mapping.recall(session, state)
            if mapping.changes(state):
                yield _Change(mapping, state, "updated")
    for record in session.deleted:
        if (mapping := mapping_of(type(record))) is not None:
            yield _Change(mapping, instance_state(record), "deleted")


def _run_before(session: Session, change: _Change) -> None:
    mapping, state = change.mapping, change.state
    hooks = mapping.bus.plans.before(mapping.cls, change.kind)
    if not hooks:
        return
    changes = mapping.changes(state) if change.kind == "updated" else NO_CHANGES
    occurrence = _occurrence(session, change, mapping.values(state), changes)
    wait = await_here if can_await() else None
    with within(session):
        for hook in hooks:
            token = _pre_hook.set(_Running(hook.name, state.obj()))
            try:
                mapping.bus.caller.call(hook, occurrence, wait, "delete" if change.kind == "deleted" else "save")
            except StopPropagation:
                return
            finally:
                _pre_hook.reset(token)


def _validate(change: _Change) -> None:
    validate = change.mapping.validate
    if validate is None or change.kind == "deleted":
        return
    names = None if change.kind == "created" else change.mapping.changes(change.state).keys()
    validate(change.state.obj(), names)


# --- after the SQL ---------------------------------------------------------------------------


@event.listens_for(Session, "after_flush")
def _after_flush(session: Session, context: UOWTransaction) -> None:
    """Take down what was written while SQLAlchemy still knows the old values."""
    written = [change for change in map(_written, context.states.items()) if change is not None]
    if written:
        session.info[_FLUSH] = sorted(written, key=_place)


def _written(item: tuple[InstanceState[Any], tuple[bool, bool]]) -> _Change | None:
    state, (deleted, listed_only) = item
    mapping = mapping_of(state.class_)
    if mapping is None or listed_only:
        return None
    if deleted:
        return _Change(mapping, state, "deleted", mapping.values(state))
    if state.key is None:
        return _Change(mapping, state, "created", mapping.values(state))
    changes = mapping.changes(state)
    return _Change(mapping, state, "updated", mapping.values(state), changes) if changes else None


_RANK: dict[Kind, int] = {"created": 0, "updated": 1, "deleted": 2, "event": 3}


def _place(change: _Change) -> tuple[int, int, str, str]:
    """New records in the order they were added, then updates and deletions by record: the same on every run."""
    if change.kind == "created":
        return 0, change.state.insert_order or 0, "", ""
    return _RANK[change.kind], 0, change.mapping.info.subject, str(change.mapping.identity(change.state))


@event.listens_for(Session, "after_flush_postexec")
def _after_flush_postexec(session: Session, _context: UOWTransaction) -> None:
    """Run post hooks, with the session as it will be: what they change is kept, and they may save."""
    written: list[_Change] = session.info.pop(_FLUSH, [])
    outboxes: dict[ConnectionOutbox, list[Occurrence]] = {}
    for change in written:
        if not _heard(change):
            continue
        outbox = _outbox(session, change)
        occurrence = _occurrence(session, change, change.values, change.changes)
        if change.mapping.bus.silenced(occurrence.event):
            continue
        occurrence.handlers = _in_transaction(change, occurrence)
        outbox.record(occurrence)
        outboxes.setdefault(outbox, []).append(occurrence)
    for outbox, occurrences in outboxes.items():
        if any(occurrence.handlers for occurrence in occurrences):
            _dispatch(session, outbox, occurrences)


def _heard(change: _Change) -> bool:
    """Whether anybody would ever learn of it: a log, a handler, somebody who watches."""
    bus = change.mapping.bus
    if bus.connected or bus.observed:
        return True
    plans, cls, kind = bus.plans, change.mapping.cls, change.kind
    later = (Phase.AFTER_COMMIT, Phase.ROLLBACK)
    return bool(plans.after(cls, kind, change.changes) or any(plans.hooks(cls, kind, phase) for phase in later))


def _outbox(session: Session, change: _Change) -> ConnectionOutbox:
    connection = session.connection(bind_arguments={"mapper": change.state.mapper})
    outbox = outbox_of(connection, change.mapping.bus, f"a save of {change.mapping.info.name}")
    outbox.sessions.add(session)
    return outbox


def _occurrence(session: Session, change: _Change, values: dict[str, Any], changes: Changes) -> Occurrence:
    mapping, state = change.mapping, change.state
    identity = mapping.identity(state)
    known = change.kind != "created" or state.key is not None
    event_ = new_event(
        f"{mapping.info.subject}.{change.kind}",
        state.obj(),
        values,
        changes=changes,
        key=mapping.key(identity) if known else "",
    )
    return Occurrence(
        event_, change.kind, mapping.info, identity, session_moment(session, created=change.kind == "created")
    )


def _in_transaction(change: _Change, occurrence: Occurrence) -> list[Any]:
    heard = change.mapping.bus.plans.after(change.mapping.cls, change.kind, occurrence.event.changes)
    return [handler for handler in heard if handler.phase is Phase.TRANSACTION]


def _dispatch(session: Session, outbox: ConnectionOutbox, occurrences: list[Occurrence]) -> None:
    # The flush is done but for a flag; without lowering it a hook could not save.
    flushing, session._flushing = session._flushing, False
    try:
        with within(session):
            outbox.dispatch(occurrences)
    finally:
        session._flushing = flushing
