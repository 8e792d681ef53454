"""The scope: the transaction that sync doors called here belong to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from earnorm.errors import TransactionNotYours
from earnorm.portal import owner

__all__ = ["Scope", "current_scope", "enter_scope", "leave_scope", "within"]


@dataclass(slots=True, eq=False)
class Scope:
    """An open transaction: its session, whose it is, and the record whose pre hook runs right now."""

    session: Session
    database: Any = None
    owner: tuple[int, int] = field(default_factory=owner)
    closed: bool = False

    def require_owner(self) -> None:
        """Raises TransactionNotYours in any task or thread but the one that opened it."""
        here = owner()
        if here != self.owner:
            raise TransactionNotYours(_named(self.owner), _named(here))


def _named(who: tuple[int, int]) -> str:
    thread = next((t.name for t in threading.enumerate() if t.ident == who[0]), str(who[0]))
    return f"a task of thread {thread!r} ({who[1]:#x})" if who[1] else f"thread {thread!r}"


_scope: ContextVar[Scope | None] = ContextVar("earnorm_scope", default=None)


def current_scope() -> Scope | None:
    """The open transaction here, if any. Raises TransactionNotYours if it is somebody else's."""
    found = _scope.get()
    if found is None or found.closed:
        return None
    found.require_owner()
    return found


def enter_scope(scope: Scope) -> Scope | None:
    """Make `scope` the current one; returns the one to go back to."""
    previous = _scope.get()
    _scope.set(scope)
    return previous


def leave_scope(scope: Scope, previous: Scope | None) -> None:
    scope.closed = True
    _scope.set(previous)


@contextmanager
def within(session: Session) -> Iterator[None]:
    """Hooks of a flush of `session` run inside its transaction, whoever opened it."""
    found = _scope.get()
    if found is not None and not found.closed and found.session is session:
        yield
        return
    scope = Scope(session)
    previous = enter_scope(scope)
    try:
        yield
    finally:
        leave_scope(scope, previous)
