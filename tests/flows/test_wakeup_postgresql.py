"""Waking on PostgreSQL: what NOTIFY tells, who hears it, and what is found without."""

import threading
import time
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import event

from earnorm import connect, trimming
from earnorm.backends.sqlalchemy.dialects import postgresql_wakeup, side_connection
from earnorm.backends.sqlalchemy.dialects.postgresql_wakeup import PostgreSQLWakeup
from earnorm.clock import VirtualClock
from earnorm.errors import ConnectionLost
from earnorm.trimming import Trimming
from earnorm.wakeup import Bell
from tests import postgresql as postgres
from tests.flows.waking import EVENTUALLY, ring, until


@pytest.fixture
def kind():
    return "postgresql"


@pytest.fixture
def listening(resting):
    """One more that listens, and has looked."""
    wakeup = PostgreSQLWakeup(resting.engine)
    assert wakeup.wait(Bell(), EVENTUALLY)
    yield wakeup
    wakeup.close()


def test_a_listener_whose_backend_was_ended_listens_again(resting, another, rang, caplog, monkeypatch):
    monkeypatch.setattr(side_connection, "_AGAIN", 0.001)
    listener = resting.wakeup._listener
    pid = listener._connection.info.backend_pid

    postgres.admin().execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: listener.listening and listener._connection.info.backend_pid != pid)
    ring(another)

    assert rang.wait(EVENTUALLY)
    assert 1 == len([record for record in caplog.records if "cannot listen" in record.getMessage()])


def test_when_a_connection_was_lost_the_one_it_waits_by_is_opened_anew(resting, another, rang, monkeypatch):
    """Looks are taken by it, and behind the others there may be another server now."""
    listener, take, losses = resting.wakeup._listener, resting.worker._turns.take, [ConnectionLost("gone")]
    first = listener._connection

    def lose(until):
        if losses:
            raise losses.pop()
        return take(until)

    monkeypatch.setattr(resting.worker._turns, "take", lose)
    ring(another)

    assert rang.wait(EVENTUALLY)
    until(lambda: listener.listening)
    assert first.closed
    assert listener._connection is not first


def test_what_was_committed_while_nobody_listened_is_found_by_the_first_look(resting, another, rang):
    resting.worker.stop()
    ring(another)
    wakeup = PostgreSQLWakeup(resting.engine)
    wakeup._listener._seen = resting.wakeup._listener._seen

    assert wakeup.wait(Bell(), EVENTUALLY)
    wakeup.close()


def test_commits_of_a_moment_share_a_notification_which_their_own_process_does_not_hear(listening, another, sends):
    assert another.wakeup.wait(Bell(), EVENTUALLY)
    with another.wakeup._notifier.lock:
        for _ in range(100):
            another.wakeup.notify()
    assert listening.wait(Bell(), EVENTUALLY)
    another.wakeup._notifier.end()

    assert not another.wakeup.wait(Bell(), 0.001)
    assert len(sends) <= 3


def test_what_was_told_before_a_look_at_the_log_is_not_told_again(listening, another):
    ring(another)
    until(lambda: listening._listener._take_in(listening._listener._connection))
    another.wakeup.close()
    listening.heed()

    assert not listening.wait(Bell(), 0.001)


def test_a_bell_ends_the_waiting(listening):
    bell = Bell()
    threading.Timer(0.001, bell.set).start()

    assert listening.wait(bell, EVENTUALLY)
    bell.clear()
    assert not listening.wait(bell, 0.001)


