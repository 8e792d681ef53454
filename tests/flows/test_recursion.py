"""Handlers that save and emit: in which order nested events are heard, and where a circle ends."""

import pytest

from earnorm import BaseModel, IntegerField, StringField, on_event, post_create, post_save, post_update, pre_save
from earnorm.errors import EventLoopError, SaveInPreHook
from tests.flows.stories import log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


def test_save_on_itself_in_a_pre_hook_is_refused_with_the_remedy():
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def again(self):
            self.save()

    with pytest.raises(SaveInPreHook, match="set the attribute"):
        Note(text="one").save()


async def test_save_on_itself_in_a_pre_hook_is_refused_under_asave_as_well():
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def again(self):
            self.save()

    with pytest.raises(SaveInPreHook):
        await Note(text="one").asave()


def test_save_on_another_record_in_a_pre_hook_is_fine(db):
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def leave_a_trace(self):
            if self.text == "one":
                Note(text="trace").save()

    Note(text="one").save()

    assert {"one", "trace"} == {event.payload["text"] for event in log(db)}


def test_save_on_itself_in_a_post_hook_is_fine(db):
    class Note(BaseModel):
        text = StringField()
        visits = IntegerField(default=0)

        @post_create
        def count(self):
            self.visits = 1
            self.save()

    note = Note(text="one").save()

    assert 1 == Note.get(note.id).visits
    assert [("note.created", 1)] == [(event.name, event.payload["visits"]) for event in log(db)]


def test_a_change_in_a_post_hook_without_a_save_is_written_with_the_transaction(db):
    class Note(BaseModel):
        text = StringField()
        visits = IntegerField(default=0)

        @post_create
        def count(self):
            self.visits = 1

    note = Note(text="one").save()

    assert 1 == Note.get(note.id).visits


def test_nested_events_are_heard_after_the_current_handlers_in_order():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid", priority=2)
        def first(self):
            seen.append("paid 1")
            self.emit("shipped")
            self.emit("billed")

        @on_event("paid", priority=1)
        def second(self):
            seen.append("paid 2")

        @on_event("shipped")
        def on_shipped(self):
            seen.append("shipped")
            self.emit("packed")

        @on_event("billed")
        def on_billed(self):
            seen.append("billed")

        @on_event("packed")
        def on_packed(self):
            seen.append("packed")

    Order().save().emit("paid")

    assert ["paid 1", "paid 2", "shipped", "billed", "packed"] == seen


def test_a_nested_save_is_heard_after_the_current_handlers():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid", priority=2)
        def first(self):
            self.status = "paid"
            self.save()
            seen.append("saved")

        @on_event("paid", priority=1)
        def second(self):
            seen.append("second")

        @post_update
        def updated(self):
            seen.append("updated")

    Order().save().emit("paid")

    assert ["saved", "second", "updated"] == seen


def test_what_is_emitted_in_a_handler_stands_in_the_log_behind_its_cause(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.emit("shipped")
            self.emit("billed")

    Order().save().emit("paid")

    assert ["order.created", "order.paid", "order.shipped", "order.billed"] == names(db)
    assert [0, 0, 1, 1] == [event.depth for event in log(db)]


def test_a_veto_deep_inside_takes_everything_with_it(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.emit("shipped")

        @on_event("shipped")
        def on_shipped(self):
            raise ValueError("no stock")

    order = Order().save()

    with pytest.raises(ValueError, match="no stock"):
        order.emit("paid")
    assert ["order.created"] == names(db)


def test_two_models_that_save_each_other_come_to_rest(db):
    class Left(BaseModel):
        count = IntegerField(default=0)

        @post_save
        def push(self):
            if self.count < 3:
                Right(count=self.count + 1).save()

    class Right(BaseModel):
        count = IntegerField(default=0)

        @post_save
        def push(self):
            if self.count < 3:
                Left(count=self.count + 1).save()

    Left().save()

    assert ["left.created", "right.created", "left.created", "right.created"] == names(db)


def test_a_handler_that_emits_its_own_event_again_is_a_loop():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.emit("paid")

    order = Order().save()

    with pytest.raises(EventLoopError, match="for the same record and the same changes") as raised:
        order.emit("paid")
    assert any("order.paid" in link and "Order.on_paid" in link for link in raised.value.chain)
    assert "└─" in str(raised.value)


def test_a_loop_over_two_handlers_draws_both():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("ping")
        def on_ping(self):
            self.emit("pong")

        @on_event("pong")
        def on_pong(self):
            self.emit("ping")

    order = Order().save()

    with pytest.raises(EventLoopError) as raised:
        order.emit("ping")
    drawn = "\n".join(raised.value.chain)
    assert "on_ping" in drawn
    assert "on_pong" in drawn


def test_a_loop_takes_its_transaction_with_it(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.emit("paid")

    order = Order().save()
    with pytest.raises(EventLoopError):
        order.emit("paid")

    assert ["order.created"] == names(db)


def test_the_same_event_with_another_payload_is_no_loop():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("counted")
        def on_counted(self, n):
            seen.append(n)
            if n < 5:
                self.emit("counted", n=n + 1)

    Order().save().emit("counted", n=1)

    assert [1, 2, 3, 4, 5] == seen


def test_a_chain_ends_at_thirty_two_levels():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("counted")
        def on_counted(self, n):
            seen.append(n)
            self.emit("counted", n=n + 1)

    order = Order().save()

    with pytest.raises(EventLoopError, match="32 is the limit"):
        order.emit("counted", n=0)
    assert list(range(33)) == seen


def test_a_record_that_flips_for_ever_is_stopped():
    class Lamp(BaseModel):
        state = StringField(default="off")

        @post_update
        def flip(self):
            self.state = "on" if self.state == "off" else "off"
            self.save()

    lamp = Lamp().save()
    lamp.state = "on"

    with pytest.raises(EventLoopError):
        lamp.save()


async def test_a_loop_is_stopped_under_async_doors_as_well():
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.emit("paid")

    order = await Order().asave()

    with pytest.raises(EventLoopError):
        await order.aemit("paid")


def test_a_durable_chain_carries_its_depth_and_its_cause(db):
    class Order(BaseModel):
        status = StringField(default="open")

    @Order.on("paid", name="ship")
    def ship(order):
        order.emit("shipped")

    order = Order().save()
    paid = order.emit("paid")
    db.drain()

    shipped = log(db)[-1]
    assert ("order.shipped", 1, paid.id) == (shipped.name, shipped.depth, shipped.causation_id)
    assert paid.event.correlation_id == shipped.correlation_id
