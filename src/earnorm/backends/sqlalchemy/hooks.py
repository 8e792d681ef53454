"""Hooks: a Session's flush, turned into pre hooks before the SQL, and changes and post hooks after it.

Listeners hang on every Session. One that flushes no known model costs a loop over its objects and nothing else; a
model nobody listens to costs its validation; a hook that takes only `self` costs its call and little more. Some of
SQLAlchemy's private names are read here, since their public forms copy collections on every flush.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.alone import (
    as_announced,
    dispatch_simply,
    is_simple,
    lone,
    only,
    run_simply,
    size,
)
from earnorm.backends.sqlalchemy.attention import listening
from earnorm.backends.sqlalchemy.bubbling import bubble_in
from earnorm.backends.sqlalchemy.course import SETTLED, SIMPLE, VANISHED, Done
from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of, root_of
from earnorm.backends.sqlalchemy.opening import EXPECTED, expect_nothing, outbox_in, require_boundary
from earnorm.backends.sqlalchemy.orphans import is_orphan, orphaned_by
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox
from earnorm.backends.sqlalchemy.relations import associations_of
from earnorm.backends.sqlalchemy.scope import is_nobodys, scope_of, within
from earnorm.backends.sqlalchemy.together import one_by_one
from earnorm.backends.sqlalchemy.written import Written, flow_of, occurrence_of, place_of
from earnorm.dispatch import door_of
from earnorm.errors import SaveInPreHook, StopPropagation
from earnorm.event import NO_PAYLOAD, running
from earnorm.occurrence import CHANGING, Kind, Occurrence

__all__ = [
    "after_flush",
    "after_flush_postexec",
    "attach_session",
    "before_flush",
    "look_again",
    "refuse_save_in_pre_hook",
]

# In a flush's `attributes`: what it has written; the one known record that it writes, if there is only one.
_FLUSH = "earnorm_written"
_ALONE = "earnorm_alone"


def refuse_save_in_pre_hook(record: object) -> None:
    """Raises SaveInPreHook if a pre hook of this very record is running here."""
    now = running()
    if now is not None and now.before and now.event.subject is record:
        raise SaveInPreHook(now.handler, repr(record))


def attach_session(occurrence: Occurrence, session: Session) -> None:
    """Let the occurrence's handlers have the transaction's session; an async one the AsyncSession around it."""
    occurrence.session = session
    occurrence.async_session = lambda: async_session(session) or session


# --- before the SQL --------------------------------------------------------------------------


def before_flush(session: Session, context: UOWTransaction, done: Done) -> None:
    """Run pre hooks, and check what is to be written; `done` is what had its hooks, for `look_again`."""
    if EXPECTED in session.__dict__:
        expect_nothing(session)
    state = only(session)
    if state is None:
        _run_many(session, context, _pending(session), done)
    elif (mapping := listening(session, state.class_)) is not None:
        _run_alone(session, context, mapping, state, done)
    elif mapping_of(state.class_) is None or not associations_of(state.manager.mapper):
        context.attributes[SETTLED] = state


def look_again(session: Session, context: UOWTransaction, done: Done) -> None:
    """What listeners of others have added, changed or deleted is treated as if it had been there before."""
    context.attributes.pop(_ALONE, None)
    context.attributes.pop(SETTLED, None)
    context.attributes.pop(SIMPLE, None)
    for change in _pending(session):
        if change.flow.before and done.get(change.state) != change.kind:
            _run_before(session, change)
    for change in _pending(session):
        _validate(change)
        if change.is_kept:
            require_boundary(session, context, change.state, change.mapping)


def _run_alone(
    session: Session, context: UOWTransaction, mapping: Mapping, state: InstanceState[Any], done: Done
) -> None:
    if session._new:
        flow = mapping.bus.plans.flow(mapping.cls, "created")
        if flow.silent and not mapping.bus.attentive:
            _pass_over(context, mapping, state)
            return
        found: Written | None = Written(mapping, state, "created", flow)
    else:
        found = lone(session, state, mapping)
    if found is None:
        return
    if not is_simple(found):
        _run_many(session, context, [found], done)
        return
    done[state] = found.kind
    if not run_simply(session, found):
        _run_many(session, context, _pending(session), done)
        return
    _validate(found)
    if associations_of(state.manager.mapper) or (found.kind != "created" and found.flow.heard):
        context.attributes[_ALONE] = found
        return
    context.attributes[SETTLED] = state
    if found.flow.heard:
        context.attributes[SIMPLE] = found


def _pass_over(context: UOWTransaction, mapping: Mapping, state: InstanceState[Any]) -> None:
    """A new record that nobody hears of is checked, and no more."""
    if mapping.validate is not None:
        mapping.validate(state.obj(), None)
    if not associations_of(state.manager.mapper):
        context.attributes[SETTLED] = state


def _run_many(session: Session, context: UOWTransaction, pending: list[Written], done: Done) -> None:
    if any(change.flow.before for change in pending):
        pending = _run_all_before(session, pending, done)
    for change in pending:
        _validate(change)
        if change.is_kept:
            require_boundary(session, context, change.state, change.mapping)
    if len(pending) == 1:
        context.attributes[_ALONE] = pending[0]


def _validate(change: Written) -> None:
    validate = change.mapping.validate
    if validate is not None and change.kind != "deleted":
        validate(change.record, None if change.kind == "created" else change.changes.keys())


def _run_all_before(session: Session, pending: list[Written], done: Done) -> list[Written]:
    """Pre hooks of all, and of the records that they add, change or delete; returns what is to be written then."""
    while fresh := [change for change in pending if change.flow.before and done.get(change.state) != change.kind]:
        before = size(session)
        for change in fresh:
            done[change.state] = change.kind
            _run_before(session, change)
        if size(session) != before or any(change.changes for change in pending):
            pending = _pending(session)
        else:
            break
    return pending


def _pending(session: Session) -> list[Written]:
    """Known records that this flush would write, in the order new, changed, deleted."""
    new = [state for state in session._new if not is_orphan(state)]
    gone = dict.fromkeys(session._deleted)
    found = [c for state in new if (c := _changed(session, state, "created")) is not None]
    modified = list(session.identity_map._modified)
    gone.update(dict.fromkeys(orphaned_by([s for s in modified if s not in gone], deep=True)))
    # What a deleted record has let go of, SQLAlchemy deletes alone.
    gone.update(dict.fromkeys(orphaned_by(session._deleted, deep=False)))
    for state in modified:
        if (mapping := listening(session, state.class_)) is None or state in gone:
            continue
        if is_orphan(state):
            gone[state] = None
            continue
        mapping.recall(session, state)
        if changes := mapping.changes(state):
            kind = mapping.info.kind_of(changes)
            found.append(Written(mapping, state, kind, flow_of(mapping, kind), changes))
    found += [c for state in gone if (c := _changed(session, state, "deleted")) is not None]
    return sorted(found, key=place_of) if len(found) > 1 else found


def _changed(session: Session, state: InstanceState[Any], kind: Kind) -> Written | None:
    mapping = listening(session, state.class_)
    return None if mapping is None else Written(mapping, state, kind, flow_of(mapping, kind))


def _run_before(session: Session, change: Written) -> None:
    mapping, state, scope = change.mapping, change.state, scope_of(session)
    occurrence = occurrence_of(change, mapping.values(state))
    attach_session(occurrence, session)
    door = door_of(change.kind)
    with within(scope):
        for hook in change.flow.before:
            try:
                mapping.bus.caller.call(hook, occurrence, scope.dispatcher.wait, door)
            except StopPropagation:
                return
            if occurrence.stopped:
                return


# --- after the SQL ---------------------------------------------------------------------------


def after_flush(session: Session, context: UOWTransaction) -> None:
    """Take down what was written while SQLAlchemy still knows the old values."""
    expect_nothing(session)
    context.attributes.pop(SIMPLE, None)
    alone: Written | None = context.attributes.get(_ALONE)
    if alone is not None and as_announced(alone, context):
        if not _has_vanished(alone.state, context) and (found := _written(alone)) is not None:
            context.attributes[_FLUSH] = (found,)
        return
    written: list[Written] = []
    replaced: list[Written] = []
    for state, (deleted, listed_only) in context.states.items():
        if (kind := _kind_of(state, context, deleted=deleted, listed_only=listed_only)) is not None:
            change = _changed(session, state, kind)
            if change is not None and _written(change) is not None:
                (replaced if listed_only else written).append(change)
    if written:
        written = sorted(written, key=place_of) if len(written) > 1 else written
        # Before the new ones, so that both together are a change.
        context.attributes[_FLUSH] = [*sorted(replaced, key=place_of), *written] if replaced else written


def _kind_of(state: InstanceState[Any], context: UOWTransaction, *, deleted: bool, listed_only: bool) -> Kind | None:
    """What the flush has done to a record; None if it has only looked at it."""
    if listed_only:
        # To be deleted, and not: its row has become that of a new record with the same key.
        return "deleted" if deleted else None
    if deleted:
        return None if _has_vanished(state, context) else "deleted"
    return "created" if state.key is None else "updated"


def _has_vanished(state: InstanceState[Any], context: UOWTransaction) -> bool:
    """Whether somebody else had deleted it, and told of it, before this flush did."""
    known: dict[Any, bool] = context.attributes.get(VANISHED, {})
    return bool(known) and state.key is not None and known.get((root_of(state.mapper), state.key[1]), False)


def _written(change: Written) -> Written | None:
    """The change with its values, if it is one and anybody hears of it."""
    mapping = change.mapping
    if mapping.info.trash is not None and change.kind in CHANGING:
        change.kind = mapping.info.kind_of(mapping.changes(change.state))
        change.flow = flow_of(mapping, change.kind)
    kept = change.is_kept
    if not change.flow.heard and not kept:
        return None
    if change.kind in CHANGING:
        change.changes = mapping.changes(change.state)
        if not change.changes:
            return None
    if kept:
        change.values = mapping.made(change.state) if change.kind == "created" else mapping.values(change.state)
    return change


def after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    """Run post hooks, with the session as it will be: what they change is kept, and they may save."""
    written: Sequence[Written] = context.attributes.get(_FLUSH, ())
    if not written:
        return
    if len(written) == 1 and written[0].values is None and is_nobodys():
        dispatch_simply(session, written[0])
        return
    with flagged(session, flushing=False):
        alone = one_by_one(session, context, written)
        _dispatch(session, [found for c in alone if (found := _happened(session, context, c)) is not None])


_Happened = tuple[Written, Occurrence, ConnectionOutbox | None]


def _happened(session: Session, context: UOWTransaction, change: Written) -> _Happened | None:
    mapping, bus = change.mapping, change.mapping.bus
    occurrence = occurrence_of(change, NO_PAYLOAD if change.values is None else change.values)
    attach_session(occurrence, session)
    if bus.observed and bus.watch.silences(occurrence):
        outbox_in(session, context, change.state, mapping).muted.add(occurrence.key)
        return None
    occurrence.handlers = bus.plans.now(mapping.cls, change.kind, change.changes)
    if mapping.info.bubbles_to is not None:
        occurrence.bubble = bubble_in(session, mapping)
    if change.values is None:
        return change, occurrence, None
    outbox = outbox_in(session, context, change.state, mapping)
    outbox.record(occurrence)
    return change, occurrence, outbox


def _dispatch(session: Session, happened: Sequence[_Happened]) -> None:
    if not any(occurrence.handlers or occurrence.bubble for _, occurrence, _ in happened):
        return
    scope = scope_of(session)
    with within(scope):
        for change, occurrence, outbox in happened:
            scope.dispatcher.enqueue(change.mapping.bus.caller, occurrence, outbox)
        scope.dispatcher.run()
