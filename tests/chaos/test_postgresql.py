"""Chaos on PostgreSQL: processes are killed, backends ended, and the ledger says what became of it."""

import threading

import pytest

from tests import postgresql as postgres
from tests.chaos.ledger import HANDLERS

BATCH = 20
LONG = 30.0


@pytest.fixture
def place():
    # A database of its own, so that its backends are known by it.
    with postgres.database() as url:
        yield "PostgreSQL", url.render_as_string(hide_password=False)


def test_producers_killed_at_any_moment_leave_rows_and_events_that_agree(scene, scale):
    scene.prepare()
    each = max(2, scale.transactions // scale.producer_kills)
    while scene.kills < scale.producer_kills:
        child = scene.start("produce", name=f"p{scene.kills}", transactions=1_000, seed=scene.seed)
        scene.kill(child, within=5 * each)
    scene.play("deliver", batch=BATCH, lease=LONG)

    verdict = scene.verify("producer, any moment")

    assert 0 == verdict.duplicates


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


def test_many_writers_that_roll_back_at_random_leave_nothing_out_and_keep_the_order_of_each_record(scene, scale):
    """Their commits overlap, as they cannot on SQLite, while a worker follows: nobody's events may be stepped over."""
    scene.prepare(counters=5)
    writers = [
        scene.start("produce", name=f"w{number}", transactions=scale.written, threads=4, seed=scene.seed)
        for number in range(scale.writers)
    ]
    beside = scene.start("deliver", batch=BATCH, lease=LONG)
    for child in (*writers, beside):
        assert 0 == scene.nursery.wait(child)
    scene.play("deliver", batch=BATCH, lease=LONG)

    verdict = scene.verify("writers with rollbacks")

    assert 0 == verdict.duplicates


def test_a_worker_whose_connections_are_ended_again_and_again_loses_nothing(scene, scale):
    scene.prepare()
    scene.play("produce", name="p", transactions=scale.transactions, seed=scene.seed)
    name = scene.url.rpartition("/")[2]
    child = scene.start("deliver", batch=5, lease=LONG)
    done = threading.Event()

    def end_them():
        while not done.wait(0.05) and scene.kills < scale.worker_kills:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            scene.kills += bool(postgres.admin().execute(ended, [name]).fetchall())

    # Opening a database needs it to be there; from its first effect on the worker has to bear with this.
    assert scene.nursery.watch(child, 1)
    ender = threading.Thread(target=end_them)
    ender.start()
    code = scene.nursery.wait(child)
    done.set()
    ender.join()

    assert 0 == code
    verdict = scene.verify("connections ended")
    assert verdict.duplicates <= scene.kills * 5 * len(HANDLERS)
