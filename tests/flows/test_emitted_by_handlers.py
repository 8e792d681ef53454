"""What a durable handler emits outside a transaction is appended when the handler settles, once."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from earnorm import BaseModel, StringField, aemit, connect, emit, event_handler, event_handler_async, on_event
from earnorm.errors import RetryLater
from earnorm.telemetry import Appended, listen


def names_in(db):
    with db.engine.connect() as connection:
        return list(connection.scalars(text("SELECT name FROM earnorm_log ORDER BY position")))


class Fails:
    """A handler's mind: to ask for another attempt, once."""

    def __init__(self):
        self.left = 1

    def __call__(self):
        if self.left:
            self.left -= 1
            raise RetryLater(0)


def test_a_redelivery_repeats_nothing(db):
    fails, handles, heard = Fails(), [], []

    @event_handler("shop.opened", name="opened")
    def opened(event):
        handles.append(emit("shop.lit", lamps=3))
        fails()

    @event_handler("shop.lit", name="lit")
    def lit(event):
        heard.append((event.id, event.payload["lamps"], event.causation_id))

    origin = emit("shop.opened")
    db.drain()

    assert ["shop.opened", "shop.lit"] == names_in(db)
    assert 2 == len(handles)
    assert [(handles[1].id, 3, origin.id)] == heard


@pytest.mark.expect_failures
def test_what_a_handler_emitted_before_it_failed_for_good_never_was(db):
    @event_handler("shop.opened", name="opened")
    def opened(event):
        emit("shop.lit")
        emit("shop.lit", lamps=float("nan"))

    emit("shop.opened")
    counts = db.drain()

    assert 1 == counts["dead"]
    assert ["shop.opened"] == names_in(db)


async def test_an_async_handler_emits_with_its_settle_too(url):
    fails = Fails()

    @event_handler_async("shop.opened", name="opened")
    async def opened(event):
        await aemit("shop.lit")
        fails()

    async with connect(url, worker=False) as db:
        await aemit("shop.opened")
        await db.adrain()

        assert ["shop.opened", "shop.lit"] == names_in(db)


def test_about_a_record_as_well_and_in_the_order_they_were_emitted(db):
    class Lamp(BaseModel):
        name = StringField()

    fails = Fails()

    @event_handler("lamp.created", name="created")
    def created(lamp):
        lamp.emit("switched_on")
        lamp.emit("switched_off")
        fails()

    Lamp(name="desk").save()
    db.drain()

    assert ["lamp.created", "lamp.switched_on", "lamp.switched_off"] == names_in(db)


def test_in_a_transaction_of_the_handlers_own_it_commits_with_that(db):
    fails = Fails()

    @event_handler("shop.opened", name="opened")
    def opened(event):
        with db.transaction():
            emit("shop.lit")
        fails()

    emit("shop.opened")
    db.drain()

    assert ["shop.opened", "shop.lit", "shop.lit"] == names_in(db)


def test_handlers_of_the_transaction_run_at_once(db):
    class Lamp(BaseModel):
        name = StringField()

        @on_event("switched")
        def seen(self):
            order.append("in the transaction")

    order = []

    @event_handler("lamp.created", name="created")
    def created(lamp):
        lamp.emit("switched")
        order.append("after emit")

    Lamp(name="desk").save()
    db.drain()

    assert ["in the transaction", "after emit"] == order


def test_a_handler_registered_by_another_hears_what_that_one_emits(db):
    heard = []

    @event_handler("shop.opened", name="opened")
    def opened(event):
        event_handler("shop.lit", name="lit")(lambda event: heard.append(event.name))
        emit("shop.lit")

    emit("shop.opened")
    db.drain()

    assert ["shop.lit"] == heard


def test_that_it_was_appended_is_told_once_it_is(db):
    told = []

    @event_handler("shop.opened", name="opened")
    def opened(event):
        emit("shop.lit")
        told.append("handler over")

    emit("shop.opened")
    undo = listen(lambda record: told.append(record.event.name), Appended)
    try:
        db.drain()
    finally:
        undo()

    assert ["handler over", "shop.lit"] == told


def test_muted_it_is_nowhere_and_captured_it_is_seen_once(db):
    @event_handler("shop.opened", name="opened")
    def opened(event):
        emit("shop.lit")

    with db.bus.capture("shop.lit") as seen:
        emit("shop.opened")
        db.drain()

    assert ["shop.lit"] == [event.name for event in seen]