def test_the_commit_itself_holds_no_notify(url, resting, another):
    statements = []
    event.listen(another.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    ring(another)

    assert not [statement for statement in statements if "notify" in statement.lower()]


@pytest.fixture
def sends(another):
    """What the thread beside has sent."""
    sent, send = [], another.wakeup._notifier._send
    another.wakeup._notifier._send = lambda: (sent.append(1), send())
    return sent


@pytest.fixture
def patient(monkeypatch):
    """A moment lasts until `end_moment`, and then the thread beside leaves it all to the next commit."""
    monkeypatch.setattr(postgresql_wakeup, "_MOMENT", EVENTUALLY)
    monkeypatch.setattr(postgresql_wakeup, "_GRACE", EVENTUALLY)


def end_moment(db):
    db.wakeup._notifier._silent_until = time.monotonic()


@pytest.mark.usefixtures("patient")
def test_the_first_commit_of_a_moment_tells_the_workers_right_behind_itself(another, rang):
    ring(another)

    assert rang.wait(EVENTUALLY)
    assert another.wakeup._notifier._thread is None


def test_a_commit_behind_it_is_told_by_the_thread_beside_once_the_moment_is_over(another, rang, sends, monkeypatch):
    notifier = another.wakeup._notifier
    notifier._silent_until = time.monotonic() + EVENTUALLY
    with monkeypatch.context() as patch:
        # Not before the moment is over, however long the commit takes.
        patch.setattr(notifier, "start", lambda: None)
        ring(another)
    end_moment(another)
    notifier.start()

    assert rang.wait(EVENTUALLY)
    assert sends


@pytest.mark.usefixtures("patient")
def test_the_first_commit_of_the_next_moment_tells_of_all_before_it(another, rang, sends):
    ring(another)
    ring(another)
    end_moment(another)
    ring(another)
    another.wakeup.close()

    assert rang.wait(EVENTUALLY)
    assert not sends


@pytest.mark.usefixtures("patient")
def test_what_a_commit_was_to_tell_and_could_not_is_told_by_the_thread_beside(another, rang, sends):
    assert another.wakeup.claim()
    ring(another)
    end_moment(another)

    assert another.wakeup.claim()  # and its COMMIT fails
    another.wakeup.close()

    assert rang.wait(EVENTUALLY)
    assert sends


def test_a_notifier_gives_its_connection_back_after_a_silence(another, monkeypatch):
    monkeypatch.setattr(postgresql_wakeup, "_SILENCE", 0.001)
    notifier = another.wakeup._notifier

    another.wakeup.notify()

    until(lambda: notifier._thread is not None and notifier._told == notifier._asked)
    until(lambda: notifier._connection is None)


def test_two_logs_of_one_database_do_not_wake_each_other(listening, another, new_url):
    with connect(new_url(), name="elsewhere", worker=False) as elsewhere:
        ring(elsewhere)
        elsewhere.wakeup.close()
    assert not listening.wait(Bell(), 0.001)

    another.wakeup.notify()
    assert listening.wait(Bell(), EVENTUALLY)


def test_a_delivery_that_is_overdue_and_captured_changes_are_seen_by_a_look(resting, listening):
    listener = listening._listener
    assert not listener._look(listener._connection)

    with connection(resting) as direct:
        direct.execute(
            "INSERT INTO earnorm_capture (subject, key, operation, hidden, transaction, at) "
            "VALUES ('order', '[1]', 'I', '[]', 0, 0)"
        )

    assert listener._look(listener._connection)


def test_an_idle_fleet_of_ten_asks_less_than_two_statements_a_second(resting):
    """A worker rests for `longest`, and meanwhile is looked after by single statements."""
    statements, here = [], threading.get_ident()

    def count(*told):
        # The worker's own thread may take a pass as well, having just begun to listen.
        if threading.get_ident() == here:
            statements.extend(told)

    resting.worker.run_once()
    event.listen(resting.engine, "begin", lambda _: count("BEGIN", "COMMIT"))
    event.listen(resting.engine, "before_cursor_execute", lambda *args: count(args[2]))
    resting.worker.run_once()

    for look in (postgresql_wakeup._LOOK, postgresql_wakeup._LOOK_DEAF):
        typical = look * (1 + postgresql_wakeup._JITTER / 2)
        assert 10 * (len(statements) / resting.wakeup.longest + 1 / typical) < 2


def test_what_it_asks_for_the_sake_of_pruning_is_a_small_part_of_that(resting):
    """A look that finds nothing to prune, and the pass before it, came to more than all the rest."""
    statements, clock = [], VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    pruning = Trimming(resting.store, 86_400, clock=clock)
    clock.advance(trimming._CALM)
    event.listen(resting.engine, "begin", lambda _: statements.extend(("BEGIN", "COMMIT")))
    event.listen(resting.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    pruning.step()
    resting.worker.run_once()

    assert 0 < 10 * len(statements) / (1.5 * trimming._CALM) < 0.5


def connection(db):
    return psycopg.connect(postgres.libpq(db.engine.url), autocommit=True)
