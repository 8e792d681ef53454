"""The boundary: which events belong to which transaction of which Connection, and what its real end does with them.

The Connection is the boundary, not the Session: a Session may be joined to an outer transaction, span two
connections or be none at all. Rows are appended in the `commit` event, the last point before COMMIT; handlers are
released once COMMIT has returned, which only the dialect's own `do_commit` tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState

from earnorm.backends.sqlalchemy.log import Log
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox
from earnorm.bus import EventBus
from earnorm.errors import AutocommitRefused, BindNotConnected

__all__ = ["connect_engine", "disconnect_engine", "is_outbox_of", "log_of", "logs_of", "outbox_of", "seal"]


class _Outboxes:
    """Each on its own Connection: its events hold a Session, which holds that; in a table they would stay for ever."""

    _NAME = "_earnorm_outbox"

    def get(self, connection: Connection) -> ConnectionOutbox | None:
        found: ConnectionOutbox | None = vars(connection).get(self._NAME)
        return found

    def __setitem__(self, connection: Connection, outbox: ConnectionOutbox) -> None:
        vars(connection)[self._NAME] = outbox

    def pop(self, connection: Connection, default: None) -> ConnectionOutbox | None:
        found: ConnectionOutbox | None = vars(connection).pop(self._NAME, default)
        return found


_outboxes = _Outboxes()
_logs: WeakKeyDictionary[Engine, Log] = WeakKeyDictionary()
_urls: WeakKeyDictionary[Engine, URL] = WeakKeyDictionary()
_watched: WeakSet[Engine] = WeakSet()
_dialects: WeakSet[Any] = WeakSet()
_lock = threading.Lock()
_CLOSED = "earnorm_closed_log"
# What a driver's COMMIT or ROLLBACK releases; by id, since the dialect sees only that connection.
_committing: dict[int, ConnectionOutbox] = {}
_rolling_back: dict[int, ConnectionOutbox] = {}

_commits = 0
# What waits for the end of a Session's own commit, by the Session's id.
_ready: dict[int, list[ConnectionOutbox]] = {}


# --- which log -------------------------------------------------------------------------------


def connect_engine(engine: Engine, log: Log, url: URL | None = None) -> None:
    """From now on, what commits on `engine` (and engines of the same URL) is kept in `log`.

    `url` is where it leads if its own does not say it all: asyncpg is told of a search_path beside the URL.
    """
    _logs[_root(engine)] = log
    _urls[_root(engine)] = url or engine.url
    watch(engine)


def disconnect_engine(engine: Engine) -> None:
    """From now on the engine has no database; what is still under way on it is kept in its log all the same."""
    engine = _root(engine)
    log = _logs.pop(engine, None)
    if log is not None:
        # On the engine itself: a table of ours would keep both alive for ever.
        vars(engine)[_CLOSED] = log


def log_of(engine: Engine) -> Log | None:
    """The log of an engine: its own, or that of a connected engine on the same database."""
    engine = _root(engine)
    found = _logs.get(engine)
    if found is None:
        found = next((log for other, log in list(_logs.items()) if _same_database(engine, other)), None)
    return vars(engine).get(_CLOSED) if found is None else found


def logs_of(bus: EventBus) -> list[Log]:
    """The connected logs of a bus."""
    return [log for log in dict.fromkeys(_logs.values()) if log.bus is bus]


def _root(engine: Engine) -> Engine:
    """The engine behind one made by `execution_options`, which tells its own listeners and that one's."""
    while (behind := getattr(engine, "_proxied", None)) is not None:
        engine = behind
    return engine


def _same_database(first: Engine, second: Engine) -> bool:
    one, two = (_urls.get(engine, engine.url) for engine in (first, second))
    if one.get_backend_name() != two.get_backend_name() or not one.database:
        return False
    if one.get_backend_name() == "sqlite" and one.database == ":memory:":
        return False
    return _place(one) == _place(two)


def _place(url: URL) -> tuple[object, ...]:
    # PostgreSQL's `options` may set the search_path, and each schema has a log of its own.
    return url.host, url.port, url.database, url.query.get("options")


# --- which outbox ----------------------------------------------------------------------------


def outbox_of(connection: Connection, bus: EventBus, what: str) -> ConnectionOutbox:
    """The outbox of the transaction open on `connection`. Raises AutocommitRefused, BindNotConnected."""
    outbox = _outboxes.get(connection)
    if outbox is None:
        if connection._is_autocommit_isolation():
            raise AutocommitRefused(what)
        log = log_of(connection.engine)
        if log is None and bus.connected:
            raise BindNotConnected(what, connection.engine.url.render_as_string())
        watch(connection.engine)
        outbox = _outboxes[connection] = ConnectionOutbox(bus, log, connection)
    return outbox


def is_outbox_of(connection: Connection, outbox: ConnectionOutbox) -> bool:
    """Whether it is still that of the transaction open there."""
    return _outboxes.get(connection) is outbox


def seal(connection: Connection) -> None:
    """What has happened on it so far is composed apart from what comes after."""
    outbox = _outboxes.get(connection)
    if outbox is not None:
        outbox.seal()


