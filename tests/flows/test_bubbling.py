"""An event of a part is told again about the whole it belongs to."""

import asyncio

import pytest
from sqlalchemy.orm import Mapped, relationship

from earnorm import BaseModel, ForeignKeyField, IntegerField, StringField, connect, event_handler, on_event
from earnorm.errors import InvalidField


@pytest.fixture
def db():
    with connect("sqlite://") as database:
        yield database


@pytest.fixture
def heard():
    return []


@pytest.fixture
def shop(heard):
    """A customer has orders, an order has lines; each hands its events up."""

    class Customer(BaseModel):
        name = StringField(default="Ada")

        @on_event("order.line.created")
        def line_of_an_order(self, qty):
            heard.append(("customer", qty, self.name))

    class Order(BaseModel, bubbles_to="customer_id"):
        customer_id = ForeignKeyField(Customer, required=False)

        @on_event("line.created", "line.deleted")
        def line(self, event, qty):
            heard.append((event.name, qty))

        @on_event("line.qty_was_checked")
        def checked(self, by):
            heard.append(("checked", by))

        @on_event("line.updated")
        def updated(self, changes):
            heard.append(("updated", dict(changes)))

    class Line(BaseModel, bubbles_to="order"):
        qty = IntegerField()
        order_id = ForeignKeyField(Order, required=False)
        order: Mapped[Order] = relationship(Order)

        @on_event("created")
        def stop(self, event):
            if self.qty == 0:
                event.stop_propagation()

    return Customer, Order, Line


def test_a_part_s_life_is_heard_by_the_whole_and_by_its_own(db, shop, heard):
    customer, order, line = shop
    one = line(qty=3, order_id=order(customer_id=customer().save().id).save().id).save()
    one.qty = 4
    one.save()
    one.delete()

    assert [
        ("order.line.created", 3),
        ("customer", 3, "Ada"),
        ("updated", {"qty": (3, 4)}),
        ("order.line.deleted", 4),
    ] == heard


def test_a_custom_event_bubbles_too_through_both_doors(db, shop, heard):
    _, order, line = shop
    one = line(qty=3, order_id=order().save().id).save()
    heard.clear()
    one.emit("qty_was_checked", by="Ada")
    asyncio.run(awaited(one))

    assert [("checked", "Ada"), ("checked", "Grace")] == heard


async def awaited(line):
    await line.aemit("qty_was_checked", by="Grace")


def test_a_part_without_a_whole_tells_nobody(db, shop, heard):
    _, _, line = shop
    line(qty=3).save()

    assert [] == heard


def test_a_stopped_event_does_not_bubble(db, shop, heard):
    _, order, line = shop
    line(qty=0, order_id=order().save().id).save()

    assert [] == heard


def test_a_durable_handler_of_the_whole_gets_the_whole_and_the_cause(db, shop):
    _, order, line = shop
    delivered = []

    @event_handler("order.line.created", name="recount")
    def recount(order, qty, event):
        delivered.append((order.id, qty, event.causation_id))

    with db.transaction():
        with_whole = order().save()
        line(qty=5, order_id=with_whole.id).save()
    db.drain()

    ((whole, qty, cause),) = delivered
    assert (with_whole.id, 5) == (whole, qty)
    with db.store.begin(readonly=True) as transaction:
        entries = {entry.name: entry for entry in transaction.read(0, transaction.horizon(), 10)}
    assert cause == entries["line.created"].id
    assert entries["order.line.created"].correlation_id == entries["line.created"].correlation_id


def test_what_is_rolled_back_bubbles_to_no_log(db, shop):
    _, order, line = shop
    with_whole = order().save()
    with pytest.raises(ZeroDivisionError), db.transaction():
        line(qty=5, order_id=with_whole.id).save()
        1 / 0  # the failure that rolls back

    with db.store.begin(readonly=True) as transaction:
        names = [entry.name for entry in transaction.read(0, transaction.horizon(), 10)]
    assert ["order.created"] == names


def test_a_name_that_leads_nowhere_is_refused():
    with pytest.raises(InvalidField, match="bubbles_to='basket'"):

        class Line(BaseModel, bubbles_to="basket"):
            qty = IntegerField()
