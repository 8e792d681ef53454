"""Opening: a flush opens its connections when and where it would without us, and keeps an outbox for each.

What has no boundary is refused as soon as its connection is known: at once if it is open, else when the flush opens
it, before any SQL on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy import boundary
from earnorm.backends.sqlalchemy.boundary import outbox_of
from earnorm.backends.sqlalchemy.log import Log
from earnorm.backends.sqlalchemy.mapping import Mapping, bind_of, connection_of, open_on
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox

__all__ = [
    "EXPECTED",
    "OPENED",
    "connect_engine",
    "expect_nothing",
    "get_ready_again",
    "listen",
    "outbox_in",
    "require_boundary",
]

# In a flush's `attributes`: its outboxes.
_OUTBOXES = "earnorm_outboxes"
# On a Session: the models that its flush will write once it has opened a connection, by engine; and, once it has, the
# outbox.
EXPECTED = "_earnorm_expected"
OPENED = "opened"

_lock = threading.Lock()


def connect_engine(engine: Engine, log: Log, get_ready: Callable[[], bool], url: URL | None = None) -> None:
    """From now on, what commits on `engine` is kept in `log`, and all Sessions tell of the connections they open.

    `get_ready` is called before each transaction until it says that all is; so it is anew by `get_ready_again`.
    """
    listen()
    boundary.connect_engine(engine, log, url)
    get_ready_again(engine, get_ready)


def get_ready_again(engine: Engine, get_ready: Callable[[], bool]) -> None:
    # No event of the engine, which would tell every statement to nobody.
    dialect: Any = engine.dialect
    do_begin = dialect.do_begin
    if getattr(do_begin, "gets_ready", False):
        return

    def begin(connection: Any) -> None:
        if get_ready() and vars(dialect).get("do_begin") is begin:
            dialect.do_begin = do_begin
        do_begin(connection)

    begin.gets_ready = True  # type: ignore[attr-defined]  # by which it is known
    dialect.do_begin = begin


def listen() -> None:
    """Hear of the connections that Sessions open from now on."""
    with _lock:
        if not event.contains(Session, "after_begin", _after_begin):
            event.listen(Session, "after_begin", _after_begin)


def expect_nothing(session: Session) -> None:
    """No flush is under way."""
    vars(session).pop(EXPECTED, None)


def require_boundary(session: Session, context: UOWTransaction, state: InstanceState[Any], mapping: Mapping) -> None:
    """Refuse what has no boundary before anything is written. Raises AutocommitRefused, BindNotConnected."""
    bind = bind_of(session, state)
    if bind is not None and open_on(session, bind) is not None:
        outbox_in(session, context, state, mapping)
    else:
        heard: Any = session.dispatch.after_begin
        if _after_begin not in heard.parent_listeners:
            listen()  # something is to be kept, and there is no database
        vars(session).setdefault(EXPECTED, {})[bind and bind.engine] = mapping


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    expected: dict[Any, Any] | None = session.__dict__.get(EXPECTED) if session._flushing else None
    mapping: Mapping | None = (expected.get(connection.engine) or expected.get(None)) if expected else None
    if expected is not None and mapping is not None:
        expected[OPENED] = _outbox(session, connection, mapping)


def outbox_in(
    session: Session, context: UOWTransaction, state: InstanceState[Any], mapping: Mapping
) -> ConnectionOutbox:
    """The outbox of the connection that this flush writes the record on."""
    # A sharded Session has a connection for each record, any other one for each hierarchy of models.
    key = state if session.connection_callable is not None else state.mapper.base_mapper
    known: dict[Any, ConnectionOutbox] = context.attributes.setdefault(_OUTBOXES, {})
    outbox = known.get(key)
    if outbox is None:
        outbox = known[key] = _outbox(session, connection_of(session, state), mapping)
    return outbox


def _outbox(session: Session, connection: Connection, mapping: Mapping) -> ConnectionOutbox:
    outbox = outbox_of(connection, mapping.bus, f"a save of {mapping.info.name}")
    outbox.serve(session)
    return outbox
