"""Malformed payloads and rows beside a healthy stream: no worker dies of them, and nobody healthy waits for them."""

import time
from random import Random

import pytest
from sqlalchemy import insert

import earnorm
from earnorm import connect, event_handler
from earnorm.backends.sqlalchemy import tables
from earnorm.errors import EarnORMError
from tests.chaos import oddities
from tests.chaos.conftest import FULL

pytestmark = [pytest.mark.expect_failures, pytest.mark.filterwarnings("ignore")]

# The seeds.
ROWS, PAYLOADS = 7, 11
TICK = 0.01
# What of a healthy stream is handled as it comes, as a part of what usually is.
KEPT = 0.8


@pytest.fixture
def heard():
    """What was sent to the healthy handler, and what the two were given."""
    sent, healthy, odd = [], [], []

    @event_handler("healthy.sent", name="healthy")
    def on_healthy(event):
        healthy.append(event.payload["number"])

    @event_handler("odd.*", name="odd", retry=1)
    def on_odd(event):
        odd.append(event.id)

    return sent, healthy, odd


def stream(db, seconds, heard, rows):
    """Emit for so long, writing these rows meanwhile; the part of what was sent that was handled by its end."""
    sent, healthy, _ = heard
    until, already, done = time.monotonic() + seconds, len(sent), len(healthy)
    each = int(len(rows) / (seconds / TICK)) + 1
    while time.monotonic() < until:
        earnorm.emit("healthy.sent", number=len(sent))
        sent.append(len(sent))
        some, rows = rows[:each], rows[each:]
        if some:
            with db.engine.begin() as connection:
                connection.execute(insert(tables.log), some)
        time.sleep(TICK)
    return (len(healthy) - done) / (len(sent) - already)


def test_malformed_rows_are_parked_and_the_healthy_stream_keeps_its_rate(place, scale, heard, reported):
    sent, healthy, _ = heard
    seconds = 10.0 if FULL else 0.5
    chance = Random(ROWS)
    rows = [oddities.row(chance) for _ in range(scale.malformed // 2)]
    with connect(place[1], worker=True) as db:
        db.drain()
        usual = stream(db, seconds, heard, [])
        beside = stream(db, seconds, heard, rows)
        db.drain(timeout=60)
        with db.store.begin(readonly=True) as transaction:
            parked = transaction.deliveries()
            waiting = transaction.waiting()

    lost, twice = len(set(sent) - set(healthy)), len(healthy) - len(set(healthy))
    reported(place[0], "malformed rows", events=len(sent) + len(rows), lost=lost, duplicates=twice, seed=ROWS)
    assert {} == waiting
    assert {"odd"} == {delivery.subscription for delivery in parked}
    assert {"dead"} == {delivery.state for delivery in parked}
    assert sorted(sent) == sorted(healthy), "each once"
    if FULL:
        assert beside >= KEPT * usual


def test_malformed_payloads_are_refused_where_they_are_emitted_or_come_through(place, scale, heard, reported):
    _, _, odd = heard
    chance = Random(PAYLOADS)
    accepted = refused = 0
    with connect(place[1], worker=False) as db:
        db.ready()
        for _ in range(scale.malformed // 2):
            value = oddities.payload(chance)
            try:
                earnorm.emit("odd.sent", value=value)
            except EarnORMError:
                refused += 1
            else:
                accepted += 1
        counts = db.drain(timeout=60)
        while counts["done"] < accepted and sum(more := db.drain(timeout=60).values()):
            counts["done"] += more
        with db.store.begin(readonly=True) as transaction:
            assert [] == transaction.deliveries()

    lost, twice = accepted - len(set(odd)), len(odd) - len(set(odd))
    reported(place[0], "malformed payloads", events=accepted + refused, lost=lost, duplicates=twice, seed=PAYLOADS)
    assert refused
    assert (0, 0) == (lost, twice)
