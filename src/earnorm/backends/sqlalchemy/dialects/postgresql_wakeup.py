"""The wake-up on PostgreSQL: NOTIFY after the commit, in a tiny transaction of its own, and LISTEN in each worker.

The first commit of a moment takes it along, where its append goes with COMMIT, and tells of those before it as well; a
thread beside tells of the last ones, behind which no other comes.
Never in the user's transaction, where NOTIFY makes commits wait for each other. The channel is the log's: two logs of
a database are told apart by their tables' oids.
"""

from __future__ import annotations

import atexit
import logging
import random
import secrets
import selectors
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, exists, false, func, literal_column, or_, select
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects.horizon import _LAST, _LOWEST
from earnorm.backends.sqlalchemy.dialects.side_connection import Ears
from earnorm.backends.sqlalchemy.dialects.side_thread import SideThread
from earnorm.wakeup import Bell

__all__ = ["CHANNEL", "PostgreSQLWakeup"]

_log = logging.getLogger("earnorm.wakeup")

# Seconds between two notifications of a process: what is committed meanwhile shares the second one. They double while
# commits come all the time, since workers that find something each time they look need no waking.
_MOMENT, _LONG_MOMENT = 0.002, 0.02
# Seconds that the thread leaves to the next commit, which tells of all at a tenth of the price: two threads that both
# want Python's lock cost each save of a busy process 90 µs.
_GRACE = 0.002
# Seconds of silence after which the notifier gives its connection back.
_SILENCE = 60.0

# Seconds between two looks of a listener, for what no notification tells: a process that died before it could send
# one, a delivery that another process set aside, an open transaction that holds the horizon back. Then where it cannot
# listen, and where triggers capture what other programs write, who notify nobody.
_LOOK, _LOOK_DEAF, _LOOK_CAPTURED = 10.0, 7.0, 1.0
# No two workers that were started together keep looking together.
_JITTER = 0.2

# How long a worker rests that is looked after so, and one that is not. A look is one statement, a pass is several:
# ten idle workers come to less than two a second in all.
_TOLD, _UNTOLD = 180.0, 6.0

CHANNEL = f"'earnorm_' || '{tables.log.name}'::regclass::oid"
_NOTIFY = f"SELECT pg_notify({CHANNEL}, %s)"
_WHO = f"SELECT pg_backend_pid(), {CHANNEL}"
_NOW: ColumnElement[int] = literal_column("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint")


def _look_text(engine: Engine) -> str:
    """One statement, one row: where the log ends, whether there is something to do, whether tables are captured."""
    overdue = select(func.min(tables.delivery.c.due)).where(tables.is_open(tables.delivery)).scalar_subquery()
    waiting = or_(func.coalesce(overdue <= _NOW, false()), exists(select(tables.capture.c.id)))
    captured = "EXISTS (SELECT FROM pg_trigger WHERE tgname = 'earnorm_capture')"
    return f"SELECT ({_LAST}), {waiting.compile(engine)}, ({_LOWEST}) IS NOT NULL, {captured}"


