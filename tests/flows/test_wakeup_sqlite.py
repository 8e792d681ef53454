"""Waking on SQLite: the file tells."""

import time

import pytest
from sqlalchemy import create_engine

from earnorm.backends.sqlalchemy.dialects.sqlite_wakeup import SQLiteWakeup
from earnorm.wakeup import Bell
from tests.flows.waking import EVENTUALLY


@pytest.fixture
def wakeup(resting):
    """One more that waits for the file, and has seen it as it is."""
    wakeup = SQLiteWakeup(resting.engine)
    resting.worker.stop()
    assert wakeup.wait(Bell(), 0.001)
    assert not wakeup.wait(Bell(), 0.001)
    yield wakeup
    wakeup.close()


def write(url):
    engine = create_engine(url)
    with engine.begin() as plain:
        plain.exec_driver_sql("CREATE TABLE anything (id INTEGER)")
    engine.dispose()


def test_a_program_of_any_kind_is_heard(url, wakeup):
    write(url)

    assert wakeup.wait(Bell(), EVENTUALLY)


def test_what_was_committed_before_a_look_at_the_log_is_not_told_again(url, wakeup):
    write(url)
    wakeup.heed()

    assert not wakeup.wait(Bell(), 0.001)


def test_a_bell_ends_the_waiting(wakeup):
    bell = Bell()
    bell.set()

    assert wakeup.wait(bell, EVENTUALLY)


@pytest.mark.parametrize("silence, pause", [(0, 0.00025), (1, 0.004), (5, 0.02), (60, 0.032)])
def test_an_idle_file_is_looked_at_less_and_less(wakeup, silence, pause):
    """Two per cent of a core would be a look every two or three milliseconds."""
    pauses = []

    class Patient(Bell):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return True

    wakeup._changed = time.monotonic() - silence

    assert wakeup.wait(Patient(), EVENTUALLY)
    assert pytest.approx(pause, rel=0.2) == pauses[-1]
