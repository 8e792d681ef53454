"""The scope: the transaction that sync doors called here belong to."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.dispatch import HOOK_BUDGET, Dispatcher, tell_done, tell_failed
from earnorm.errors import EventLoopError, StopPropagation, TransactionNotYours
from earnorm.event import Running, _running
from earnorm.handler import Handler
from earnorm.portal import owner

if TYPE_CHECKING:
    from earnorm.backends.sqlalchemy.standing import Standing

__all__ = [
    "Lender",
    "Scope",
    "current_scope",
    "enter_scope",
    "is_nobodys",
    "is_open_here",
    "leave_scope",
    "outside",
    "scope_of",
    "within",
]


# Looked up once: each save with hooks calls them twice.
_set_running, _reset_running = _running.set, _running.reset


class Scope:
    """An open transaction: its session, whose it is, and what runs its handlers. Outside `with` it is closed.

    `standing` is where its last event went.
    """

    __slots__ = ("_dispatcher", "closed", "database", "owner", "session", "standing")

    def __init__(self, session: Session, database: Any = None) -> None:
        self.session = session
        self.database = database
        self.owner = owner()
        self.closed = False
        self.standing: Standing | None = None
        self._dispatcher: Dispatcher | None = None

    @property
    def dispatcher(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher()
        return self._dispatcher

    def require_owner(self) -> None:
        """Raises TransactionNotYours in any task or thread but the one that opened it."""
        here = owner()
        if here != self.owner:
            raise TransactionNotYours(_named(self.owner), _named(here))


class Lender(Running):
    """A handler that runs here with no scope around it: the scope is made only if it opens a door, as most do not.

    One lender serves the hooks of a change in turn; `handler` names the one that runs.
    """

    # Set one by one by whoever makes one, without a call to here: every save with a hook makes one.
    __slots__ = ("_lent", "_thread", "session")

    session: Session | None
    _lent: Scope | None
    _thread: int

    def call(self, hooks: Iterable[Handler], subject: Any, session: Session, *, before: bool) -> None:
        """Call plain hooks that take only their subject, where no cause, condition or listener is about.

        After the SQL they may save, though the flush is not over, and what they emit runs once all are done.
        """
        # One function, though it does several things: every save pays for it, twice.
        self.session, self.before = session, before
        flushing, session._flushing = session._flushing, before
        token = _set_running(self)
        started = perf_counter()
        try:
            for handler in hooks:
                self.handler, function = handler.name, handler.function
                try:
                    function(subject)  # type: ignore[call-arg]  # a model's own hook is a plain function
                except (StopPropagation, EventLoopError):
                    raise
                except Exception as error:
                    tell_failed(error, handler, self)
                    raise
                ended = perf_counter()
                if ended - started > HOOK_BUDGET:
                    tell_done(self.event, handler, ended - started)
                started = ended
        except StopPropagation:
            pass
        finally:
            _reset_running(token)
            session._flushing, self.session = flushing, None
            if self._lent is not None:
                self._lent.closed = True
        if self._lent is not None:
            self._resume(session, before=before)

    def _resume(self, session: Session, *, before: bool) -> None:
        """Run what has been emitted, with the scope that was lent: one of the hooks has asked for it."""
        lent, self._lent = self._lent, None
        if lent is not None and not before:
            with flagged(session, flushing=False), within(lent):
                lent.dispatcher.resume()

    def lend(self) -> Scope | None:
        if self.session is None:
            return None
        if self._thread != get_ident():
            raise TransactionNotYours(_named((self._thread, 0)), _named(owner()))
        if self._lent is None:
            self._lent = Scope(self.session)
            if not self.before:
                self._lent.dispatcher.hold()
        self._lent.closed = False
        return self._lent

    def noted(self) -> Running:
        return Running(self, self.handler, self.before)


def _named(who: tuple[int, int]) -> str:
    thread = next((t.name for t in threading.enumerate() if t.ident == who[0]), str(who[0]))
    return f"a task of thread {thread!r} ({who[1]:#x})" if who[1] else f"thread {thread!r}"


_scope: ContextVar[Scope | None] = ContextVar("earnorm_scope", default=None)


def _open_here() -> Scope | None:
    scope = _scope.get()
    if scope is None and isinstance(lender := _running.get(), Lender):
        scope = lender.lend()
    return None if scope is None or scope.closed else scope


def is_nobodys() -> bool:
    """Whether no transaction is open here and no handler runs."""
    return _scope.get() is None and _running.get() is None


def current_scope() -> Scope | None:
    """The open transaction here, if any. Raises TransactionNotYours if it is somebody else's."""
    if _scope.get() is None and _running.get() is None:
        return None
    found = _open_here()
    if found is not None:
        found.require_owner()
    return found


def is_open_here(database: Any) -> bool:
    """Whether a transaction is open here that is this database's, or may be."""
    scope = current_scope()
    return scope is not None and scope.database in (None, database)


def enter_scope(scope: Scope) -> Scope | None:
    """Make `scope` the current one; returns the one to go back to."""
    previous = _scope.get()
    _scope.set(scope)
    return previous


def leave_scope(scope: Scope, previous: Scope | None) -> None:
    """Close the scope and go back to `previous`; nothing happens if that is the scope itself."""
    if previous is not scope:
        scope.closed = True
        _scope.set(previous)


def scope_of(session: Session) -> Scope:
    """The scope for hooks of this session: the current one if it is the session's, else a new one."""
    found = _open_here()
    if found is not None and found.session is session:
        return found
    # Not kept on the session: the circle would leave every Session to the garbage collector.
    return Scope(session)


@contextmanager
def outside(sessions: Collection[Session]) -> Iterator[None]:
    """What runs inside belongs to no transaction of these sessions: theirs has ended, though its block goes on."""
    found = _scope.get()
    if found is None or found.session not in sessions:
        yield
        return
    _scope.set(None)
    try:
        yield
    finally:
        _scope.set(found)


class within:  # noqa: N801  # reads as a word of `with`; a generator's context manager costs three times as much
    """What runs inside belongs to this transaction, whoever opened it."""

    __slots__ = ("_previous", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._previous = _scope.get()
        if self._previous is not self._scope:
            self._scope.closed = False
            _scope.set(self._scope)

    def __exit__(self, *_: object) -> None:
        if self._previous is not self._scope:
            leave_scope(self._scope, self._previous)


def _begin_anew() -> None:
    """In a fork: the transaction open here is the parent's, on the parent's connection."""
    _scope.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
