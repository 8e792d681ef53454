"""A tenure takes over at once from a process of this host that is gone, and from nobody else."""

import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.clock import VirtualClock
from earnorm.store import Presence, Registration
from earnorm.tenure import Tenure

MAIL = frozenset({"mail"})


@pytest.fixture
def clock():
    return VirtualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def held_by(store, worker, seconds=10):
    with store.begin() as transaction:
        transaction.subscribe([Registration(name="mail")])
        expires = transaction.now() + timedelta(seconds=seconds)
        # Of two that know as much a dedicated one goes before.
        transaction.enter(Presence(worker=worker, expires=expires, knows=MAIL, dedicated=True))
        (cursor,) = transaction.cursors()
        return transaction.take(cursor, worker)


def worker_of(pid, clock, store):
    """The name a worker of process `pid` on this host has."""
    place, _, token = Tenure(store, clock, 10).worker.rsplit("/", 2)
    return f"{place}/{pid}/{token}"


def looked(tenure):
    tenure.look(MAIL)
    return tenure.held


@pytest.fixture
def dead():
    """The id of a process that has ended and been waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_process_of_this_host_that_is_gone_is_taken_over_from_at_once(store, clock, dead):
    before = held_by(store, worker_of(dead, clock, store))
    (lease,) = looked(Tenure(store, clock, 10))

    assert lease.fence > before.fence
    assert 1 == lease.deaths


def test_a_process_that_lives_keeps_its_lease_until_it_runs_out(store, clock):
    held_by(store, worker_of(os.getpid(), clock, store))
    tenure = Tenure(store, clock, 10)

    assert [] == looked(tenure)
    clock.advance(10)
    assert 1 == len(looked(tenure))


@pytest.mark.parametrize("name", ["elsewhere:1/{dead}/ab", "ada", "{place}/no-number/ab"])
def test_of_anybody_else_nothing_is_known(store, clock, dead, name):
    place = Tenure(store, clock, 10).worker.rsplit("/", 2)[0]
    held_by(store, name.format(dead=dead, place=place))

    assert [] == looked(Tenure(store, clock, 10))


def test_while_handlers_run_it_says_that_it_is_alive(store, clock):
    held_by(store, "ada", 0)
    tenure = Tenure(store, clock, 9)
    looked(tenure)
    for _ in range(10):
        clock.advance(3)
        tenure.keep()

    with store.begin() as transaction:
        assert [(tenure.worker, clock.now() + timedelta(seconds=9))] == [
            (worker.worker, worker.expires) for worker in transaction.workers()
        ]


def test_one_that_was_buried_comes_back_under_a_new_fence(store, clock):
    held_by(store, "ada", 0)
    tenure = Tenure(store, clock, 9)
    looked(tenure)
    clock.advance(9)
    with store.begin() as transaction:
        assert transaction.bury(tenure.worker)
    (before,) = tenure.held
    tenure.keep()
    (after,) = looked(tenure)

    assert before.fence < after.fence


class Undertaker:
    """A store in which somebody is buried between two transactions of another, once."""

    divides = True

    def __init__(self, store, clock):
        self.store = store
        self.clock = clock
        self.patient = None
        self.left_behind = []

    @contextmanager
    def begin(self, *, readonly=False):
        with self.store.begin(readonly=readonly) as transaction:
            yield transaction
            there = {presence.worker for presence in transaction.workers()}
            self.left_behind += [c for c in transaction.cursors() if c.worker and c.worker not in there]
        if readonly and self.patient:
            patient, self.patient = self.patient, None
            self.clock.advance(9)
            with self.store.begin() as transaction:
                assert transaction.bury(patient)


def test_one_that_was_buried_before_it_takes_anything_comes_back_first(store, clock):
    """It stood still between its look and its taking. A lease of one that is not there could never be taken over."""
    with store.begin() as transaction:
        transaction.subscribe([Registration(name="mail")])
    undertaker = Undertaker(store, clock)
    tenure = Tenure(undertaker, clock, 9)
    undertaker.patient = tenure.worker

    assert [tenure.worker] == [cursor.worker for cursor in looked(tenure)]
    assert [] == undertaker.left_behind


def test_resting_it_holds_nothing_and_stays_in_sight(store, clock):
    held_by(store, "ada", 0)
    tenure = Tenure(store, clock, 9)
    looked(tenure)
    tenure.rest()

    with store.begin() as transaction:
        assert [""] == [cursor.worker for cursor in transaction.cursors()]
        assert [(tenure.worker, True)] == [(worker.worker, worker.idle) for worker in transaction.workers()]


def test_two_share_and_one_that_leaves_is_replaced(store, clock):
    held_by(store, "ada", 0)
    one, other = Tenure(store, clock, 9), Tenure(store, clock, 9)
    looked(one)
    looked(other)
    looked(one)

    assert [32, 32] == [sum(c.last - c.first + 1 for c in looked(tenure)) for tenure in (other, one)]
    one.leave()
    assert [(0, 63)] == [cursor.slots for cursor in looked(other)]


class Racing(Undertaker):
    """A store in which another worker takes what is free, between this one's look and its taking, once."""

    def __init__(self, store, clock, other):
        super().__init__(store, clock)
        self.other = other

    @contextmanager
    def begin(self, *, readonly=False):
        with self.store.begin(readonly=readonly) as transaction:
            yield transaction
        if readonly and self.other:
            other, self.other = self.other, None
            looked(other)


def test_one_that_was_beaten_to_it_takes_what_the_quicker_one_has_left_at_once(store, clock):
    """It held nothing until its next look, and rested meanwhile, more than a second of a backlog of two."""
    with store.begin() as transaction:
        transaction.subscribe([Registration(name="mail")])
    other = Tenure(store, clock, 9)
    tenure = Tenure(Racing(store, clock, other), clock, 9)

    assert [32, 32] == [sum(c.last - c.first + 1 for c in cursors) for cursors in (looked(tenure), looked(other))]


def test_one_that_has_come_is_short_until_the_others_have_let_go(store, clock):
    held_by(store, "ada", 0)
    one, other = Tenure(store, clock, 9), Tenure(store, clock, 9)

    assert ([(0, 63)], False) == ([cursor.slots for cursor in looked(one)], one.is_short)
    assert ([], True) == (looked(other), other.is_short)
    looked(one)
    looked(other)
    assert (False, False) == (one.is_short, other.is_short)
