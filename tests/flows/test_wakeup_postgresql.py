"""Waking on PostgreSQL: what NOTIFY tells, who hears it, and what is found without."""

import psycopg
import pytest
from sqlalchemy import event

from earnorm import connect
from earnorm.backends.sqlalchemy.dialects import postgresql_wakeup, side_thread
from tests import postgresql as postgres
from tests.flows.waking import EVENTUALLY, ring, until


@pytest.fixture
def kind():
    return "postgresql"


def test_a_listener_whose_backend_was_ended_listens_again(resting, another, rang, caplog, monkeypatch):
    monkeypatch.setattr(side_thread, "_AGAIN", 0.001)
    listener = resting.wakeup._listener
    pid = listener._connection.info.backend_pid

    postgres.admin().execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: listener.listening and listener._connection.info.backend_pid != pid)
    ring(another)

    assert rang.wait(EVENTUALLY)
    assert 1 == len([record for record in caplog.records if "cannot listen" in record.getMessage()])


def test_what_was_committed_while_nobody_listened_is_found_by_the_first_look(resting, another, rang):
    resting.wakeup.unwatch()
    ring(another)
    resting.wakeup.watch(resting.worker._wakeup.set)

    assert rang.wait(EVENTUALLY)


def test_commits_of_a_moment_share_a_notification_which_their_own_process_does_not_hear(url, resting, another):
    heard = []
    resting.wakeup._listener.wake = lambda: heard.append("worker")
    another.wakeup.watch(lambda: heard.append("itself"))
    until(lambda: another.wakeup._listener.listening and heard)
    heard.clear()
    sends = []
    send = another.wakeup._notifier._send
    another.wakeup._notifier._send = lambda: (sends.append(1), send())

    with another.wakeup._notifier.lock:
        for _ in range(100):
            another.wakeup.notify()
    until(lambda: heard)
    another.wakeup.close()

    assert {"worker"} == set(heard)
    assert len(sends) <= 3


def test_the_commit_itself_holds_no_notify(url, resting, another):
    statements = []
    event.listen(another.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    ring(another)

    assert not [statement for statement in statements if "notify" in statement.lower()]


def test_the_first_commit_of_a_moment_tells_the_workers_right_behind_itself(resting, another, rang, monkeypatch):
    monkeypatch.setattr(postgresql_wakeup, "_MOMENT", EVENTUALLY)
    ring(another)

    assert rang.wait(EVENTUALLY)
    assert another.wakeup._notifier._thread is None

    rang.clear()
    ring(another)
    assert another.wakeup._notifier._thread is not None
    assert rang.wait(EVENTUALLY)


def test_a_notifier_gives_its_connection_back_after_a_silence(another, monkeypatch):
    monkeypatch.setattr(postgresql_wakeup, "_SILENCE", 0.001)
    notifier = another.wakeup._notifier

    another.wakeup.notify()

    until(lambda: notifier._thread is not None and not notifier._pending)
    until(lambda: notifier._connection is None)


def test_two_logs_of_one_database_do_not_wake_each_other(resting, another, new_url):
    heard = []
    resting.wakeup._listener.wake = lambda: heard.append("worker")
    with connect(new_url(), name="elsewhere", worker=False) as elsewhere:
        ring(elsewhere)
        elsewhere.wakeup.close()
    another.wakeup.notify()
    until(lambda: heard)
    another.wakeup.close()

    assert ["worker"] == heard


def test_a_delivery_that_is_overdue_and_captured_changes_are_seen_by_a_look(resting):
    heard = []
    listener = resting.wakeup._listener
    listener.end()
    listener.wake = lambda: heard.append("worker")
    with connection(resting) as direct:
        listener._look(direct)
        heard.clear()
        listener._look(direct)
        assert [] == heard
        direct.execute(
            "INSERT INTO earnorm_capture (subject, key, operation, hidden, transaction, at) "
            "VALUES ('order', '[1]', 'I', '[]', 0, 0)"
        )
        listener._look(direct)

    assert ["worker"] == heard


def test_an_idle_fleet_of_ten_asks_less_than_two_statements_a_second(resting):
    """A worker rests for `longest`, and meanwhile is looked after by single statements."""
    statements = []
    resting.worker.run_once()
    event.listen(resting.engine, "begin", lambda _: statements.extend(["BEGIN", "COMMIT"]))
    event.listen(resting.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    resting.worker.run_once()

    for look in (postgresql_wakeup._LOOK, postgresql_wakeup._LOOK_DEAF):
        typical = look * (1 + postgresql_wakeup._JITTER / 2)
        assert 10 * (len(statements) / resting.wakeup.longest + 1 / typical) < 2


def connection(db):
    return psycopg.connect(postgres.libpq(db.engine.url), autocommit=True)
