"""Processes are killed with SIGKILL at any moment, or stopped past their lease; the ledger says what became of it."""

import os
import signal

import pytest

from tests.chaos.ledger import HANDLERS, stored

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
    scene.moments = []
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

    # Also after the settle of one: transactional handlers run beside the turns, each with a settle of its own.
    assert verdict.duplicates <= 5 * len(HANDLERS)


def test_of_two_workers_killed_at_any_moment_the_other_goes_on_and_nothing_is_lost(scene, scale):
    """What was in flight is handled again: at most a batch for each kill. Half of the handlers are async."""
    scene.prepare()
    scene.play("produce", name="p", transactions=scale.transactions, seed=scene.seed)
    steps = 5 * scale.transactions // scale.worker_kills
    workers = [scene.start("deliver", batch=BATCH, lease=LONG) for _ in range(2)]
    while scene.kills < scale.worker_kills:
        works = scene.nursery.watch_any(workers, scene.chance.randint(1, max(2, steps)))
        if works is None:
            break
        scene.kill(works, within=1)
        workers.remove(works)
        workers.append(scene.start("deliver", batch=BATCH, lease=LONG))
    for worker in workers:
        assert 0 == scene.nursery.wait(worker)
    # Of three deaths in a row somebody is suspected, and tried alone and again.
    scene.play("finish", batch=BATCH, lease=LONG)

    verdict = scene.verify("two workers, any moment")

    assert scene.kills >= scale.worker_kills // 2
    assert verdict.duplicates <= scene.kills * BATCH * len(HANDLERS)


def test_a_handler_that_kills_its_process_ends_as_a_dead_letter_and_the_others_are_done(scene):
    """Three deaths make suspects; then it runs alone, and each death is an attempt of its own."""
    scene.prepare()
    scene.play("produce", name="before", transactions=4, seed=scene.seed)
    scene.play("harm")
    scene.play("produce", name="after", transactions=4, seed=scene.seed)
    codes = [scene.nursery.wait(scene.start("finish", batch=BATCH, lease=LONG))]
    while codes[-1] != 0 and len(codes) < 20:
        codes.append(scene.nursery.wait(scene.start("finish", batch=BATCH, lease=LONG)))
    scene.kills = len(codes) - 1

    ((handler, state, error),) = stored(scene.url).letters
    assert ("deadly", "dead") == (handler, state)
    assert "ProcessDied" in error
    assert {-11} == set(codes[:-1])
    assert scene.kills <= 3 + 2 + 1, "no crash loop"
    scene.verify("a handler that kills", letters=1)


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing_when_it_goes_on(scene, scale):
    """It stops in the middle of its first batch, and another one does everything. Then it ends that batch, and finds
    that the lease is lost: what it wanted to set aside is not, or it would be handled once more."""
    scene.prepare()
    # Who stands still in a transaction has SQLite's one lock, and nobody can overtake it.
    if scene.backend == "SQLite":
        scene.play("pause")
    overtaken = []
    while len(overtaken) < scale.stops:
        scene.play("produce", name=f"p{scene.kills}", transactions=6, seed=scene.seed)
        stopped = scene.start("deliver", batch=20, lease=SHORT, die="after the effect", of="SIGSTOP", retried=7)
        scene.nursery.watch_for(stopped, "reached")
        other = scene.nursery.wait(scene.start("deliver", batch=20, lease=SHORT, retried=7))
        os.kill(stopped, signal.SIGCONT)
        assert 0 == scene.nursery.wait(stopped)
        scene.kills += 1
        # Now and then another thread of it has that lock at that moment all the same.
        if other == 0:
            overtaken.append(str(stopped))
    if scene.backend == "SQLite":
        scene.play("resume")
    scene.play("finish", batch=BATCH, lease=LONG)

    verdict = scene.verify("worker stopped past its lease")

    assert set(overtaken) <= {pid for (pid,) in scene.ledger.read("refused")}
    assert verdict.duplicates <= scene.kills * 20 * len(HANDLERS)
