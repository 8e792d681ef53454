"""The boundary: which events belong to which transaction of which Connection, and what its real end does with them.

The Connection is the boundary, not the Session: a Session may be joined to an outer transaction, span two
connections or be none at all. The dialect tells of its transactions: rows are appended where it is told to commit, the
last point before COMMIT, and handlers released once that has returned. No event of an Engine does: a listener on one
makes every statement of it slower.
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


# On a Connection, and on what the pool has lent it: its events hold a Session, which holds both, so that in a table of
# ours they would stay for ever.
_OUTBOX = "_earnorm_outbox"
# On an Engine: a commit there may be refused by a listener of somebody else's.
_REFUSABLE = "_earnorm_refusable"
_logs: WeakKeyDictionary[Engine, Log] = WeakKeyDictionary()
_urls: WeakKeyDictionary[Engine, URL] = WeakKeyDictionary()
_watched: WeakSet[Engine] = WeakSet()
_dialects: WeakSet[Any] = WeakSet()
_lock = threading.Lock()
_CLOSED = "earnorm_closed_log"

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
    outbox = _outbox_on(connection)
    if outbox is None:
        if connection._is_autocommit_isolation():
            raise AutocommitRefused(what)
        log = log_of(connection.engine)
        if log is None and bus.connected:
            raise BindNotConnected(what, connection.engine.url.render_as_string())
        watch(connection.engine)
        if connection._has_events or connection.engine._has_events:
            _expect_refusals(connection)
        outbox = ConnectionOutbox(bus, log, connection)
        vars(connection)[_OUTBOX] = vars(connection.connection)[_OUTBOX] = outbox
    return outbox


def is_outbox_of(connection: Connection, outbox: ConnectionOutbox) -> bool:
    """Whether it is still that of the transaction open there."""
    return _outbox_on(connection) is outbox


def _outbox_on(connection: Connection) -> ConnectionOutbox | None:
    found: ConnectionOutbox | None = vars(connection).get(_OUTBOX)
    return found


def _take_off(outbox: ConnectionOutbox) -> None:
    """Its transaction is over: the Connection's next one has another."""
    owner = outbox.connection()
    if owner is not None:
        vars(owner).pop(_OUTBOX, None)
        if owner._dbapi_connection is not None:
            vars(owner._dbapi_connection).pop(_OUTBOX, None)


def seal(connection: Connection) -> None:
    """What has happened on it so far is composed apart from what comes after."""
    outbox = _outbox_on(connection)
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
        listen()
        _wrap(engine.dialect)
        event.listen(engine, "invalidate", _lose)
        _watched.add(engine)


def watch_pool(pool: Any, dialect: Any) -> None:
    """Hear of connections that are lost, or come back in the middle of something."""
    event.listen(pool, "invalidate", _lose)
    event.listen(pool, "reset", partial(_reset, dialect))


def _expect_refusals(connection: Connection) -> None:
    """Somebody who listens to commits may refuse one, of which nobody tells but the pool the connection goes back to.

    Where nobody does, the pool need not tell of each that comes back.
    """
    engine = _root(connection.engine)
    heard: Any = connection.dispatch if connection._has_events else engine.dispatch
    if heard.commit and not vars(engine).get(_REFUSABLE):
        vars(engine)[_REFUSABLE] = True
        event.listen(engine, "reset", partial(_reset, engine.dialect))


def _lose(_driver: Any, record: Any, _error: BaseException | None) -> None:
    """The driver's connection is gone. Nobody will tell it of the ROLLBACK: its Connection's own events do."""
    outbox = _of_record(record)
    owner = None if outbox is None else outbox.connection()
    if owner is not None:
        event.listen(owner, "rollback", _lost)
        event.listen(owner, "rollback_twophase", _lost)


def _lost(connection: Connection, *_: Any) -> None:
    if (connection.invalidated or connection.closed) and (outbox := _outbox_on(connection)) is not None:
        _take_off(outbox)
        outbox.give_up()


def _reset(dialect: Any, connection: Any, record: Any, state: Any) -> None:
    """Back into the pool, its commit refused by somebody else's listener: nothing may be left for its next user."""
    outbox = None if state.terminate_only else _of_record(record)
    if outbox is not None:
        _undo(dialect, connection, outbox)


def _of_record(record: Any) -> ConnectionOutbox | None:
    """The outbox on a connection that its pool is asked about."""
    lent = None if record is None or record.fairy_ref is None else record.fairy_ref()
    return None if lent is None else vars(lent).get(_OUTBOX)


# --- after the commit ------------------------------------------------------------------------


