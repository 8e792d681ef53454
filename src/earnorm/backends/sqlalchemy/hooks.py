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

from earnorm.backends.sqlalchemy.attention import listening
from earnorm.backends.sqlalchemy.boundary import ConnectionOutbox
from earnorm.backends.sqlalchemy.bubbling import bubble_in
from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.opening import expect_nothing, outbox_in, require_boundary
from earnorm.backends.sqlalchemy.orphans import is_orphan, may_orphan, orphaned_by
from earnorm.backends.sqlalchemy.scope import Lender, is_nobodys, scope_of, within
from earnorm.backends.sqlalchemy.together import one_by_one
from earnorm.errors import SaveInPreHook, StopPropagation
from earnorm.event import NO_CHANGES, NO_PAYLOAD, Changes, Event, running
from earnorm.flow import Flow
from earnorm.occurrence import CHANGING, Kind, Occurrence

__all__ = [
    "after_flush",
    "after_flush_postexec",
    "attach_session",
    "before_flush",
    "look_again",
    "refuse_save_in_pre_hook",
]

Done = dict[InstanceState[Any], Kind]
"""The records that had the pre hooks of a kind of change."""

# In a flush's `attributes`: what it has written; the one known record that it writes, if there is only one.
_FLUSH = "earnorm_written"
_ALONE = "earnorm_alone"


class _Change(Lender):
    """One record that a flush writes. It can say its event, for a hook that has taken only `self` and then asks."""

    values: dict[str, Any] | None = None
    occurrence: Occurrence | None = None

    def __init__(
        self, mapping: Mapping, state: InstanceState[Any], kind: Kind, flow: Flow, changes: Changes = NO_CHANGES
    ) -> None:
        self.mapping = mapping
        self.state = state
        # Held: a Session lets go of what it has written, and nobody else may have it.
        self.record = state.obj()
        self.kind: Kind = kind
        self.flow = flow
        self.changes = changes

    @property
    def is_kept(self) -> bool:
        """Whether more than hooks in the transaction that take only `self` will learn of it."""
        return not self.flow.simple_after or self.mapping.bus.attentive

    @property
    def event(self) -> Event:
        if self.occurrence is None:
            self.occurrence = _occurrence(self, NO_PAYLOAD)
            # It is asked for inside its own hook, which is not what caused it.
            self.occurrence.link = None
        return self.occurrence.event


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


def before_flush(session: Session, context: UOWTransaction) -> Done:
    """Run pre hooks, and check what is to be written; returns what had its hooks, for `look_again`."""
    expect_nothing(session)
    done: Done = {}
    _run_first(session, context, done)
    return done


def look_again(session: Session, context: UOWTransaction, done: Done) -> None:
    """What listeners of others have added, changed or deleted is treated as if it had been there before."""
    context.attributes.pop(_ALONE, None)
    for change in _pending(session):
        if change.flow.before and done.get(change.state) != change.kind:
            _run_before(session, change)
    for change in _pending(session):
        _validate(change)
        if change.is_kept:
            require_boundary(session, context, change.state, change.mapping)


def _run_first(session: Session, context: UOWTransaction, done: Done) -> None:
    only = _only(session)
    if only is not None:
        mapping = listening(session, only.class_)
        if mapping is None and not may_orphan(only):
            return
        alone = None if mapping is None else _alone(session, only, mapping)
        if alone is not None:
            done[only] = alone.kind
            if _run_before_simply(session, alone):
                _validate(alone)
                context.attributes[_ALONE] = alone
                return
    pending = _pending(session)
    if any(change.flow.before for change in pending):
        pending = _run_all_before(session, pending, done)
    for change in pending:
        _validate(change)
        if change.is_kept:
            require_boundary(session, context, change.state, change.mapping)
    if len(pending) == 1:
        context.attributes[_ALONE] = pending[0]


def _validate(change: _Change) -> None:
    validate = change.mapping.validate
    if validate is not None and change.kind != "deleted":
        validate(change.record, None if change.kind == "created" else change.changes.keys())


def _only(session: Session) -> InstanceState[Any] | None:
    """The record this flush writes, if it is one alone."""
    new, changed, gone = session._new, session.identity_map._modified, session._deleted
    if len(new) + len(changed) + len(gone) != 1:
        return None
    found: InstanceState[Any]
    (found,) = new or changed or gone
    return found


def _alone(session: Session, state: InstanceState[Any], mapping: Mapping) -> _Change | None:
    """The one record this flush writes, if hooks in the transaction that take only `self` are all that learns of it."""
    kind: Kind = "created" if session._new else "deleted" if session._deleted else "updated"
    flow = _flow(mapping, kind)
    if not flow.simple or mapping.bus.attentive or not (flow.silent or is_nobodys()):
        return None
    if may_orphan(state):
        return None
    if kind != "updated":
        return _Change(mapping, state, kind, flow)
    if mapping.info.trash is not None:
        return None  # what kind of change it is depends on what it changes
    if not flow.silent:
        mapping.recall(session, state)
    return _Change(mapping, state, kind, flow, mapping.changes(state))


def _run_before_simply(session: Session, change: _Change) -> bool:
    """Pre hooks that take only `self`; False if they have added, changed or deleted other records."""
    hooks = change.flow.before
    if not hooks or (change.kind == "updated" and not change.changes):
        return True
    size = _size(session)
    change.open(session, before=True)
    try:
        change.mapping.bus.caller.call_simply(hooks, change.record, change)
    finally:
        change.close()
    if change.kind == "updated":
        change.changes = change.mapping.changes(change.state)
    return _size(session) == size