class PostgreSQLWakeup:
    """Notifies wherever events are committed; listens where a worker waits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token = secrets.token_hex(4)
        self._notifier = _Notifier(engine, self._token)
        self._listener = _Listener(engine, self._token)

    @property
    def ears(self) -> Ears:
        return self._listener

    @property
    def longest(self) -> float:
        return _TOLD if self._listener.looking else _UNTOLD

    @property
    def locks(self) -> Sequence[threading.Lock]:
        return self._notifier.lock, self._listener.lock

    def wait(self, bell: Bell, seconds: float) -> bool:
        return self._listener.wait(bell, seconds)

    def heed(self) -> None:
        self._listener.heed()

    def leave(self) -> None:
        self._listener.leave()

    def notify(self) -> None:
        self._notifier.notify()

    def told(self) -> None:
        self._notifier.told()

    def claim(self) -> str | None:
        return self._notifier.claim()

    def begin_anew(self) -> None:
        self._token = self._notifier.token = self._listener.token = secrets.token_hex(4)
        self._notifier.begin_anew()
        self._listener.begin_anew()

    def close(self) -> None:
        self._listener.leave()
        self._notifier.end()


class _Notifier(SideThread):
    """Sends one notification for all commits of a moment, the first of them at once."""

    def __init__(self, engine: Engine, token: str) -> None:
        super().__init__(engine, "earnorm-notify", "workers of other processes cannot be woken")
        self.token = token

    def _state(self) -> None:
        super()._state()
        self._roused = threading.Event()
        # How many commits asked for a notification, and how many of them have had one: counted without a lock, so that
        # two at once may be one, which still is another number than before.
        self._asked = self._claimed = self._told = 0
        self._moment, self._silent_until = _MOMENT, 0.0

    def claim(self) -> str | None:
        """None if it was not silent for a moment; else another one begins."""
        now = time.monotonic()
        if now < self._silent_until:
            return None
        self._begin_moment(now)
        self._claimed = self._asked
        return self.token

    def told(self) -> None:
        self._told = self._claimed

    def notify(self) -> None:
        # On the committing thread: mostly a look at three attributes.
        self._asked += 1
        if not self._roused.is_set():
            self._roused.set()
        if self._thread is None:
            _notifiers.add(self)
            self.start()

    def _begin_moment(self, now: float) -> None:
        # Whether commits came in the last one.
        self._moment = _MOMENT if self._told == self._asked else min(2 * self._moment, _LONG_MOMENT)
        self._silent_until = now + self._moment

    def _rouse(self) -> None:
        self._roused.set()

    def _work(self) -> None:
        while True:
            if not self._roused.wait(None if self._connection is None else _SILENCE):
                self._disconnect()
                continue
            # In this order: who asks while it is sent is told by the next one.
            self._roused.clear()
            while self._told != self._asked:
                left = self._silent_until + _GRACE - time.monotonic()
                if left <= 0 or self._ending.is_set():
                    self._send()
                else:
                    self._ending.wait(left)
            if self._ending.is_set():
                return

    def _send(self) -> None:
        asked = self._asked
        self._begin_moment(time.monotonic())
        with self.lock:
            connection = self._connection
            if connection is None:
                connection = self._connect()
                connection.autocommit = True
            connection.execute(_NOTIFY, (self.token,))
        self._told = asked
        self._succeed()


class _Listener(Ears):
    """Hears the notifications of other processes, and looks now and then whether one was missed."""

    def __init__(self, engine: Engine, token: str) -> None:
        super().__init__(engine, "a worker cannot listen for commits, and polls")
        self._text = _look_text(engine)
        self.token = token
        self._said = False

    def _state(self) -> None:
        super()._state()
        self.looking = False
        self.listening = False
        self._is_told = False
        self._next_look = 0.0
        self._selector: selectors.BaseSelector | None = None
        self._bell: Bell | None = None
        self._seen: tuple[int, bool] | None = None

    def leave(self) -> None:
        self._select_no_more()
        self.looking = self.listening = False
        super().leave()

    def _hear(self, bell: Bell, until: float) -> bool:
        connection = self._connection or self._tune_in()
        selector = self._selector
        if selector is None or self._bell is not bell:
            selector = self._select_by(bell, connection)
        if connection.closed:
            # It broke under somebody who looked by it.
            raise ConnectionResetError("the connection was lost")
        # Told with the answer to such a look.
        if self._is_told and self._take_in(connection):
            return True
        while (now := time.monotonic()) < until:
            if now >= self._next_look:
                if self._look(connection):
                    return True
            elif selector.select(min(until, self._next_look) - now) and (bell.heard() or self._take_in(connection)):
                return True
        return False

    def _tune_in(self) -> Any:
        with self.lock:
            connection = self._connect()
            connection.autocommit = True
            pid, channel = connection.execute(_WHO).fetchone()
            # A pooler would take LISTEN without a word, and hand the notifications to somebody else.
            self.listening = bool(pid == connection.info.backend_pid)
            if self.listening:
                # Of those that come with the answer to a look.
                connection.add_notify_handler(lambda told: self._note(told.payload))
                connection.execute(f'LISTEN "{channel}"')
        if not self.listening and not self._said:
            self._said = True
            _log.warning(
                "a pooler stands between this worker and the server, so that it cannot listen for commits, and polls; "
                "for a prompt worker, give it a URL past the pooler"
            )
        self._next_look = 0.0
        return connection

    def _select_by(self, bell: Bell, connection: Any) -> selectors.BaseSelector:
        self._select_no_more()
        self._bell, self._selector = bell, selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ)
        self._selector.register(connection, selectors.EVENT_READ)
        return self._selector

    def _select_no_more(self) -> None:
        selector, self._selector, self._bell = self._selector, None, None
        if selector is not None:
            selector.close()

    def _take_in(self, connection: Any) -> bool:
        with self.lock:
            connection.pgconn.consume_input()
            while (told := connection.pgconn.notifies()) is not None:
                self._note(told.extra.decode())
        told, self._is_told = self._is_told, False
        return told

    def _note(self, token: str) -> None:
        self._is_told = self._is_told or token != self.token

    def _look(self, connection: Any) -> bool:
        """Whether there is something to do that nobody told."""
        with self.lock:
            last, waiting, stalled, captured = connection.execute(self._text).fetchone()
        # A transaction that held the horizon back may have been rolled back since, of which nobody tells.
        found = waiting or stalled or self._seen != (last, stalled)
        self._seen = last, stalled
        pause = _LOOK if self.listening else _LOOK_DEAF
        jitter = random.uniform(1, 1 + _JITTER)  # noqa: S311  no secret
        self._next_look = time.monotonic() + (_LOOK_CAPTURED if captured else pause * jitter)
        self.looking = True
        self._succeed()
        return self._take_in(connection) or found


# --- exit --------------------------------------------------------------------------------

_notifiers: weakref.WeakSet[_Notifier] = weakref.WeakSet()


@atexit.register
def _send_the_last() -> None:
    """A script may end right after its commit: the workers are told of it all the same."""
    for notifier in tuple(_notifiers):
        notifier.end()