def _wrap(dialect: Any) -> None:
    """Also what no event of SQLAlchemy tells: that COMMIT or ROLLBACK has returned, and what a savepoint was named."""
    if dialect in _dialects:
        return
    _dialects.add(dialect)
    dialect.do_commit = partial(_do_commit, dialect, dialect.do_commit)
    for name, ours in _WRAPPED.items():
        setattr(dialect, name, partial(ours, getattr(dialect, name)))


def commits() -> int:
    """How many commits this process has made on connected engines: whoever sees it grow may have stale records."""
    return _commits


def _do_commit(dialect: Any, do_commit: Callable[[Any], None], connection: Any) -> None:
    global _commits  # noqa: PLW0603  # counted here, where every commit passes
    outbox: ConnectionOutbox | None = None
    try:
        outbox = getattr(connection, "__dict__", _NOTHING).get(_OUTBOX)
        if outbox is not None and (owner := outbox.connection()) is not None:
            outbox.append(owner, with_commit=True)
        if outbox is None or not outbox.appending.committed:
            do_commit(connection)
    except BaseException:
        _undo(dialect, connection, outbox)
        raise
    # Two at once may count as one, which still is another number than before.
    _commits += 1
    if outbox is not None:
        _take_off(outbox)
        _release(outbox)


def _undo(dialect: Any, connection: Any, outbox: ConnectionOutbox | None) -> None:
    """A COMMIT was refused: SQLAlchemy takes its transaction for over and sends no ROLLBACK, SQLite keeps it open."""
    if outbox is not None:
        _take_off(outbox)
    with suppress(Exception):  # what refused the commit is what the caller has to know
        dialect.do_rollback(connection)
    if outbox is not None:
        outbox.give_up()


def _do_rollback(do_rollback: Callable[[Any], None], connection: Any) -> None:
    outbox: ConnectionOutbox | None = getattr(connection, "__dict__", _NOTHING).get(_OUTBOX)
    if outbox is not None:
        _take_off(outbox)
    try:
        do_rollback(connection)
    finally:
        if outbox is not None:
            outbox.give_up()


def _do_savepoint(do_savepoint: Callable[..., None], connection: Connection, name: str) -> None:
    do_savepoint(connection, name)
    if (outbox := _outbox_on(connection)) is not None:
        outbox.savepoint(name)


def _do_release_savepoint(do_release: Callable[..., None], connection: Connection, name: str) -> None:
    if (outbox := _outbox_on(connection)) is not None:
        outbox.release_savepoint(name)
    do_release(connection, name)


def _do_rollback_to_savepoint(do_rollback_to: Callable[..., None], connection: Connection, name: str) -> None:
    if (outbox := _outbox_on(connection)) is not None:
        outbox.rollback_to(name)
    do_rollback_to(connection, name)


# Two-phase: some of these call `do_commit` or `do_rollback`, which are not to find the outbox.


def _do_prepare_twophase(do_prepare: Callable[..., None], connection: Connection, xid: Any) -> None:
    if (outbox := _outbox_on(connection)) is not None:
        outbox.append(connection)
    do_prepare(connection, xid)


def _do_commit_twophase(do_commit: Callable[..., None], connection: Connection, *args: Any, **options: Any) -> None:
    outbox = _outbox_on(connection)
    if outbox is not None:
        if outbox.composed is None:
            outbox.append(connection)
        _take_off(outbox)
    do_commit(connection, *args, **options)
    if outbox is not None:
        _release(outbox)


def _do_rollback_twophase(do_rollback: Callable[..., None], connection: Connection, *args: Any, **options: Any) -> None:
    if (outbox := _outbox_on(connection)) is not None:
        _take_off(outbox)
        outbox.give_up()
    do_rollback(connection, *args, **options)


# A connection that no pool has lent, as SQLAlchemy's own checks have it, may have no attributes.
_NOTHING: dict[str, Any] = {}
_WRAPPED: dict[str, Callable[..., None]] = {
    "do_rollback": _do_rollback,
    "do_savepoint": _do_savepoint,
    "do_release_savepoint": _do_release_savepoint,
    "do_rollback_to_savepoint": _do_rollback_to_savepoint,
    "do_prepare_twophase": _do_prepare_twophase,
    "do_commit_twophase": _do_commit_twophase,
    "do_rollback_twophase": _do_rollback_twophase,
}


def _release(outbox: ConnectionOutbox) -> None:
    """Now, or if a Session is in the middle of its commit, once it is usable again."""
    for reference in outbox.references:
        session = reference()
        transaction = None if session is None else session._transaction
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
