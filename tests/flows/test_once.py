"""Emitted once: of all emits of an event name under one idempotency key the first alone happens."""

import multiprocessing
from dataclasses import dataclass

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from earnorm import (
    BaseModel,
    Emit,
    IntegerField,
    StringField,
    aemit,
    connect,
    emit,
    event_handler,
    event_handler_async,
    event_type,
    on_event,
    tenant,
)
from earnorm.errors import KeyReused, NotConnected, RetryLater
from tests.flows.stories import log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@pytest.fixture
def Order(db):
    class Order(BaseModel):
        label = StringField(default="x")
        paid = IntegerField(default=0)

        @on_event("paid")
        def pay(self, amount):
            self.paid += amount
            self.save()

    db.ready()
    return Order


def test_a_repetition_appends_nothing_and_gives_the_first_ones_handle(db):
    first = emit("shop.opened", None, Emit(key="r1"), by="Ada", at_desk=3)
    again = emit("shop.opened", None, Emit(key="r1"), at_desk=3, by="Ada")

    assert ["shop.opened"] == names(db)
    assert first.id == again.id == log(db)[0].id
    assert [False, True] == [first.repeated, again.repeated]


def test_within_one_transaction_too(db):
    with db.transaction():
        first = emit("shop.opened", None, Emit(key="r1"))
        again = emit("shop.opened", None, Emit(key="r1"))
        known = (first.id, again.id, again.repeated)
    db.drain()

    assert (first.id, first.id, True) == known
    assert ["shop.opened"] == names(db)


async def test_and_at_the_async_door(url):
    async with connect(url, worker=False) as db:
        first = await aemit("shop.opened", None, Emit(key="r1"))
        async with db.transaction():
            again = await aemit("shop.opened", None, Emit(key="r1"))

        assert (first.id, True) == (again.id, again.repeated)
        assert ["shop.opened"] == names(db)


def test_handlers_of_the_transaction_run_once(Order):
    order = Order().save()
    order.emit("paid", Emit(key="r1"), amount=3)
    order.emit("paid", Emit(key="r1"), amount=3)

    assert 3 == Order.get(order.id).paid


def test_a_typed_event_takes_options_too(db):
    @event_type("shop.sold")
    @dataclass(frozen=True)
    class Sold:
        total: int

    class Shop(BaseModel):
        name = StringField()

    shop = Shop(name="corner").save()
    first = shop.emit(Sold(total=3), Emit(key="r1"))
    again = shop.emit(Sold(total=3), Emit(key="r1"))

    assert first.id == again.id
    with pytest.raises(KeyReused):
        shop.emit(Sold(total=4), Emit(key="r1"))


def test_a_key_says_one_thing_about_one_record(Order):
    one, other = Order().save(), Order().save()
    first = one.emit("paid", Emit(key="r1"), amount=3)

    for record, amount in ((one, 4), (other, 3)):
        with pytest.raises(KeyReused, match=f"order.paid: the key 'r1' belongs to event {first.id}"):
            record.emit("paid", Emit(key="r1"), amount=amount)
    assert (3, 0) == (Order.get(one.id).paid, Order.get(other.id).paid)


def test_a_key_says_one_thing_within_a_transaction(db):
    with db.transaction():
        emit("shop.opened", None, Emit(key="r1"), by="Ada")
        with pytest.raises(KeyReused):
            emit("shop.opened", None, Emit(key="r1"), by="Bob")

    assert [{"by": "Ada"}] == [event.payload for event in log(db)]


def test_a_key_is_of_one_event_name_and_one_tenant(db):
    handles = [emit("shop.opened", None, Emit(key="r1")), emit("shop.closed", None, Emit(key="r1"))]
    with tenant("acme"):
        handles += [emit("shop.opened", None, Emit(key="r1")), emit("shop.opened", None, Emit(key="r1"))]

    assert [False, False, False, True] == [handle.repeated for handle in handles]


# --- what was rolled back ---


def test_a_key_goes_with_its_transaction(db):
    with pytest.raises(ZeroDivisionError), db.transaction():
        emit("shop.opened", None, Emit(key="r1"), by="Ada")
        raise ZeroDivisionError

    assert not emit("shop.opened", None, Emit(key="r1"), by="Bob").repeated
    assert [{"by": "Bob"}] == [event.payload for event in log(db)]


def test_and_with_its_savepoint(db):
    with db.transaction():
        with pytest.raises(ZeroDivisionError), db.transaction():
            emit("shop.opened", None, Emit(key="r1"), by="Ada")
            raise ZeroDivisionError
        again = emit("shop.opened", None, Emit(key="r1"), by="Bob")

    assert not again.repeated
    assert [{"by": "Bob"}] == [event.payload for event in log(db)]


