"""Emitted for later: durable handlers get the event no earlier than asked for, and nobody waits for it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from earnorm import (
    BaseModel,
    Emit,
    ForeignKeyField,
    StringField,
    aemit,
    connect,
    default_bus,
    emit,
    event_handler,
    event_handler_async,
    on_event,
    post_save_async,
)
from earnorm.clock import VirtualClock
from earnorm.errors import DelayedInProcess, NotConnected, RetryLater
from earnorm.orm import connected
from earnorm.orm.database import Database
from tests.flows.stories import names

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = 3_600

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@pytest.fixture
def clock():
    return VirtualClock(NOON)


def opened(url, clock):
    db = Database(url, worker=False, clock=clock)
    connected.BY_NAME["default"] = db
    default_bus.forget_plans()
    return db


@pytest.fixture
def db(url, clock):
    with opened(url, clock) as db:
        yield db


@pytest.fixture
def Order(db):
    class Order(BaseModel):
        label = StringField(default="x")

    db.ready()
    return Order


def hear(*events, **options):
    @event_handler(*events, name="heard", **options)
    def heard(order, event):
        seen.append((event.name.partition(".")[2], event.payload.get("n")))


@pytest.mark.parametrize("options", [Emit(delay="1h"), Emit(at=NOON + timedelta(hours=1))])
def test_it_is_delivered_when_its_time_has_come(db, clock, options):
    hear("shop.reminded")
    emit("shop.reminded", None, options, n=1)

    early = (db.drain(), list(seen))
    clock.advance(HOUR - 1)
    db.drain()
    still = list(seen)
    clock.advance(1)
    db.drain()

    assert (0, [], []) == (early[0]["done"], early[1], still)
    assert [("reminded", 1)] == seen


def test_a_time_that_has_passed_is_now(db):
    hear("shop.reminded")
    emit("shop.reminded", None, Emit(at=NOON - timedelta(days=1)))

    assert 1 == db.drain()["done"]


def test_no_delay_is_an_ordinary_emit(db):
    hear("shop.reminded")
    emit("shop.reminded", None, Emit(delay=0))

    assert 1 == db.drain()["done"]


def test_the_delay_is_counted_from_the_emit_whenever_it_is_read(db, clock):
    hear("shop.reminded")
    emit("shop.reminded", None, Emit(delay="1h"))
    clock.advance(HOUR)

    assert 1 == db.drain()["done"]


def test_it_is_kept_over_a_restart(url, clock):
    hear("shop.reminded")
    with opened(url, clock) as db:
        emit("shop.reminded", None, Emit(delay="1h"), n=1)
        db.drain()
    clock.advance(HOUR)
    with opened(url, clock) as db:
        db.drain()

    assert [("reminded", 1)] == seen


def test_a_key_and_a_delay_go_together(db, clock):
    hear("shop.reminded")
    for delay in ("1h", "2h"):
        emit("shop.reminded", None, Emit(key="r1", delay=delay), n=1)
    clock.advance(HOUR)
    db.drain()

    assert ["shop.reminded"] == names(db)
    assert [("reminded", 1)] == seen


def test_it_retries_like_any_other(db, clock):
    @event_handler("shop.reminded", name="tries")
    def tries(event):
        seen.append(event.attempt)
        if event.attempt == 1:
            raise RetryLater(60)

    emit("shop.reminded", None, Emit(delay="1h"))
    for seconds in (HOUR, 59, 1):
        db.drain()
        clock.advance(seconds)
    db.drain()

    assert [1, 2] == seen


# --- and the order of its record ---


def test_later_events_of_the_record_do_not_wait_for_it(db, clock, Order):
    hear("order.*", "!order.created")
    order = Order().save()
    order.emit("reminded", Emit(delay="1h"), n=1)
    order.emit("packed", n=2)
    db.drain()
    clock.advance(HOUR)
    order.emit("sent", n=3)
    db.drain()

    assert [("packed", 2)] == seen[:1]
    assert {("reminded", 1), ("sent", 3)} == set(seen[1:])


def test_it_waits_for_no_earlier_event_of_the_record(db, clock, Order):
    @event_handler("order.*", "!order.created", name="heard")
    def heard(order, event):
        seen.append((event.name, event.attempt))
        if event.name == "order.packed":
            raise RetryLater(2 * HOUR)

    order = Order().save()
    order.emit("packed")
    order.emit("reminded", Emit(delay="1h"))
    db.drain()
    clock.advance(HOUR)
    db.drain()

    assert [("order.packed", 1), ("order.reminded", 1)] == seen


def test_two_of_one_record_come_in_the_order_of_their_times(db, clock, Order):
    hear("order.reminded")
    order = Order().save()
    for n, delay in enumerate(["3h", "1h", "2h"], 1):
        order.emit("reminded", Emit(delay=delay), n=n)
    db.drain()
    clock.advance(3 * HOUR)
    db.drain()

    assert [("reminded", 2), ("reminded", 3), ("reminded", 1)] == seen


# --- who hears it ---


def test_what_hears_it_at_once_refuses_it(db, Order):
    event_handler("order.reminded", name="inside", delivery="transaction")(lambda order: seen.append("inside"))
    event_handler("**", name="behind", delivery="after_commit")(lambda order: seen.append("behind"))
    hear("order.reminded")
    order = Order().save()
    seen.clear()

    with pytest.raises(DelayedInProcess, match="behind, inside would hear it at once") as refused:
        order.emit("reminded", Emit(delay="1h"))

    assert ("behind", "inside") == refused.value.handlers
    assert (["order.created"], []) == (names(db), seen)


def test_a_hook_of_the_model_refuses_it_and_its_async_twin_does_not(db, clock):
    class Ticket(BaseModel):
        label = StringField(default="x")

        @on_event("reminded")
        def remind(self):
            seen.append("now")

        @post_save_async
        async def saved(self): ...

    db.ready()
    ticket = Ticket().save()

    with pytest.raises(DelayedInProcess, match=r"Ticket\.remind"):
        ticket.emit("reminded", Emit(delay="1h"))
    ticket.emit("reopened", Emit(delay="1h"))


def test_the_event_of_the_whole_is_for_later_too(db, clock):
    class Cart(BaseModel):
        label = StringField(default="x")

    class Item(BaseModel, bubbles_to="cart_id"):
        cart_id = ForeignKeyField(Cart)

    hear("cart.item.reminded")
    db.ready()
    item = Item(cart_id=Cart().save().id).save()
    item.emit("reminded", Emit(delay="1h"), n=1)
    db.drain()
    early = list(seen)
    clock.advance(HOUR)
    db.drain()

    assert ([], [("item.reminded", 1)]) == (early, seen)


def test_the_whole_s_handlers_refuse_it_as_the_part_s_do(db):
    class Cart(BaseModel):
        label = StringField(default="x")

        @on_event("item.reminded")
        def reminded(self): ...

    class Item(BaseModel, bubbles_to="cart_id"):
        cart_id = ForeignKeyField(Cart)

    db.ready()
    item = Item(cart_id=Cart().save().id).save()

    with pytest.raises(DelayedInProcess, match=r"cart\.item\.reminded"):
        item.emit("reminded", Emit(delay="1h"))
    assert 0 == names(db).count("item.reminded")


# --- from where it is emitted ---


def test_a_durable_handler_emits_for_later_with_its_settle(db, clock):
    @event_handler("shop.opened", name="plan")
    def plan(event):
        emit("shop.reminded", None, Emit(delay="1h"), n=1)
        if event.attempt == 1:
            raise RetryLater(0)

    hear("shop.reminded")
    emit("shop.opened")
    db.drain()
    early = list(seen)
    clock.advance(HOUR)
    db.drain()

    assert ([], [("reminded", 1)]) == (early, seen)


async def test_the_async_door_does_the_same(url):
    clock = VirtualClock(NOON)

    @event_handler_async("shop.reminded", name="heard")
    async def heard(event):
        seen.append(event.name)

    @event_handler_async("shop.opened", name="plan")
    async def plan(event):
        await aemit("shop.reminded", None, Emit(delay="1h"))

    async with opened(url, clock) as db:
        await aemit("shop.reminded", None, Emit(delay="1h"))
        await aemit("shop.opened")
        await db.adrain()
        early = list(seen)
        clock.advance(HOUR)
        await db.adrain()

    assert ([], 2) == (early, len(seen))


def test_the_database_s_own_clock_counts(url, kind):
    hear("shop.reminded")
    with connect(url, worker=False) as db:
        emit("shop.reminded", None, Emit(delay="1h"))
        with db.engine.connect() as connection:
            due = connection.execute(text("SELECT due FROM earnorm_log")).scalar_one()
            if kind == "postgresql":
                now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            else:
                now = datetime.now(UTC).timestamp()

    assert 3_590 < due / 1_000_000 - float(now) <= 3_600


def test_what_is_kept_for_nobody_is_not_kept_for_later(url):
    with connect(url, worker=False, log="subscribed") as db:
        handle = emit("shop.reminded", None, Emit(delay="1h"))

        assert [] == names(db)
        assert {} == handle.outcomes()


def test_without_a_database_there_is_no_later(db):
    db.close()

    with pytest.raises(NotConnected, match="which only a log remembers"):
        emit("shop.reminded", None, Emit(delay="1h"))
