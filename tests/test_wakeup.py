"""How long a worker rests between two looks, with a wake-up and without."""

import gc
import os
import select
from functools import partial
from itertools import pairwise

import pytest

from earnorm.clock import VirtualClock
from earnorm.wakeup import Bell, Polling
from tests.test_worker import NOON, Rig

pytestmark = pytest.mark.expect_failures


class Resting(VirtualClock):
    """Time passes while a worker rests, and only then. After so many rests it stops."""

    def __init__(self, start):
        super().__init__(start)
        self.rests = []
        self.worker = None
        self.left = 0

    def serve(self, worker, rests):
        """The worker's thread, here; how long it rested each time."""
        self.rests, self.worker, self.left = [], worker, rests
        worker._stopping.clear()
        worker._serve()
        return self.rests

    def wait(self, event, seconds):
        if event is not self.worker._wakeup:
            return super().wait(event, seconds)
        self.rests.append(seconds)
        self.left -= 1
        if self.left <= 0:
            self.worker._stopping.set()
        self.advance(seconds)
        return event.is_set()


@pytest.fixture
def rig():
    made = Rig(Resting(NOON))
    yield made
    for worker in made.workers:
        worker.stop(0)


def test_a_worker_that_would_be_woken_rests_ever_longer(rig):
    rig.on()
    worker = rig.worker(wakeup=Polling(180))

    rests = rig.clock.serve(worker, 20)

    assert [0.05, 0.1, 0.2, 0.4] == rests[:4]
    assert [180, 180, 180] == rests[-3:]


def test_an_idle_hour_costs_some_twenty_passes(rig):
    rig.on()
    worker = rig.worker(wakeup=Polling(180))
    rig.clock.serve(worker, 20)
    before = rig.store.tries

    rig.clock.serve(worker, 20)

    assert rig.store.tries - before <= 20 + 12


def test_without_a_wake_up_it_looks_every_second(rig):
    rig.on()
    worker = rig.worker()

    assert [1, 1, 1] == rig.clock.serve(worker, 9)[-3:]


def test_what_another_worker_holds_is_looked_at_every_second(rig):
    rig.on()
    worker = rig.worker(wakeup=Polling(180))
    rig.append("order:1")
    rig.claim("another", seconds=10_000)

    assert [1, 1, 1] == rig.clock.serve(worker, 9)[-3:]


def test_a_delivery_set_aside_is_run_in_time_however_long_the_rest(rig):
    failed = []

    def fail(event):
        failed.append(rig.clock.monotonic())
        raise RuntimeError("not now")

    rig.on(fail)
    worker = rig.worker(wakeup=Polling(180))
    rig.append("order:1")

    rig.clock.serve(worker, 60)

    waits = [round(later - earlier) for earlier, later in pairwise(failed)]
    # Backoff and its jitter of at most a tenth, and no rest on top.
    assert [True] * 4 == [due <= wait <= 1.11 * due + 1 for due, wait in zip((5, 10, 20, 40), waits, strict=False)]


def test_what_a_worker_appends_itself_is_told_to_others(rig):
    told = []
    polling = Polling(180)
    polling.notify = lambda: told.append(1)

    class Taking:
        left = 1

        def pending(self):
            return bool(self.left)

        def take(self):
            self.left, took = 0, self.left
            return bool(took)

    worker = rig.worker(wakeup=polling, intake=Taking())
    worker.run_once()
    worker.run_once()

    assert [1] == told


# --- the bell ---


def test_a_bell_rung_is_readable_until_that_is_heard_and_set_until_it_is_cleared():
    bell = Bell()
    readable = partial(select.select, [bell.fileno()], [], [], 0)
    assert [] == readable()[0]

    bell.set()
    bell.set()

    assert [bell.fileno()] == readable()[0]
    assert bell.heard()
    assert [] == readable()[0]
    assert bell.is_set()
    bell.clear()
    assert not bell.heard()
    bell.set()
    assert [bell.fileno()] == readable()[0]


def test_a_bell_is_readable_that_was_rung_before_anybody_listened_to_it():
    """Between a worker's last look and its sockets: it slept until the next look, of up to ten seconds."""
    bell = Bell()
    bell.set()

    assert [bell.fileno()] == select.select([bell.fileno()], [], [], 0)[0]


def test_a_bell_that_nobody_has_any_more_leaves_no_socket_behind():
    bell = Bell()
    bell.itself, number = bell, bell.fileno()

    del bell
    gc.collect()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