def test_a_veto_leaves_the_key(db):
    class Door(BaseModel):
        tries = IntegerField(default=0)

        @on_event("knocked")
        def refuse(self, name):
            if name == "nobody":
                raise ZeroDivisionError

    door = Door().save()
    with db.transaction():
        with pytest.raises(ZeroDivisionError):
            door.emit("knocked", Emit(key="r1"), name="nobody")
        again = door.emit("knocked", Emit(key="r1"), name="Ada")

    assert not again.repeated


# --- emitted by durable handlers ---


def test_a_durable_handler_emits_once_across_its_events(db):
    @event_handler("shop.opened", name="greet")
    def greet(event):
        seen.append(emit("shop.greeted", None, Emit(key="today")))
        seen.append(emit("shop.greeted", None, Emit(key="today")))

    emit("shop.opened")
    db.drain()
    emit("shop.opened")
    db.drain()

    assert ["shop.opened", "shop.greeted", "shop.opened"] == names(db)
    assert 1 == len({handle.id for handle in seen})
    assert [False, True, True, True] == [handle.repeated for handle in seen]


def test_handlers_of_one_batch_that_use_one_key_append_one_event(db):
    @event_handler("shop.opened", name="greet", ordered=False)
    def greet(event):
        emit("shop.greeted", None, Emit(key="today"))

    with db.transaction():
        for _ in range(5):
            emit("shop.opened")
    db.drain()

    assert 1 == names(db).count("shop.greeted")


def test_an_attempt_that_failed_leaves_the_key(db):
    @event_handler("shop.opened", name="greet")
    def greet(event):
        seen.append(emit("shop.greeted", None, Emit(key="today")).repeated)
        if event.attempt == 1:
            raise RetryLater(0)

    emit("shop.opened")
    db.drain()

    assert [False, False] == seen
    assert ["shop.opened", "shop.greeted"] == names(db)


async def test_an_async_one_too(url):
    @event_handler_async("shop.opened", name="greet")
    async def greet(event):
        seen.append((await aemit("shop.greeted", None, Emit(key="today"))).repeated)

    async with connect(url, worker=False) as db:
        for _ in range(2):
            await aemit("shop.opened")
            await db.adrain()

        assert [False, True] == seen
        assert ["shop.opened", "shop.greeted", "shop.opened"] == names(db)


# --- by several processes ---


def _emit_all(url, keys, go):
    with connect(url, worker=False) as db:
        db.ready()
        go.wait(30)
        for start in range(0, len(keys), 5):
            with db.transaction():
                for key in keys[start : start + 5]:
                    emit("shop.opened", None, Emit(key=key))


def test_processes_that_emit_the_same_keys_in_opposite_orders_append_each_once(db, url):
    keys = [f"r{number}" for number in range(40)]
    db.ready()
    spawn = multiprocessing.get_context("spawn")
    go = spawn.Event()
    processes = [spawn.Process(target=_emit_all, args=(url, some, go)) for some in (keys, keys[::-1], keys)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)

    assert [0, 0, 0] == [process.exitcode for process in processes]
    assert 40 == len(names(db))


# --- watched and muted ---


def test_a_repetition_is_captured_by_nobody(db):
    with db.bus.capture("shop.*") as captured:
        for _ in range(2):
            emit("shop.opened", None, Emit(key="r1"))

    assert ["shop.opened"] == [event.name for event in captured]


def test_what_is_muted_leaves_the_key(db):
    with db.bus.muted("shop.*", reason="a test"):
        emit("shop.opened", None, Emit(key="r1"), by="Ada")

    assert not emit("shop.opened", None, Emit(key="r1"), by="Bob").repeated


# --- what is kept ---


def test_a_log_of_what_is_subscribed_keeps_it_all_the_same(url):
    with connect(url, worker=False, log="subscribed") as db:
        first = emit("shop.opened", None, Emit(key="r1"))
        again = emit("shop.opened", None, Emit(key="r1"))
        emit("shop.closed")

        assert ["shop.opened"] == names(db)
        assert (first.id, {}) == (again.id, first.outcomes())


def test_without_a_database_a_record_s_events_have_keys_in_this_process(db, Order):
    order = Order().save()
    db.close()
    event_handler("order.packed", name="packed")(lambda order, by: seen.append(by))
    handles = [order.emit("packed", Emit(key="r1"), by="Ada") for _ in range(2)]

    assert (["Ada"], handles[0].id) == (seen, handles[1].id)


def test_without_a_database_a_transaction_knows_no_key(path):
    class Lamp(BaseModel):
        name = StringField()

    engine = create_engine(f"sqlite:///{path}")
    Lamp.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        lamp = Lamp(name="desk")
        session.add(lamp)
        session.flush()
        with pytest.raises(NotConnected, match=r"lamp\.lit is emitted once or for later, which only a log remembers"):
            lamp.emit("lit", Emit(key="r1"))
    engine.dispose()
