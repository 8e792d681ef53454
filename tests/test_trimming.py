"""Trimming, on a clock that a test moves: what goes, when, and that a failure harms nobody."""

import logging
from contextlib import contextmanager
from datetime import timedelta
from random import Random
from uuid import uuid4

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.bus import EventBus
from earnorm.clock import VirtualClock
from earnorm.emission import IdempotencyKey
from earnorm.errors import ConnectionLost
from earnorm.runner import Hydrated, Runner
from earnorm.testing._store_verbs import NOON, append, append_entries, entry, read_all, subscribe
from earnorm.trimming import Trimming
from earnorm.worker import Worker

DAY = 86_400.0


@pytest.fixture
def clock():
    return VirtualClock(NOON)


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


@pytest.fixture
def trimming(store, clock):
    return Trimming(store, DAY, clock=clock, random=Random(7))


def until_due(trimming, clock):
    clock.advance(trimming.left() + 0.001)


def test_old_events_go_once_their_time_has_come(store, trimming, clock):
    append(store, "old")
    clock.advance(DAY + 1)
    append_entries(store, entry("young", at=clock.now()))

    trimming.step()

    assert ["young"] == [e.name for e in read_all(store)]


def test_nothing_is_done_before_its_time(store, trimming, clock):
    append_entries(store, entry("old", at=NOON - timedelta(days=9)))
    assert 0 < trimming.left() <= 600
    trimming.step()
    assert 1 == len(read_all(store))

    until_due(trimming, clock)
    trimming.step()
    assert [] == read_all(store)


def test_what_is_waited_for_stays_until_it_was_passed(store, trimming, clock):
    subscribe(store, "mail")
    append(store, "waited for")
    clock.advance(3 * DAY)

    trimming.step()

    assert ["waited for"] == [e.name for e in read_all(store)]


def test_much_goes_in_batches_with_a_rest_between_them(store, trimming, clock):
    append(store, *["old"] * 2_500)
    clock.advance(2 * DAY)
    left = []
    for _ in range(3):
        trimming.step()
        left.append(len(read_all(store)))
        assert 0 < trimming.left() < 1
        until_due(trimming, clock)

    assert [1_500, 500, 0] == left
    trimming.step()
    assert 600 <= trimming.left() <= 1200


def test_idempotency_keys_go_when_they_are_as_old(store, trimming, clock):
    keep(store, "old", NOON)
    clock.advance(DAY + 1)
    keep(store, "young", clock.now())

    trimming.step()

    with store.begin() as t:
        assert (None, "young") == (t.reserved("", "n", "old"), t.reserved("", "n", "young").text)


def keep(store, text, at):
    with store.begin() as t:
        t.reserve([IdempotencyKey(tenant="", name="n", text=text, event=uuid4(), digest=b"", at=at)])


class Failing:
    """A store that gives what it is told to, instead of a transaction."""

    def __init__(self):
        self.error = None
        self.tries = 0

    @contextmanager
    def begin(self, *, readonly=False):
        self.tries += 1
        raise self.error
        yield


def test_a_failure_is_told_once_in_a_row_and_tried_again_later(clock, caplog):
    store = Failing()
    store.error = OSError("permission denied")
    trimming = Trimming(store, DAY, clock=clock)
    with caplog.at_level(logging.WARNING, "earnorm.worker"):
        for _ in range(3):
            until_due(trimming, clock)
            trimming.step()
            assert trimming.left() == pytest.approx(60)

    assert 3 == store.tries
    assert ["old events cannot be removed from the log; trying again"] == [r.getMessage() for r in caplog.records]


def test_a_lost_connection_is_the_workers_to_know_of(clock):
    """Behind the next connection may stand a server that gives positions out again."""
    store = Failing()
    store.error = ConnectionLost("gone")
    trimming = Trimming(store, DAY, clock=clock)
    until_due(trimming, clock)

    with pytest.raises(ConnectionLost):
        trimming.step()
    assert trimming.left() == pytest.approx(60)


def test_a_worker_trims_between_its_passes(store, trimming, clock):
    bus = EventBus()
    runner = Runner(bus, lambda entry, event: Hydrated(), lambda entry, attempt: None)
    worker = Worker(bus, store, runner, clock=clock, trimming=trimming)
    append(store, "old")
    clock.advance(2 * DAY)

    worker.run_once()

    assert [] == read_all(store)
    worker.stop()