def watch(engine: Engine) -> None:
    """Hear what happens to transactions of `engine`, from now on."""
    engine = _root(engine)
    if engine in _watched:
        return
    with _lock:
        if engine in _watched:
            return
        for name, listener in _LISTENERS.items():
            event.listen(engine, name, listener)
        listen()
        _wrap(engine.dialect)
        event.listen(engine, "reset", partial(_reset, engine.dialect))
        _watched.add(engine)


def _release_savepoint(connection: Connection, name: str, _context: None) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.release_savepoint(name)


def _rollback_savepoint(connection: Connection, name: str, _context: None) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.rollback_to(name)


def _commit(connection: Connection) -> None:
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.committing = _driver_id(connection.connection)
        _committing[outbox.committing] = outbox
        try:
            outbox.append(connection, with_commit=True)
        except BaseException:
            if connection.invalidated:
                _give_up(connection, outbox)
            else:
                _undo(connection.dialect, connection.connection)
            raise


def _give_up(connection: Connection, outbox: ConnectionOutbox) -> None:
    """The driver's connection is gone, as after a cancelled await, and its transaction with it."""
    _committing.pop(outbox.committing, None)
    _outboxes.pop(connection, None)
    outbox.give_up()


def _rollback(connection: Connection) -> None:
    if (outbox := _outboxes.pop(connection, None)) is not None:
        _committing.pop(outbox.committing, None)
        if connection.invalidated or connection.closed:
            outbox.give_up()
        else:
            _rolling_back[_driver_id(connection.connection)] = outbox


def _driver_id(connection: Any) -> int:
    """The identity of the driver's connection, whether the pool's wrapper is around it or not."""
    return id(getattr(connection, "dbapi_connection", connection))


def _undo(dialect: Any, connection: Any) -> None:
    """A COMMIT was refused: SQLAlchemy takes its transaction for over and sends no ROLLBACK, SQLite keeps it open."""
    if (outbox := _committing.pop(_driver_id(connection), None)) is not None:
        if (owner := outbox.connection()) is not None:
            _outboxes.pop(owner, None)
        _rolling_back[_driver_id(connection)] = outbox
    with suppress(Exception):  # what refused the commit is what the caller has to know
        dialect.do_rollback(connection)


def _reset(dialect: Any, connection: Any, _record: Any, state: Any) -> None:
    """Back into the pool, its commit refused by somebody else's listener: nothing may be left for its next user."""
    if _committing and _driver_id(connection) in _committing and not state.terminate_only:
        _undo(dialect, connection)


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
    """What no event of SQLAlchemy tells: that COMMIT or ROLLBACK has returned, and what a savepoint was named."""
    if dialect in _dialects:
        return
    _dialects.add(dialect)
    dialect.do_commit = partial(_do_commit, dialect, dialect.do_commit)
    dialect.do_rollback = partial(_do_rollback, dialect.do_rollback)
    dialect.do_commit_twophase = partial(_do_commit_twophase, dialect.do_commit_twophase)
    dialect.do_savepoint = partial(_do_savepoint, dialect.do_savepoint)


def commits() -> int:
    """How many commits this process has made on connected engines: whoever sees it grow may have stale records."""
    return _commits


def _do_commit(dialect: Any, do_commit: Callable[[Any], None], connection: Any) -> None:
    global _commits  # noqa: PLW0603  # counted here, where every commit passes
    outbox = _committing.get(_driver_id(connection)) if _committing else None
    try:
        if outbox is not None:
            outbox.appending.finish()
        do_commit(connection)
    except BaseException:
        _undo(dialect, connection)
        raise
    # Two at once may count as one, which still is another number than before.
    _commits += 1
    if outbox is not None:
        del _committing[_driver_id(connection)]
        if (owner := outbox.connection()) is not None:
            _outboxes.pop(owner, None)
        _release(outbox)


def _do_rollback(do_rollback: Callable[[Any], None], connection: Any) -> None:
    try:
        do_rollback(connection)
    finally:
        if _rolling_back and (outbox := _rolling_back.pop(_driver_id(connection), None)) is not None:
            outbox.give_up()


def _do_commit_twophase(do_commit: Callable[..., None], connection: Connection, *args: Any, **options: Any) -> None:
    do_commit(connection, *args, **options)
    if (outbox := _outboxes.pop(connection, None)) is not None:
        _release(outbox)


def _do_savepoint(do_savepoint: Callable[..., None], connection: Connection, name: str) -> None:
    do_savepoint(connection, name)
    if (outbox := _outboxes.get(connection)) is not None:
        outbox.savepoint(name)


def _release(outbox: ConnectionOutbox) -> None:
    """Now, or if a Session is in the middle of its commit, once it is usable again."""
    for session in outbox.sessions:
        transaction = session._transaction
        if transaction is not None and transaction._state is SessionTransactionState.PREPARED:
            _ready.setdefault(id(session), []).append(outbox)
            return
    outbox.release()


def listen() -> None:
    """Hear when a Session is usable again: only what happens on a watched engine waits for that."""
    if not event.contains(Session, "after_transaction_end", _after_transaction_end):
        event.listen(Session, "after_transaction_end", _after_transaction_end)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if _ready and transaction.parent is None:
        for outbox in _ready.pop(id(session), ()):
            outbox.release()
