"""Flushing: one listener of ours for each moment of a flush, which does in order what is to be done in it.

One each, since every Session of the process pays for them, whatever it writes; and none before a model is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from logging import DEBUG
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction

from earnorm.backends.sqlalchemy import hooks, kept
from earnorm.backends.sqlalchemy.alone import lone_write
from earnorm.backends.sqlalchemy.attention import LOUD
from earnorm.backends.sqlalchemy.bulk import associations, expressions, rekeyed, taken, unloaded, vanished
from earnorm.backends.sqlalchemy.course import SETTLED, SIMPLE, Done, course_of, is_no_concern
from earnorm.backends.sqlalchemy.first_model import once_over, under_way
from earnorm.backends.sqlalchemy.kept import KEPT
from earnorm.backends.sqlalchemy.latecomers import LOOK, after_others
from earnorm.backends.sqlalchemy.mapping import _mappings as mappings
from earnorm.backends.sqlalchemy.opening import EXPECTED
from earnorm.backends.sqlalchemy.salvage import note
from earnorm.backends.sqlalchemy.scope import _scope
from earnorm.backends.sqlalchemy.spared import spare_deletions
from earnorm.backends.sqlalchemy.written import Written
from earnorm.event import _running
from earnorm.telemetry import remembered, verbose

__all__ = ["listen"]

_lock = threading.Lock()
# Looked up once, and not at each save.
_scope_here, _running_here = _scope.get, _running.get


def listen() -> None:
    """Hear of every Session's flushes from now on, also of Sessions that are there already."""
    # Whoever comes second waits until all is heard, and so do the records of its model.
    with _lock:
        for name, listener in _LISTENERS.items():
            if not event.contains(Session, name, listener):
                _listen_to(name, listener)


def _listen_to(name: str, listener: Callable[..., None]) -> None:
    flush = under_way(name)
    if flush is None:
        event.listen(Session, name, listener)
    elif name == "before_flush":
        after_others(flush[0], partial(_join, *flush))
    else:
        once_over(flush[0], listen)


def _join(session: Session, context: UOWTransaction) -> None:
    """The first model came from a listener of this flush; what that may have added of it is heard as well."""
    listen()
    _look(session, context, {})


def _before_flush(session: Session, context: UOWTransaction, _instances: Any) -> None:  # noqa: C901, PLR0912  see below
    """The short way of a new record alone; all else goes the long one."""
    # In one piece, since a save of SQLAlchemy's calls some five hundred functions once each, so that none of them is in
    # any cache, and what a save pays for here is their number.
    new = session._new
    done: Done = {}
    if len(new) != 1 or session.identity_map._modified or session._deleted or EXPECTED in session.__dict__:
        _at_length(session, context, done)
        return
    (state,) = new
    manager = state.manager
    mapping = mappings.get(manager.class_)
    if mapping is not None:
        course = mapping.bus.courses.get(manager.class_) or course_of(mapping, manager.mapper)
        goes = course.short or (
            course.kept and session.connection_callable is None and mapping.bus.silences.get(mapping.cls) is LOUD
        )
        if not goes or manager.mapper._delete_orphans or (remembered.get(DEBUG) is not False and verbose()):
            _at_length(session, context, done)
            return
        held = state.obj
        record = held()
        if course.short and not course.silent:
            if _scope_here() is not None or _running_here() is not None:
                _at_length(session, context, done)
                return
            flow = course.flow
            written = Written(mapping, state, "created", flow)
            if flow.before:
                done[state] = "created"
                written.call(flow.before, record, session, before=True)
                if len(new) != 1 or state not in new or session.identity_map._modified or session._deleted:
                    _at_length(session, context, done)
                    return
            if flow.heard:
                context.attributes[SIMPLE] = written
        screen = course.screen
        if mapping.validate is not None and (screen is None or not screen(record.__dict__)):
            mapping.validate(record, None)
        if course.kept:
            kept.expect(session, context, state, mapping)
    elif not is_no_concern(manager.mapper):
        _at_length(session, context, done)
        return
    context.attributes[SETTLED] = state
    heard: Any = session.dispatch.before_flush
    if heard.listeners or heard.parent_listeners[-1] is not _before_flush or LOOK in session.__dict__:
        after_others(session, partial(_look_again, session, context, done))
    elif mapping is not None:
        spare_deletions(context, manager.mapper)


def _at_length(session: Session, context: UOWTransaction, done: Done) -> None:
    """Whatever is written, and whoever learns of it; what is `done` has had its pre hooks already."""
    _look(session, context, done)
    heard: Any = session.dispatch.before_flush
    if heard.listeners or heard.parent_listeners[-1] is not _before_flush or LOOK in session.__dict__:
        after_others(session, partial(_look_again, session, context, done))
    elif (state := lone_write(session)) is not None and state.class_ in mappings:
        spare_deletions(context, state.manager.mapper)


def _look(session: Session, context: UOWTransaction, done: Done) -> None:
    hooks.before_flush(session, context, done)
    # Pre hooks may have changed or deleted more.
    _take_down(session, context)


def _look_again(session: Session, context: UOWTransaction, done: Done) -> None:
    """Listeners of others may have changed or deleted more."""
    hooks.look_again(session, context, done)
    _take_down(session, context)


def _take_down(session: Session, context: UOWTransaction) -> None:
    """What nobody could find out after the SQL. Whatever was taken down before stands."""
    if session.identity_map._modified:
        expressions.before_flush(session, context)
        note(session)
        if rekeyed.before_flush(session, context):
            # Who follows a key is to be told, whoever hears of the record itself.
            context.attributes.pop(SETTLED, None)
    if session._deleted:
        vanished.before_flush(session, context)
        unloaded.before_flush(session)
        taken.before_flush(session, context)
        # What the database takes along is to be told, whoever hears of the record itself.
        context.attributes.pop(SETTLED, None)


def _after_flush(session: Session, context: UOWTransaction) -> None:
    settled = context.attributes.get(SETTLED)
    if settled is not None:
        is_alone = len(context.states) == 1 and settled in context.states
        if KEPT not in context.attributes:
            if is_alone:
                return
        elif is_alone and not settled.expired_attributes:
            kept.look(session, context, mappings[settled.manager.class_])
            return
        # Something else is written as well, or instead; or the database has worked out a value.
        del context.attributes[SETTLED]
    # First what the database has worked out is put where the hooks will look.
    expressions.after_flush(session, context)
    hooks.after_flush(session, context)
    taken.after_flush(context)
    associations.after_flush(context)


def _after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    settled = context.attributes.get(SETTLED)
    if settled is not None:
        if KEPT in context.attributes:
            mapping = mappings[settled.manager.class_]
            kept.tell(session, context, settled, mapping, mapping.bus.plans.flow(mapping.cls, "created").name)
            return
        simple: Written | None = context.attributes.get(SIMPLE)
        if simple is not None:
            simple.call(simple.flow.always, simple.record, session, before=False)
        return
    hooks.after_flush_postexec(session, context)
    rekeyed.after_flush_postexec(session, context)
    taken.after_flush_postexec(session, context)
    associations.after_flush_postexec(session, context)


_LISTENERS: dict[str, Callable[..., None]] = {
    "before_flush": _before_flush,
    "after_flush": _after_flush,
    "after_flush_postexec": _after_flush_postexec,
}
