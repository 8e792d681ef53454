"""Large payloads: however many of them wait, a worker has only so many bytes of them in hand."""

import tracemalloc
from contextlib import contextmanager

import pytest

from earnorm import emit, event_handler_async

MB = 1024 * 1024
SIZE, COUNT = 200_000, 120


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr("earnorm.agenda.ROOM", MB)


@contextmanager
def at_most(size):
    """Inside, no more is allocated at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak / MB:.1f} MB"


def test_a_backlog_of_them_is_read_as_far_as_there_is_room(db, room):
    heard = []

    @event_handler_async("scan.stored", name="index")
    async def index(*, number, page) -> None:
        heard.append((number, len(page)))

    for number in range(COUNT):
        emit("scan.stored", number=number, page="x" * SIZE)

    with at_most(10 * MB):
        assert COUNT == db.drain()["done"]

    assert [(number, SIZE) for number in range(COUNT)] == sorted(heard)


def test_those_set_aside_are_taken_up_as_far_as_there_is_room(db, room):
    heard = []

    @event_handler_async("scan.stored", name="index", delay="1ms")
    async def index(*, number, page) -> None:
        heard.append((number, len(page)))

    for number in range(COUNT):
        emit("scan.stored", number=number, page="x" * SIZE)

    with at_most(10 * MB):
        while len(heard) < COUNT:
            db.drain()

    assert [(number, SIZE) for number in range(COUNT)] == sorted(heard)


def test_small_ones_and_large_ones_are_all_heard(db, room):
    heard = []

    @event_handler_async("scan.stored", name="index")
    async def index(*, number, page) -> None:
        heard.append(number)

    for number in range(COUNT):
        emit("scan.stored", number=number, page="x" * (SIZE if number % 7 == 3 else 1))

    db.drain()

    assert list(range(COUNT)) == sorted(heard)