def _run_all_before(session: Session, pending: list[_Change], done: Done) -> list[_Change]:
    """Pre hooks of all, and of the records that they add, change or delete; returns what is to be written then."""
    while fresh := [change for change in pending if change.flow.before and done.get(change.state) != change.kind]:
        size = _size(session)
        for change in fresh:
            done[change.state] = change.kind
            _run_before(session, change)
        if _size(session) != size or any(change.changes for change in pending):
            pending = _pending(session)
        else:
            break
    return pending


def _size(session: Session) -> tuple[int, int, int]:
    return len(session._new), len(session.identity_map._modified), len(session._deleted)


def _pending(session: Session) -> list[_Change]:
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
            found.append(_Change(mapping, state, kind, _flow(mapping, kind), changes))
    found += [c for state in gone if (c := _changed(session, state, "deleted")) is not None]
    return sorted(found, key=_place) if len(found) > 1 else found


def _changed(session: Session, state: InstanceState[Any], kind: Kind) -> _Change | None:
    mapping = listening(session, state.class_)
    return None if mapping is None else _Change(mapping, state, kind, _flow(mapping, kind))


def _flow(mapping: Mapping, kind: Kind) -> Flow:
    return mapping.bus.plans.flow(mapping.cls, kind)


# By which door a change of this kind comes, if not by `save`.
_DOORS: dict[Kind, str] = {"deleted": "delete", "trashed": "trash", "restored": "restore"}


def _run_before(session: Session, change: _Change) -> None:
    mapping, state, scope = change.mapping, change.state, scope_of(session)
    occurrence = _occurrence(change, mapping.values(state))
    attach_session(occurrence, session)
    door = _DOORS.get(change.kind, "save")
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
    alone: _Change | None = context.attributes.get(_ALONE)
    if alone is not None and len(context.states) == 1 and _is_as_announced(alone, context):
        if (found := _written(alone)) is not None:
            context.attributes[_FLUSH] = (found,)
        return
    written: list[_Change] = []
    for state, (deleted, listed_only) in context.states.items():
        if not listed_only:
            change = _changed(session, state, "deleted" if deleted else "created" if state.key is None else "updated")
            if change is not None and _written(change) is not None:
                written.append(change)
    if written:
        context.attributes[_FLUSH] = sorted(written, key=_place) if len(written) > 1 else written


def _is_as_announced(change: _Change, context: UOWTransaction) -> bool:
    """Whether the flush did to the record what it set out to: an orphan is deleted or let go of instead."""
    return bool(context.states.get(change.state) == (change.kind == "deleted", False))


def _written(change: _Change) -> _Change | None:
    """The change with its values, if it is one and anybody hears of it."""
    mapping = change.mapping
    if mapping.info.trash is not None and change.kind in CHANGING:
        change.kind = mapping.info.kind_of(mapping.changes(change.state))
        change.flow = _flow(mapping, change.kind)
    kept = change.is_kept
    if not change.flow.heard and not kept:
        return None
    if change.kind in CHANGING:
        change.changes = mapping.changes(change.state)
        if not change.changes:
            return None
    if kept:
        change.values = mapping.values(change.state)
    return change


_RANK: dict[Kind, int] = {"created": 0, "updated": 1, "trashed": 1, "restored": 1, "deleted": 2, "event": 3}


def _place(change: _Change) -> tuple[int, int, str, str]:
    """New records in the order they were added, then updates and deletions by record: the same on every run."""
    if change.kind == "created":
        return 0, change.state.insert_order or 0, "", ""
    return _RANK[change.kind], 0, change.mapping.info.subject, str(change.mapping.identity(change.state))


def after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    """Run post hooks, with the session as it will be: what they change is kept, and they may save."""
    written: Sequence[_Change] = context.attributes.get(_FLUSH, ())
    if not written:
        return
    # The flush is done but for a flag; without lowering it a hook could not save.
    flushing, session._flushing = session._flushing, False
    try:
        if len(written) == 1 and written[0].values is None and is_nobodys():
            _dispatch_simply(session, written[0])
        else:
            alone = one_by_one(session, context, written)
            _dispatch(session, [found for c in alone if (found := _happened(session, context, c)) is not None])
    finally:
        session._flushing = flushing


def _dispatch_simply(session: Session, change: _Change) -> None:
    """One record whose hooks in the transaction take only `self`: nothing to keep for a log or for after the commit."""
    mapping = change.mapping
    hooks = change.flow.always or mapping.bus.plans.now(mapping.cls, change.kind, change.changes)
    if not hooks:
        return
    change.open(session, before=False)
    try:
        mapping.bus.caller.call_simply(hooks, change.record, change)
    finally:
        lent = change.close()
    if lent is not None:
        with within(lent):
            lent.dispatcher.resume()


_Happened = tuple[_Change, Occurrence, ConnectionOutbox | None]


def _happened(session: Session, context: UOWTransaction, change: _Change) -> _Happened | None:
    mapping, bus = change.mapping, change.mapping.bus
    occurrence = _occurrence(change, NO_PAYLOAD if change.values is None else change.values)
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


def _occurrence(change: _Change, values: Any) -> Occurrence:
    mapping, state = change.mapping, change.state
    return Occurrence(
        change.flow.name,
        change.record,
        values,
        kind=change.kind,
        changes=change.changes,
        info=mapping.info,
        identity=mapping.identity(state),
    )


def _dispatch(session: Session, happened: Sequence[_Happened]) -> None:
    if not any(occurrence.handlers or occurrence.bubble for _, occurrence, _ in happened):
        return
    scope = scope_of(session)
    with within(scope):
        for change, occurrence, outbox in happened:
            scope.dispatcher.enqueue(change.mapping.bus.caller, occurrence, outbox)
        scope.dispatcher.run()
