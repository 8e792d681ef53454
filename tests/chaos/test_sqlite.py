"""Chaos on SQLite files: processes are killed with SIGKILL at any moment, and the ledger says what became of it."""

import logging
import os
import signal
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import OperationalError

from earnorm import BaseModel, TextField, connect, event_handler
from earnorm.errors import RetryLater
from tests.chaos.ledger import HANDLERS

BATCH = 20
# Long: a worker whose process is dead is followed at once. Short: one that lives and does not move, when it runs out.
LONG, SHORT = 30.0, 0.2


@pytest.mark.parametrize("point", ["before the append", "before the commit", "after the commit"])
def test_a_producer_killed_at_a_point_leaves_rows_and_events_that_agree(scene, point):
    scene.prepare()
    child = scene.start("produce", name="killed", transactions=10, seed=scene.seed, die=point)
    assert -9 == scene.nursery.wait(child)
    scene.kills = 1
    scene.play("produce", name="next", transactions=3, seed=scene.seed)

    verdict = scene.verify(f"producer {point}", delivered=False)

    assert 0 < verdict.events


def test_producers_killed_at_any_moment_leave_rows_and_events_that_agree(scene, scale):
    """Rows and events of a transaction are both there or both are not, whenever its process dies."""
    scene.prepare()
    each = max(2, scale.transactions // scale.producer_kills)
    while scene.kills < scale.producer_kills:
        child = scene.start("produce", name=f"p{scene.kills}", transactions=1_000, seed=scene.seed)
        scene.kill(child, within=5 * each)
        scene.verify("producer", delivered=False)
        scene._reports.pop()
    scene.play("deliver", batch=BATCH, lease=LONG)

    verdict = scene.verify("producer, any moment")

    assert 0 == verdict.duplicates


@pytest.mark.parametrize(
    "point",
    [
        "before the effect",
        "after the effect",
        "before the settle",
        "before the commit of the settle",
        "after the settle",
    ],
)
def test_a_worker_killed_at_a_point_loses_nothing(scene, point):
    scene.prepare()
    scene.play("produce", name="p", transactions=25, seed=scene.seed)
    child = scene.start("deliver", batch=5, lease=LONG, die=point)
    assert -9 == scene.nursery.wait(child)
    scene.kills = 1
    scene.play("deliver", batch=5, lease=LONG)

    verdict = scene.verify(f"worker {point}")

    bound = 0 if point == "after the settle" else 5 * len(HANDLERS)
    assert verdict.duplicates <= bound


def test_workers_killed_at_any_moment_lose_nothing(scene, scale):
    """What was in flight is handled again: at most a batch for each kill."""
    scene.prepare()
    scene.play("produce", name="p", transactions=scale.transactions, seed=scene.seed)
    steps = 5 * scale.transactions // scale.worker_kills
    while scene.kills < scale.worker_kills:
        child = scene.start("deliver", batch=BATCH, lease=LONG)
        if not scene.kill(child, within=max(2, steps)):
            break
    scene.play("deliver", batch=BATCH, lease=LONG)

    verdict = scene.verify("worker, any moment")

    assert scene.kills >= scale.worker_kills // 2
    assert verdict.duplicates <= scene.kills * BATCH * len(HANDLERS)


def test_of_two_workers_each_takes_over_when_the_other_is_killed(scene, scale):
    scene.prepare()
    scene.play("produce", name="p", transactions=scale.transactions, seed=scene.seed)
    kills = max(4, scale.worker_kills // 2)
    workers = [scene.start("deliver", batch=BATCH, lease=LONG) for _ in range(2)]
    while scene.kills < kills and (works := scene.nursery.watch_any(workers, scene.chance.randint(1, 60))):
        scene.kill(works, within=1)
        workers.remove(works)
        workers.append(scene.start("deliver", batch=BATCH, lease=LONG))
    for worker in workers:
        assert 0 == scene.nursery.wait(worker)

    verdict = scene.verify("two workers")

    assert kills == scene.kills
    assert verdict.duplicates <= scene.kills * BATCH * len(HANDLERS)


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing_when_it_goes_on(scene):
    """It stops in the middle of its first batch, and another one does everything. Then it ends that batch, and finds
    that the lease is lost: what it wanted to set aside is not, or it would be handled once more."""
    scene.prepare()
    scene.play("produce", name="p", transactions=25, seed=scene.seed)
    stopped = scene.start("deliver", batch=20, lease=SHORT, die="after the effect", of="SIGSTOP", retried=3)
    scene.nursery.watch_for(stopped, "reached")
    scene.play("deliver", batch=20, lease=SHORT, retried=3)
    os.kill(stopped, signal.SIGCONT)
    assert 0 == scene.nursery.wait(stopped)

    verdict = scene.verify("worker stopped")

    late = [attempt for _, _, _, attempt, pid in scene.ledger.read("effect") if pid == str(stopped)]
    assert {"1"} == set(late)
    assert verdict.duplicates == len(late) <= 20 * len(HANDLERS)


def test_writers_that_roll_back_at_random_leave_no_event_of_it_and_keep_the_order_of_each_record(scene, scale):
    """Several processes with several threads each write, while a worker delivers what is there."""
    scene.prepare(counters=5)
    writers = [
        scene.start("produce", name=f"w{number}", transactions=scale.written, threads=2, seed=scene.seed)
        for number in range(scale.writers)
    ]
    beside = scene.start("deliver", batch=BATCH, lease=LONG)
    for child in (*writers, beside):
        assert 0 == scene.nursery.wait(child)
    scene.play("deliver", batch=BATCH, lease=LONG)

    verdict = scene.verify("writers with rollbacks")

    assert 0 == verdict.duplicates


# --- a disk that is full ---


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
def test_a_full_disk_refuses_loudly_keeps_what_is_committed_and_resumes(tmp_path, caplog):
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
            assert 0 == sum(db.drain(timeout=0.3).values())
        assert 1 == len(warnings(caplog))

        disk.holds(1_073_741_823)
        pages.append(Page(text="x" * 5_000).save())
        counts = db.drain()

    assert {"done": len(pages), "retry": len(pages), "dead": 0, "skipped": 0} == counts
    assert sorted(page.id for page in pages) == sorted(handled)
    assert 2 * len(pages) == len(tried), "what was run before the disk was full is not run again"


def on_file(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchone()[0]


def warnings(caplog):
    return [
        record for record in caplog.records if record.name == "earnorm.worker" and record.levelno >= logging.WARNING
    ]
