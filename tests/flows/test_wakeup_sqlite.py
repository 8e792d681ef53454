"""Waking on SQLite: the file tells."""

import threading

from sqlalchemy import create_engine

from earnorm.backends.sqlalchemy.dialects import sqlite_wakeup
from tests.flows.waking import EVENTUALLY, until


def test_a_program_of_any_kind_is_heard(url, resting):
    heard = threading.Event()
    resting.wakeup._wake = heard.set
    engine = create_engine(url)

    with engine.begin() as plain:
        plain.exec_driver_sql("CREATE TABLE anything (id INTEGER)")
    engine.dispose()

    assert heard.wait(EVENTUALLY)


def test_an_idle_file_is_looked_at_less_and_less(resting, monkeypatch):
    """Two per cent of a core would be a look every two milliseconds."""
    monkeypatch.setattr(sqlite_wakeup, "_LIVELY", 0.0)
    pauses = []
    resting.wakeup.end()
    wait = resting.wakeup._ending.wait
    resting.wakeup._ending.wait = lambda pause: (pauses.append(pause), wait(pause))[1]
    resting.wakeup.start()

    until(lambda: len(pauses) > 12)

    assert pauses[-1] == sqlite_wakeup._SLOW >= 0.02
