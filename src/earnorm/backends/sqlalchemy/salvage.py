"""Salvage: what a rollback leaves of the records in a transaction of ours: their values, as changes not yet saved.

SQLAlchemy expires them. Its Session would read them again, but ours ends with the transaction, so that they could not
be read, mended and saved again, and what else had been changed in them would be lost without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState
from sqlalchemy.orm.state import InstanceState

from earnorm.errors import TransactionFailed

__all__ = ["note", "require_sound", "reread", "salvage"]


@dataclass(slots=True)
class _Image:
    """A record as the database held it when the transaction began, and what has been changed in it since."""

    loaded: dict[str, Any]
    changed: set[str] = field(default_factory=set[str])


_Images = WeakKeyDictionary[InstanceState[Any], _Image]

# On a Session whose records are salvaged: their images, from the first flush on that changes any.
_IMAGES = "_earnorm_images"


def salvage(session: Session) -> None:
    """Let go of its records at the rollback of its transaction, as they are."""
    vars(session)[_IMAGES] = None
    _listen()


@cache
def _listen() -> None:
    """Once: every save of ours asks for it, and SQLAlchemy takes its time to say whether it listens already."""
    event.listen(Session, "after_rollback", _after_rollback)


def require_sound(session: Session, what: str) -> None:
    """Raises TransactionFailed if a flush has failed and rolled back: SQLAlchemy would speak of a Session."""
    transaction = session._transaction
    if transaction is not None and transaction._state is SessionTransactionState.DEACTIVE:
        raise TransactionFailed(what, transaction._rollback_exception)


def note(session: Session) -> None:
    """A flush is about to write what has been modified: afterwards nobody would know the old values."""
    if _IMAGES not in vars(session):
        return
    images: _Images | None = vars(session)[_IMAGES]
    if images is None:
        images = vars(session)[_IMAGES] = WeakKeyDictionary()
    for state in session.identity_map._modified:
        image = images.get(state)
        if image is None:
            image = images[state] = _Image({**state.dict, **state.committed_state})
        for name, loaded in state.committed_state.items():
            image.changed.add(name)
            # Of an attribute that was not loaded before, this is the first that is known.
            image.loaded.setdefault(name, loaded)


def reread(session: Session) -> None:
    """Read again what the rollback of a savepoint has expired: a coroutine could not do so by looking at it."""
    expired = [state for state in session.identity_map.all_states() if state.expired]
    with session.no_autoflush:
        for state in expired:
            if state.key is not None:
                session.get(state.class_, state.key[1], populate_existing=True)


def _after_rollback(session: Session) -> None:
    """Before SQLAlchemy expires what is left in the Session, which is in the middle of its rollback."""
    if _IMAGES not in vars(session):
        return
    transaction = _rolled_back(session)
    if transaction.nested:
        # The transaction goes on, and so do its records: as the database has them now.
        return
    images: _Images = vars(session)[_IMAGES] or WeakKeyDictionary()
    for state in list(transaction._deleted):
        if state not in transaction._new:
            del transaction._deleted[state]
            state._deleted = False
            _let_go(session, transaction, state, images)
    for state in session.identity_map.all_states():
        # A record of which a flush has written more than was changed in it, such as a key of its whole, is read anew.
        if state not in transaction._new and (state in images or state not in transaction._dirty):
            _let_go(session, transaction, state, images)


def _rolled_back(session: Session) -> SessionTransaction:
    """The transaction that a rollback has reached; what it began in may have been a flush's part of it."""
    found = cast("SessionTransaction", session._transaction)
    while found.parent is not None and not found.nested:
        found = found.parent
    return found


def _let_go(session: Session, transaction: SessionTransaction, state: InstanceState[Any], images: _Images) -> None:
    if state in transaction._key_switches:
        before, _ = transaction._key_switches.pop(state)
        session.identity_map.safe_discard(state)
        state.key = before
    session._expunge_states([state])
    if (image := images.get(state)) is not None:
        _undo(state, image)


def _undo(state: InstanceState[Any], image: _Image) -> None:
    """What was changed is a change again; what the database or SQLAlchemy has set, such as a version, is taken back."""
    changed = {*image.changed, *state.committed_state}
    for name, loaded in image.loaded.items():
        if name not in changed:
            state.dict[name] = loaded
            state.expired_attributes.discard(name)
        elif name in state.dict:
            state.committed_state[name] = loaded
    state.modified = bool(state.committed_state)
