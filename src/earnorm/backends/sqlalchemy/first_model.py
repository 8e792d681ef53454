"""The first model of a program may be imported by a listener of its own, in the middle of a flush.

SQLAlchemy allows nothing to be added to a list of listeners that it is going through. Ours are added once it has gone
through; the flush that has not begun its SQL by then is heard all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from sqlalchemy import event
from sqlalchemy.event import attr
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction

__all__ = ["once_over", "under_way"]

# Where SQLAlchemy goes through listeners; None of a class written in C.
_CODES = {attr._EmptyListener.__call__.__code__, attr._CompoundListener.__call__.__code__}


def under_way(name: str) -> tuple[Session, UOWTransaction] | None:
    """The flush whose listeners of this event are being called, one of which is running here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _CODES and frame.f_locals["self"].name == name:
            session, context = frame.f_locals["args"][:2]
            return session, context
        frame = frame.f_back
    return None


def once_over(session: Session, listen: Callable[[], None]) -> None:
    """Call `listen` when this flush is over."""

    def ended(_session: Session, _transaction: SessionTransaction) -> None:
        listen()

    event.listen(session, "after_transaction_end", ended, once=True)
