"""The boundary: which events belong to which transaction of which Connection, and what its real end does with them.

The Connection is the boundary, not the Session: a Session may be joined to an outer transaction, span two
connections or be none at all. Rows are appended in the `commit` event, the last point before COMMIT; handlers are
released once COMMIT has returned, which only the dialect's own `do_commit` tells.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction

from earnorm.bus import EventBus
from earnorm.composition import compose
from earnorm.dispatch import Outbox
from earnorm.errors import AutocommitRefused, NotConnected
from earnorm.handler import Handler, Phase
from earnorm.occurrence import Occurrence
from earnorm.telemetry import HandlerFailed, tell

__all__ = ["Log", "connect_engine", "disconnect_engine", "is_connected", "log_of", "outbox_of"]


class Log(Protocol):
    """The database an engine belongs to: where its events are kept."""

    name: str
    bus: EventBus

    def append(self, connection: Connection, occurrences: Sequence[Occurrence]) -> None:
        """Write the events into the log, in the transaction of `connection`."""
        ...

    def appended(self, occurrences: Sequence[Occurrence]) -> None:
        """They are committed: wake whoever waits for them."""
        ...

    def refresh(self, occurrence: Occurrence) -> Occurrence | None:
        """The occurrence with its subject loaded anew, for a handler after the commit; None if the row is gone."""
        ...


class ConnectionOutbox(Outbox):
    """An outbox whose end is the end of a Connection's transaction."""

    def __init__(self, bus: EventBus, log: Log | None, connection: Connection) -> None:
        super().__init__()
        self.bus = bus
        self.log = log
        self.connection = weakref.ref(connection)
        self.committing = 0
        self.sessions: WeakSet[Session] = WeakSet()
        self.composed: list[Occurrence] | None = None

    def append(self, connection: Connection) -> None:
        self.composed = compose(self.occurrences)
        if self.log is not None and self.composed:
            self.log.append(connection, self.composed)

    def release(self) -> None:
        """The transaction is committed: run what runs after it, in this process."""
        composed = self.composed or []
        if self.log is not None:
            self.log.appended(composed)
        for occurrence in composed:
            if occurrence.info is not None and occurrence.kind != "event":
                self._run(occurrence, self.bus.plans.hooks(occurrence.info.cls, occurrence.kind, Phase.AFTER_COMMIT))
                heard = self.bus.plans.after(occurrence.info.cls, occurrence.kind, occurrence.changes)
                occurrence.later = [handler for handler in heard if handler.phase in _LATER]
            self._run_later(occurrence)

    def _run_later(self, occurrence: Occurrence) -> None:
        if self.log is None:
            self.bus.run_after(occurrence)
            return
        later = [handler for handler in occurrence.later if handler.phase is Phase.AFTER_COMMIT]
        fresh = self._loaded(self.log, occurrence, later) if later else None
        if fresh is not None:
            self._run(fresh, later)

    def _loaded(self, log: Log, occurrence: Occurrence, later: Sequence[Handler]) -> Occurrence | None:
        try:
            return log.refresh(occurrence)
        except Exception as error:  # noqa: BLE001  # the write is committed; its caller has nothing to mend
            for handler in later:
                tell(HandlerFailed(occurrence.event, handler.name, error))
            return None

    def give_up(self) -> None:
        """The transaction is rolled back."""
        for occurrence in self.rollback():
            if occurrence.info is not None and occurrence.kind != "event":
                self._run(occurrence, self.bus.plans.hooks(occurrence.info.cls, occurrence.kind, Phase.ROLLBACK))

    def _run(self, occurrence: Occurrence, handlers: Sequence[Handler]) -> None:
        occurrence.later = handlers
        self.bus.run_after(occurrence)


_LATER = (Phase.AFTER_COMMIT, Phase.DURABLE)

_outboxes: WeakKeyDictionary[Connection, ConnectionOutbox] = WeakKeyDictionary()
_logs: WeakKeyDictionary[Engine, Log] = WeakKeyDictionary()
_watched: WeakSet[Engine] = WeakSet()
_dialects: WeakSet[Any] = WeakSet()
_lock = threading.Lock()
# What a pooled connection's COMMIT, once it has returned, releases; by id, since the dialect sees only that connection.
_committing: dict[int, ConnectionOutbox] = {}

_COMMITTING = "earnorm_committing"
_READY = "earnorm_ready"


# --- which log -------------------------------------------------------------------------------


def connect_engine(engine: Engine, log: Log) -> None:
    """From now on, what commits on `engine` (and engines of the same URL) is kept in `log`."""
    _logs[engine] = log
    watch(engine)


def disconnect_engine(engine: Engine) -> None:
    _logs.pop(engine, None)


def is_connected() -> bool:
    return bool(_logs)


