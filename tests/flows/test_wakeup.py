"""Waking: a commit reaches the workers of other processes at once, and where it does not, by their next look."""

import logging
import subprocess
import sys
import threading

from earnorm import connect, emit, event_handler
from earnorm.backends.sqlalchemy.dialects import side_connection
from earnorm.testing import rolled_back
from tests.flows.test_durable_delivery import ROOT, environment
from tests.flows.waking import EVENTUALLY, ring, until


def test_a_commit_of_another_process_that_ends_at_once_wakes_a_resting_worker(url, resting, rang):
    command = [sys.executable, "-m", "tests.flows.durable_child", "call", url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True
    ) as child:
        said = child.communicate("now\n", timeout=60)[0]

    assert (0, ["ready", "rang"]) == (child.returncode, said.split())
    assert rang.wait(EVENTUALLY)


def test_a_commit_wakes_a_worker_again_after_it_was_stopped_and_started(resting, another, rang):
    resting.worker.stop()
    resting.worker.start()
    until(lambda: resting.wakeup.longest > 10)

    ring(another)

    assert rang.wait(EVENTUALLY)


def test_what_a_handler_emits_wakes_the_workers_of_other_processes(url, resting, another, rang, monkeypatch):
    told = threading.Event()
    monkeypatch.setattr(resting.wakeup, "notify", told.set)

    @event_handler("bell.cast", name="hang")
    def hang(event):
        emit("door.rang")

    with another.transaction():
        emit("bell.cast")

    assert rang.wait(EVENTUALLY)
    assert told.wait(EVENTUALLY)


SIDE = {"earnorm-notify", "earnorm-worker"}


def test_closing_leaves_no_thread_and_no_connection_behind(url, rang):
    with connect(url, worker=True) as db:
        ring(db)
        until(lambda: db.wakeup.longest > 10)
        threads = {thread for thread in threading.enumerate() if thread.name in SIDE}
        assert threads

    assert not [thread for thread in threads if thread.is_alive()]
    assert [] == side_connection._inherited


def test_a_rolled_back_test_wakes_nobody(resting, another, rang):
    with rolled_back(another):
        ring(another)
        assert None is getattr(another.wakeup, "_notifier", None)

    assert not rang.is_set()


# --- without ---


def test_where_the_watch_fails_it_is_said_once_and_the_worker_looks_by_itself(url, rang, caplog, monkeypatch):
    monkeypatch.setattr(side_connection, "_AGAIN", 0.001)
    monkeypatch.setattr(side_connection, "_LATEST", 0.001)
    tries = []

    def fail(self):
        tries.append(self)
        raise OSError("no more connections")

    monkeypatch.setattr(side_connection.SideConnection, "_connect", fail)
    with connect(url, worker=True) as db, connect(url, name="another", worker=False) as another:
        until(lambda: len(tries) > 3)
        assert db.wakeup.longest <= 6
        ring(another)

        assert rang.wait(EVENTUALLY)
    watcher = [record for record in caplog.records if "a worker cannot" in record.getMessage()]
    assert [logging.WARNING] == [record.levelno for record in watcher]
    assert "no more connections" in watcher[0].getMessage()
