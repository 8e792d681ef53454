"""What an explanation says is what happens."""

from dataclasses import dataclass

import pytest

from earnorm import (
    BaseModel,
    SoftDelete,
    StringField,
    connect,
    default_bus,
    emit,
    event_handler,
    event_type,
    on_event,
    on_event_async,
    post_commit,
    post_rollback,
    post_save,
    pre_save,
)
from earnorm.explanation import explain, explain_all, explain_model
from earnorm.handler import Phase

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


def ends(explained):
    return [hearer.handler.name.rpartition(".")[2] for hearer in explained.hearers]


def by_event(model):
    info = default_bus.registry.model_of(model)
    return {explained.event: ends(explained) for explained in explain_model(default_bus, info)}


def hear(*events, name, **options):
    event_handler(*events, name=name, **options)(lambda event: seen.append(name))


@pytest.fixture
def Order():
    class Stamped(BaseModel):
        __abstract__ = True

        @pre_save(priority=-1)
        def late(self):
            seen.append("late")

        @pre_save
        def stamp(self):
            seen.append("stamp")

        @post_rollback
        def regret(self):
            seen.append("regret")

    class Order(Stamped):
        status = StringField(default="new")
        note = StringField(required=False)

        @on_event("status_change", priority=2)
        def watch(self):
            seen.append("watch")

        @post_save(after="watch", priority=9)
        def stored(self):
            seen.append("stored")

        @post_commit
        def certain(self):
            seen.append("certain")

        @on_event("paid")
        def pay(self):
            seen.append("pay")

        @on_event_async("paid", name="thank")
        async def thank(self): ...

    hear(Order, name="class", delivery="transaction")
    hear("order.*", "!order.deleted", name="pattern", delivery="after_commit", priority=5)
    hear("order.saved", name="saved", delivery="after_commit")
    hear("order.status.changed", name="changed")
    hear("**", name="all", delivery="after_commit", priority=7)
    hear("day.ended", name="day")
    return Order


def test_the_handlers_of_a_write_are_told_in_the_order_in_which_they_run(Order, tmp_path):
    with connect(f"sqlite:///{tmp_path}/app.db", worker=False) as db:
        order = Order().save()
        seen.clear()
        order.status = "paid"
        order.save()
        db.drain()

    told = ends(explain(default_bus, "order.updated"))
    assert [*seen, "regret"] == told
    assert [
        "stamp",
        "late",
        "watch",
        "stored",
        "class",
        "certain",
        "all",
        "pattern",
        "saved",
        "changed",
        "regret",
    ] == told


def test_the_handlers_of_a_custom_event_too(Order, tmp_path):
    with connect(f"sqlite:///{tmp_path}/app.db", worker=False):
        order = Order().save()
        seen.clear()
        order.emit("paid")

    assert [*seen, "thank"] == ends(explain(default_bus, "order.paid"))


def test_what_hears_a_view_alone_says_of_which_fields(Order):
    fields = {h.handler.name.rpartition(".")[2]: h.fields for h in explain(default_bus, "order.updated").hearers}

    assert {"watch": ("status",), "changed": ("status",)} == {name: told for name, told in fields.items() if told}


def test_a_view_is_heard_by_those_who_name_it(Order):
    assert ["saved"] == ends(explain(default_bus, "order.saved"))
    assert ["watch", "changed"] == ends(explain(default_bus, "order.status_changed"))


def test_a_model_is_told_by_its_writes_and_then_by_its_custom_events(Order):
    assert ["order.created", "order.updated", "order.deleted", "order.paid"] == list(by_event(Order))
    assert ["class", "certain", "all", "regret"] == by_event(Order)["order.deleted"]


def test_a_model_with_a_trash_is_told_by_that_as_well():
    class Note(SoftDelete):
        text = StringField()

    hear("note.trashed", name="trashed")

    assert ["trashed"] == by_event(Note)["note.trashed"]
    assert [] == by_event(Note)["note.restored"]


def test_an_event_of_no_model_and_a_declared_one(Order):
    @event_type("night.began")
    @dataclass
    class NightBegan:
        hour: int

    hear(NightBegan, name="night")

    assert ["all", "day"] == ends(explain(default_bus, "day.ended"))
    assert ["all", "night"] == ends(explain(default_bus, "night.began"))
    assert ["all"] == ends(explain(default_bus, "nobody.cares"))


def test_nothing_is_run(Order):
    explain_all(default_bus)

    assert [] == seen


def test_of_two_hundred_handlers_none_is_left_out_and_none_is_made_up(Order):
    class Express(Order):
        @pre_save
        def stamp(self): ...

        late = None

    for number in range(190):
        events = ([f"event_{number}.happened"], [Express], ["order.*"], ["express.saved", f"order.step_{number}"])
        hear(*events[number % 4], name=f"handler {number}", priority=number % 7)

    told = {hearer.handler for explained in explain_all(default_bus) for hearer in explained.hearers}
    assert set(default_bus.handlers()) == told
    assert 200 <= len(told)


def test_the_phases_stand_in_their_order(Order):
    for explained in explain_all(default_bus):
        phases = [list(Phase).index(hearer.handler.phase) for hearer in explained.hearers]
        assert sorted(phases) == phases


def test_before_the_first_connect_it_is_the_same(Order):
    before = explain_all(default_bus)
    with connect("sqlite://", worker=False):
        emit("day.ended")
        assert before == explain_all(default_bus)
