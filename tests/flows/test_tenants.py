"""Tenants: events carry on whose behalf they happened, and their handlers run, and load, on the same behalf."""

import asyncio
from contextvars import copy_context
from dataclasses import dataclass

import pytest
from sqlalchemy import delete, event, select, update
from sqlalchemy.orm import Session, with_loader_criteria

from earnorm import (
    BaseModel,
    EventBus,
    StringField,
    aemit,
    connect,
    current_tenant,
    emit,
    event_handler,
    event_handler_async,
    event_type,
    post_commit,
    post_save,
    tenant,
)
from earnorm.errors import InvalidTenant
from earnorm.tenant import _first, act_for
from earnorm.testing import expect_failures
from tests.flows.stories import log


@pytest.fixture
def Order():
    class Order(BaseModel):
        label = StringField(default="")
        owner = StringField(default="")

    return Order


def tenants(db):
    return [(event.name, event.tenant) for event in log(db)]


# --- carried --------------------------------------------------------------------------------


def test_an_event_carries_its_tenant(db, Order):
    with tenant("acme"):
        order = Order().save()
        order.emit("paid")
        emit("day.closed")
    order.label = "x"
    order.save()

    assert [
        ("order.created", "acme"),
        ("order.paid", "acme"),
        ("day.closed", "acme"),
        ("order.updated", None),
    ] == tenants(db)


def test_two_tenants_in_one_transaction(db, Order):
    with db.transaction():
        with tenant("acme"):
            Order().save()
        with tenant("bolt"):
            Order().save()

    assert [("order.created", "acme"), ("order.created", "bolt")] == tenants(db)


def test_nested_tenants_and_none(db):
    with tenant("acme"):
        with tenant(None):
            emit("a.b")
        emit("a.c")
    emit("a.d")

    assert [("a.b", None), ("a.c", "acme"), ("a.d", None)] == tenants(db)


def test_a_tenant_belongs_to_its_task(db):
    async def one(name, ready):
        with tenant(name):
            await ready.wait()
            return current_tenant()

    async def many():
        ready = asyncio.Barrier(3)
        return await asyncio.gather(*(one(name, ready) for name in ("a", "b", "c")))

    assert ["a", "b", "c"] == asyncio.run(many())
    assert current_tenant() is None


@pytest.mark.parametrize("name", ["", 7, b"acme", "a\0b"])
def test_a_tenant_has_a_name(name):
    with pytest.raises(InvalidTenant, match="expected a text that is not empty"):
        with tenant(name):
            pass


# --- restored -------------------------------------------------------------------------------


def test_handlers_run_for_the_tenant_of_their_event(db, Order):
    seen = []

    @event_handler("order.*", name="plain")
    def plain(order, event):
        seen.append((event.tenant, current_tenant()))

    @event_handler_async("order.*", name="awaited")
    async def awaited(order, context):
        seen.append((context.tenant, current_tenant()))

    for name in ("acme", "bolt", None):
        with tenant(name):
            Order().save()
    with tenant("somebody else's"):
        db.drain()

    assert [("acme", "acme")] * 2 + [("bolt", "bolt")] * 2 + [(None, None)] * 2 == sorted(
        seen, key=lambda pair: pair[0] or "~"
    )


def test_what_a_handler_emits_is_on_the_same_behalf(db, Order):
    event_handler("order.created", name="first")(lambda order: order.emit("checked"))
    with tenant("acme"):
        Order().save()
    db.drain()

    assert [("order.created", "acme"), ("order.checked", "acme")] == tenants(db)


def test_a_retried_delivery_is_on_the_same_behalf(db, Order):
    from earnorm import RetryLater

    seen = []

    @event_handler("order.created", name="again")
    def again(order, event):
        seen.append((event.attempt, current_tenant()))
        if event.attempt == 1:
            raise RetryLater(0)

    with tenant("acme"):
        Order().save()
    db.drain()
    db.drain()

    assert [(1, "acme"), (2, "acme")] == seen


def test_handlers_after_the_commit_in_this_process_too(db):
    seen = []

    class Order(BaseModel):
        label = StringField(default="")

        @post_commit
        def done(self):
            seen.append(current_tenant())

        @post_save(delivery="after_commit")
        def after(self):
            seen.append(current_tenant())

    with db.transaction():
        with tenant("acme"):
            Order().save()

    assert ["acme", "acme"] == seen


def test_records_are_loaded_on_the_same_behalf(db, Order):
    """An application that narrows its queries to the tenant narrows those that load records for handlers as well."""
    seen = []

    @event.listens_for(Session, "do_orm_execute")
    def narrow(state):
        if state.is_select and (name := current_tenant()) is not None:
            state.statement = state.statement.options(
                with_loader_criteria(Order, lambda cls: cls.owner == name, include_aliases=True)
            )

    try:
        event_handler("order.created", name="mail")(lambda order: seen.append((current_tenant(), order.owner)))
        for name in ("acme", "bolt"):
            with tenant(name):
                Order(owner=name).save()
        db.drain()
        with tenant("acme"):
            mine = [order.owner for order in Order.find()]
    finally:
        event.remove(Session, "do_orm_execute", narrow)

    assert ([("acme", "acme"), ("bolt", "bolt")], ["acme"]) == (sorted(seen), mine)