def log_of(engine: Engine) -> Log | None:
    """The log of an engine: its own, or that of a connected engine on the same database."""
    found = _logs.get(engine)
    if found is None and _logs:
        found = next((log for other, log in list(_logs.items()) if _same_database(engine, other)), None)
    return found


def _same_database(first: Engine, second: Engine) -> bool:
    one, two = first.url, second.url
    if one.get_backend_name() != two.get_backend_name() or not one.database:
        return False
    if one.get_backend_name() == "sqlite" and one.database == ":memory:":
        return False
    return (one.host, one.port, one.database) == (two.host, two.port, two.database)


# --- which outbox ----------------------------------------------------------------------------


def outbox_of(connection: Connection, bus: EventBus, what: str) -> ConnectionOutbox:
    """The outbox of the transaction open on `connection`. Raises AutocommitRefused, NotConnected."""
    outbox = _outboxes.get(connection)
    if outbox is None:
        if connection._is_autocommit_isolation():
            raise AutocommitRefused(what)
        log = log_of(connection.engine)
        if log is None and bus.connected:
            where = connection.engine.url.render_as_string()
            raise NotConnected(f"{what} on {where}")
        watch(connection.engine)
        outbox = _outboxes[connection] = ConnectionOutbox(bus, log, connection)
    return outbox


def watch(engine: Engine) -> None:
    """Hear what happens to transactions of `engine`, from now on."""
    if engine in _watched:
        return
    with _lock:
        if engine in _watched:
            return
        for name, listener in _LISTENERS.items():
            event.listen(engine, name, listener)
        _wrap(engine.dialect)
        _watched.add(engine)


def _release_savepoint(connection: Connection, name: str, _context: None) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.release_savepoint(name)


def _rollback_savepoint(connection: Connection, name: str, _context: None) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.rollback_to(name)


def _commit(connection: Connection) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.append(connection)
        outbox.committing = id(connection.connection)
        _committing[outbox.committing] = outbox


def _rollback(connection: Connection) -> None:
    if (outbox := _outboxes.pop(connection, None)) is not None:
        _committing.pop(outbox.committing, None)
        outbox.give_up()


def _prepare_twophase(connection: Connection, _xid: Any) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.append(connection)


def _commit_twophase(connection: Connection, _xid: Any, _is_prepared: bool) -> None:  # noqa: FBT001  # SQLAlchemy calls it so
    if (outbox := _outboxes.get(connection)) is not None and outbox.composed is None:
        outbox.append(connection)


def _rollback_twophase(connection: Connection, _xid: Any, _is_prepared: bool) -> None:  # noqa: FBT001  # SQLAlchemy calls it so
    if (outbox := _outboxes.pop(connection, None)) is not None:
        outbox.give_up()


_LISTENERS: dict[str, Callable[..., None]] = {
    "release_savepoint": _release_savepoint,
    "rollback_savepoint": _rollback_savepoint,
    "commit": _commit,
    "rollback": _rollback,
    "prepare_twophase": _prepare_twophase,
    "commit_twophase": _commit_twophase,
    "rollback_twophase": _rollback_twophase,
}


# --- after the commit ------------------------------------------------------------------------


def _wrap(dialect: Any) -> None:
    """What no event of SQLAlchemy tells: that COMMIT has returned, and what a savepoint was named."""
    if dialect in _dialects:
        return
    _dialects.add(dialect)
    do_commit, do_commit_twophase, do_savepoint = dialect.do_commit, dialect.do_commit_twophase, dialect.do_savepoint

    def commit(connection: Any) -> None:
        do_commit(connection)
        if (outbox := _committing.pop(id(connection), None)) is not None:
            if (owner := outbox.connection()) is not None:
                _outboxes.pop(owner, None)
            _release(outbox)

    def commit_twophase(connection: Connection, *args: Any, **options: Any) -> None:
        do_commit_twophase(connection, *args, **options)
        if (outbox := _outboxes.pop(connection, None)) is not None:
            _release(outbox)

    def savepoint(connection: Connection, name: str) -> None:
        do_savepoint(connection, name)
        if (outbox := _outboxes.get(connection)) is not None:
            outbox.savepoint(name)

    dialect.do_commit, dialect.do_commit_twophase, dialect.do_savepoint = commit, commit_twophase, savepoint


def _release(outbox: ConnectionOutbox) -> None:
    """Now, or if a Session is in the middle of its commit, once it is usable again."""
    for session in outbox.sessions:
        if session.info.get(_COMMITTING):
            session.info.setdefault(_READY, []).append(outbox)
            return
    outbox.release()


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info[_COMMITTING] = True


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is not None or _COMMITTING not in session.info:
        return
    del session.info[_COMMITTING]
    for outbox in session.info.pop(_READY, ()):
        outbox.release()
