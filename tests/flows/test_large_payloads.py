"""Large payloads: however many of them wait, a worker has only so many bytes of them in hand."""

import tracemalloc
from contextlib import contextmanager

import pytest

from earnorm import aemit, emit, event_handler, event_handler_async
from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction

MB = 1024 * 1024
SIZE, COUNT = 200_000, 120


@pytest.fixture
def room(monkeypatch):
    for module in ("agenda", "batch"):
        monkeypatch.setattr(f"earnorm.{module}.ROOM", MB)


@pytest.fixture
def settled(monkeypatch):
    """How many bytes of what handlers emitted each settle has brought."""
    sizes, settle = [], SQLAlchemyTransaction.settle

    def noted(self, settlement):
        sizes.append(sum(len(entry.data) for entry in settlement.emitted))
        settle(self, settlement)

    monkeypatch.setattr(SQLAlchemyTransaction, "settle", noted)
    return sizes


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


@pytest.mark.parametrize("door", ["sync", "async"])
def test_what_handlers_emit_is_settled_as_soon_as_it_takes_much_room(db, room, settled, door):
    """It waits for its handler's settle, and the settle for the other handlers of the window."""
    heard = []

    def scan(*, number):
        emit("scan.stored", number=number, page="x" * SIZE)

    async def ascan(*, number):
        await aemit("scan.stored", number=number, page="x" * SIZE)

    if door == "sync":
        event_handler("shelf.filled", name="scan")(scan)
    else:
        event_handler_async("shelf.filled", name="scan")(ascan)

    @event_handler_async("scan.stored", name="index")
    async def index(*, number, page) -> None:
        heard.append((number, len(page)))

    with db.transaction():
        for number in range(COUNT):
            emit("shelf.filled", number=number)

    assert 2 * COUNT == db.drain()["done"]

    assert SIZE * COUNT <= sum(settled)
    # What ran beside the one that made it full has ended too.
    assert max(settled) < MB + 20 * SIZE
    assert [(number, SIZE) for number in range(COUNT)] == sorted(heard)