# --- in memory ------------------------------------------------------------------------------


def test_events_in_memory_carry_their_tenant():
    seen = []

    @event_handler("day.closed")
    def plain(event, context):
        seen.append((event.tenant, context.tenant, current_tenant()))

    @event_handler_async("day.closed")
    async def awaited(event):
        seen.append((event.tenant, event.tenant, current_tenant()))

    with tenant("acme"):
        emit("day.closed")
    emit("day.closed")

    assert [("acme",) * 3] * 2 + [(None,) * 3] * 2 == seen


def test_an_event_prepared_before_any_tenant_was_acted_for_carries_the_first_one():
    bus, seen = EventBus("test"), []
    bus.on("day.closed")(lambda event: seen.append(event.tenant))
    _first.clear()

    bus.emit("day.closed")
    with tenant("acme"):
        bus.emit("day.closed")
    copy_context().run(lambda: (act_for("bolt"), bus.emit("day.closed")))

    assert [None, "acme", "bolt"] == seen


async def test_awaited_events_in_memory_carry_their_tenant_too():
    seen = []

    @event_handler_async("day.closed")
    async def awaited(event, context):
        seen.append((event.tenant, context.tenant, current_tenant()))

    with tenant("acme"):
        await aemit("day.closed")
    with tenant("bolt"):
        await aemit("day.closed")

    assert [("acme",) * 3, ("bolt",) * 3] == seen


def test_a_failure_in_memory_is_told_with_the_tenant():
    @event_handler("day.closed")
    def fails():
        raise ValueError("no")

    with expect_failures() as failures, tenant("acme"):
        emit("day.closed")

    assert ["acme"] == [failure.event.tenant for failure in failures]


def test_declared_events_in_memory_carry_their_tenant():
    seen = []

    @event_type("day.closed")
    @dataclass(frozen=True)
    class DayClosed:
        day: int

    event_handler(DayClosed)(lambda event: seen.append((event.tenant, event.payload["day"])))
    with tenant("acme"):
        emit(DayClosed(day=1))

    assert [("acme", 1)] == seen


# --- a schema each --------------------------------------------------------------------------


@pytest.fixture
def schemas(url, add_schema, Order):
    """Each tenant's tables in a schema of its own."""
    made = {}
    with connect(url, worker=False, schemas=made.get) as db:
        for name in ("acme", "bolt"):
            made[name] = add_schema(db, f"t_{name}")
            with tenant(name):
                Order.metadata.create_all(db.tenant_engine)
        yield db


def test_each_tenant_has_its_own_tables_and_one_log(schemas, Order):
    db, seen = schemas, []
    event_handler("order.*", name="mail")(lambda order, event: seen.append((event.name, event.tenant, order.label)))
    for name in ("acme", "bolt"):
        with tenant(name):
            order = Order(label=f"{name}'s").save()
            order.label += "!"
            order.save()
    db.drain()

    def labels(name):
        with tenant(name):
            return [order.label for order in Order.find()]

    assert (["acme's!"], ["bolt's!"], []) == (labels("acme"), labels("bolt"), labels(None))
    assert [
        ("order.created", "acme", "acme's!"),
        ("order.created", "bolt", "bolt's!"),
        ("order.updated", "acme", "acme's!"),
        ("order.updated", "bolt", "bolt's!"),
    ] == sorted(seen)


async def test_each_tenant_has_its_own_tables_in_async_code_too(schemas, Order):
    db, seen = schemas, []

    @event_handler_async("order.created", name="mail")
    async def mail(order):
        seen.append((current_tenant(), order.label))

    with tenant("acme"):
        await Order(label="a").asave()
        async with db.asession() as session:
            assert ["a"] == list(await session.scalars(select(Order.label)))
    with tenant("bolt"):
        assert [] == await Order.afind()
    await db.adrain()

    assert [("acme", "a")] == seen


def test_an_audit_is_about_the_tables_of_who_asks_for_it(schemas, Order):
    """It compared the events of all of them with the tables of nobody, and called each record missing."""
    db = schemas
    for name in ("acme", "bolt"):
        with tenant(name):
            Order(label=name).save()
            Order(label="gone").save().delete()
    with tenant("acme"):
        assert [] == list(db.audit(Order))
        with db.tenant_engine.begin() as connection:
            connection.execute(update(Order.__table__).values(label="unseen"))
        (drift,) = db.audit(Order)
        assert {"label": ("acme", "unseen")} == drift.fields
        with db.tenant_engine.begin() as connection:
            connection.execute(delete(Order.__table__))
        assert ["missing"] == [drift.kind for drift in db.audit(Order)]
    with tenant("bolt"):
        assert [] == list(db.audit(Order))
    assert [] == list(db.audit(Order))


def test_a_whole_map_of_schemas_may_be_given(tmp_path, url, Order):
    given = []

    def schemas(name):
        given.append(name)
        return {None: None}

    with connect(url, worker=False, schemas=schemas):
        with tenant("acme"):
            Order(label="x").save()
    assert "acme" in given
