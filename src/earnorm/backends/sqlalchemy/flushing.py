"""Flushing: one listener of ours for each moment of a flush, which does in order what is to be done in it.

One each, since every Session of the process pays for them, whatever it writes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction

from earnorm.backends.sqlalchemy import hooks
from earnorm.backends.sqlalchemy.bulk import associations, cascades, expressions
from earnorm.backends.sqlalchemy.latecomers import after_others, is_last

__all__ = ["listen"]


def listen() -> None:
    """Hear of every Session's flushes from now on."""
    event.listen(Session, "before_flush", _before_flush)
    event.listen(Session, "after_flush", _after_flush)
    event.listen(Session, "after_flush_postexec", _after_flush_postexec)


def _before_flush(session: Session, context: UOWTransaction, _instances: Any) -> None:
    done = hooks.before_flush(session, context)
    # Pre hooks may have changed or deleted more.
    if session.identity_map._modified:
        expressions.before_flush(session, context)
    if session._deleted:
        cascades.before_flush(session, context)
        # What the database takes along is to be told, whoever hears of the record itself.
        context.attributes.pop(hooks.SETTLED, None)
    if not is_last(session, _before_flush):
        after_others(session, lambda: hooks.look_again(session, context, done))


def _after_flush(session: Session, context: UOWTransaction) -> None:
    settled = context.attributes.get(hooks.SETTLED)
    if settled is not None:
        if len(context.states) == 1 and settled in context.states:
            return
        # Something else is written as well, or instead.
        del context.attributes[hooks.SETTLED]
    # First what the database has worked out is put where the hooks will look.
    expressions.after_flush(session, context)
    hooks.after_flush(session, context)
    associations.after_flush(context)


def _after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    hooks.after_flush_postexec(session, context)
    if hooks.SETTLED in context.attributes:
        return
    cascades.after_flush_postexec(session, context)
    associations.after_flush_postexec(session, context)
