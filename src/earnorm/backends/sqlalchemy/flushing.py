"""Flushing: one listener of ours for each moment of a flush, which does in order what is to be done in it.

One each, since every Session of the process pays for them, whatever it writes; and none before a model is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction

from earnorm.backends.sqlalchemy import hooks
from earnorm.backends.sqlalchemy.bulk import associations, cascades, expressions
from earnorm.backends.sqlalchemy.course import SETTLED, SIMPLE, Done, go_short
from earnorm.backends.sqlalchemy.latecomers import after_others
from earnorm.backends.sqlalchemy.written import Written

__all__ = ["listen"]

_lock = threading.Lock()


def listen() -> None:
    """Hear of every Session's flushes from now on, also of Sessions that are there already."""
    # Whoever comes second waits until all is heard, and so do the records of its model.
    with _lock:
        for name, listener in _LISTENERS.items():
            if not event.contains(Session, name, listener):
                event.listen(Session, name, listener)


def _before_flush(session: Session, context: UOWTransaction, _instances: Any) -> None:
    done: Done = {}
    if not go_short(session, context, done):
        _go_on(session, context, done)
    heard: Any = session.dispatch.before_flush
    if heard.listeners or heard.parent_listeners[-1] is not _before_flush:
        after_others(session, partial(hooks.look_again, session, context, done))


def _go_on(session: Session, context: UOWTransaction, done: Done) -> None:
    hooks.before_flush(session, context, done)
    # Pre hooks may have changed or deleted more.
    if session.identity_map._modified:
        expressions.before_flush(session, context)
    if session._deleted:
        cascades.before_flush(session, context)
        # What the database takes along is to be told, whoever hears of the record itself.
        context.attributes.pop(SETTLED, None)


def _after_flush(session: Session, context: UOWTransaction) -> None:
    settled = context.attributes.get(SETTLED)
    if settled is not None:
        if len(context.states) == 1 and settled in context.states:
            return
        # Something else is written as well, or instead.
        del context.attributes[SETTLED]
    # First what the database has worked out is put where the hooks will look.
    expressions.after_flush(session, context)
    hooks.after_flush(session, context)
    associations.after_flush(context)


def _after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    if SETTLED in context.attributes:
        simple: Written | None = context.attributes.get(SIMPLE)
        if simple is not None:
            simple.call(simple.flow.always, simple.record, session, before=False)
        return
    hooks.after_flush_postexec(session, context)
    cascades.after_flush_postexec(session, context)
    associations.after_flush_postexec(session, context)


_LISTENERS: dict[str, Callable[..., None]] = {
    "before_flush": _before_flush,
    "after_flush": _after_flush,
    "after_flush_postexec": _after_flush_postexec,
}
