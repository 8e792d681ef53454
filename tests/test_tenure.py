"""A tenure takes over at once from a process of this host that is gone, and from nobody else."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.clock import VirtualClock
from earnorm.tenure import Tenure


@pytest.fixture
def clock():
    return VirtualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def held_by(store, worker):
    with store.begin() as transaction:
        return transaction.claim(worker, 10)


def worker_of(pid, clock, store):
    """The name a worker of process `pid` on this host has."""
    place, _, token = Tenure(store, clock, 10).worker.rsplit("/", 2)
    return f"{place}/{pid}/{token}"


@pytest.fixture
def dead():
    """The id of a process that has ended and been waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_process_of_this_host_that_is_gone_is_taken_over_from_at_once(store, clock, dead):
    before = held_by(store, worker_of(dead, clock, store))
    tenure = Tenure(store, clock, 10)

    assert tenure.take()
    assert tenure.lease is not None
    assert tenure.lease.fence > before.fence


def test_a_process_that_lives_keeps_its_lease_until_it_runs_out(store, clock):
    held_by(store, worker_of(os.getpid(), clock, store))
    tenure = Tenure(store, clock, 10)

    assert not tenure.take()
    clock.advance(10)
    assert tenure.take()


@pytest.mark.parametrize("name", ["elsewhere:1/{dead}/ab", "ada", "{place}/no-number/ab"])
def test_of_anybody_else_nothing_is_known(store, clock, dead, name):
    place = Tenure(store, clock, 10).worker.rsplit("/", 2)[0]
    held_by(store, name.format(dead=dead, place=place))

    assert not Tenure(store, clock, 10).take()
