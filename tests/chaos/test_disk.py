"""A disk that is full under a SQLite file: it refuses loudly, keeps what is committed, and resumes with more room."""

import logging
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import OperationalError

from earnorm import BaseModel, TextField, connect, event_handler
from earnorm.errors import RetryLater


class Disk:
    """A limit to the file of a database, as SQLite keeps it for each connection."""

    def __init__(self, db):
        self.pages = 1_073_741_823
        self._db = db
        for engine in (db.engine, db.async_engine.sync_engine):
            sqlalchemy_event.listen(engine, "connect", self._limit)

    def _limit(self, connection, _record):
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {self.pages}")
        cursor.close()

    def holds(self, pages):
        self.pages = pages
        self._db.engine.dispose()


@pytest.mark.expect_failures
def test_a_full_disk_refuses_loudly_keeps_what_is_committed_and_resumes(tmp_path, caplog, reported):
    class Page(BaseModel):
        text = TextField()

    tried, handled = [], []

    @event_handler("page.created", name="read")
    def read(page, event):
        tried.append(event.attempt)
        if event.attempt == 1:
            # Setting it aside needs room for a copy of the event.
            raise RetryLater(0.0)
        handled.append(page.id)

    path = tmp_path / "full.db"
    with connect(f"sqlite:///{path}", worker=False) as db:
        disk = Disk(db)
        pages = [Page(text="x" * 5_000).save() for _ in range(5)]
        used = on_file(path, "PRAGMA page_count")
        disk.holds(used + 5)
        with pytest.raises(OperationalError, match="database or disk is full"):
            pages.extend(Page(text="x" * 5_000).save() for _ in range(100))

        assert len(pages) == len(Page.find()) == on_file(path, "SELECT count(*) FROM earnorm_log")
        assert "ok" == on_file(path, "PRAGMA integrity_check")
        with caplog.at_level(logging.WARNING, "earnorm.worker"):
            while not warnings(caplog):
                assert 0 == sum(db.drain(timeout=0.3).values())
        assert 1 == len(warnings(caplog))

        disk.holds(1_073_741_823)
        pages.append(Page(text="x" * 5_000).save())
        counts = db.drain()

    ids = [page.id for page in pages]
    lost, twice = len(set(ids) - set(handled)), len(handled) - len(set(handled))
    reported("SQLite", "disk full", events=len(ids), lost=lost, duplicates=twice)
    assert {"done": len(pages), "retry": len(pages), "dead": 0, "skipped": 0} == counts
    assert sorted(ids) == sorted(handled)
    assert 2 * len(pages) == len(tried), "what was run before the disk was full is not run again"


def on_file(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchone()[0]


def warnings(caplog):
    return [
        record for record in caplog.records if record.name == "earnorm.worker" and record.levelno >= logging.WARNING
    ]
