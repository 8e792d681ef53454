"""An audit: what changed a table unseen is found beside the log, by record and field."""

import asyncio
from contextlib import aclosing
from decimal import Decimal

import pytest
from sqlalchemy import insert, text

from earnorm import BaseModel, DateTimeField, DecimalField, IntegerField, JSONField, StringField, default_bus
from earnorm.errors import SyncDoorInCoroutine, UnmappedModel
from earnorm.orm.audit import Drift
from tests.flows.stories import log


@pytest.fixture
def Order():
    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")
        total = DecimalField(precision=10, scale=2, required=False)
        pin = StringField(required=False, sensitive=True)

    return Order


def unseen(db, *statements):
    """Raw SQL, of which no log and no trigger knows."""
    with db.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def found(audit):
    return [(drift.key, drift.kind, drift.fields) for drift in audit]


def test_a_raw_update_before_any_trigger_is_found_with_field_and_values(Order, db):
    for number in range(1, 4):
        Order(id=number, total=Decimal("1.5")).save()
    unseen(db, "UPDATE orders SET status = 'paid' WHERE id = 2")
    db.captures.install(Order)
    audit = db.audit(Order)

    (drift,) = audit
    logged = log(db)[1]
    assert ("order:2", "differs", {"status": ("new", "paid")}) == (drift.key, drift.kind, drift.fields)
    assert logged.position == drift.position
    assert abs((logged.time - drift.at).total_seconds()) < 0.001
    assert (3, 1, 0) == (audit.rows, audit.drifted, audit.unlogged)


def test_rows_that_came_and_went_unseen_are_told_apart_from_rows_older_than_the_log(Order, db):
    Order(id=1).save()
    Order(id=2).save().delete()
    unseen(
        db,
        "DELETE FROM orders WHERE id = 1",
        "INSERT INTO orders (id, status) VALUES (2, 'back')",
        "INSERT INTO orders (id, status) VALUES (3, 'older')",
    )
    audit = db.audit(Order)

    assert [("order:2", "extra", {}), ("order:1", "missing", {})] == found(audit)
    assert (2, 1) == (audit.rows, audit.unlogged)


def test_nothing_is_found_where_everything_was_told(Order, db):
    db.captures.install(Order)
    order = Order(id=1, total=Decimal("1.5")).save()
    order.status = "paid"
    order.save()
    unseen(db, "UPDATE orders SET total = 3", "INSERT INTO orders (id, status) VALUES (2, 'raw')")

    assert [] == found(db.audit(Order))


async def test_async_code_audits_without_holding_up_its_loop(Order, db):
    for number in range(1, 4):
        await Order(id=number).asave()
    await asyncio.to_thread(unseen, db, "UPDATE orders SET status = 'paid' WHERE id > 1")
    audit = db.audit(Order)

    assert ["order:2", "order:3"] == [drift.key async for drift in audit]
    assert (3, 2) == (audit.rows, audit.drifted)
    with pytest.raises(SyncDoorInCoroutine, match=r"async for drift in db.audit"):
        list(audit)


async def test_an_audit_left_early_gives_its_connection_back(Order, db):
    for number in range(1, 4):
        await Order(id=number).asave()
    await asyncio.to_thread(unseen, db, "UPDATE orders SET status = 'paid'")

    async with aclosing(aiter(db.audit(Order))) as drifts:
        assert "order:1" == (await anext(drifts)).key

    assert 0 == db.store.own_engine.pool.checkedout()


def test_secrets_are_not_compared(Order, db):
    Order(id=1, pin="1234").save()
    unseen(db, "UPDATE orders SET pin = '9876'")

    assert [] == found(db.audit(Order))


def test_a_muted_update_is_unseen_too(Order, db):
    order = Order(id=1).save()
    with default_bus.muted("order.*", reason="an import"):
        order.status = "imported"
        order.save()

    assert [("order:1", "differs", {"status": ("new", "imported")})] == found(db.audit(Order))


def test_values_that_the_column_writes_in_its_own_way_are_no_drift(db):
    from datetime import datetime

    class Sample(BaseModel):
        id = IntegerField(primary_key=True)
        at = DateTimeField()
        price = DecimalField(precision=10, scale=2)
        tree = JSONField()

    Sample(id=1, at=datetime(2026, 1, 2, 3, 4), price=Decimal("1.5"), tree={"a": (1, 2)}).save()
    audit = db.audit(Sample)

    assert ([], 1) == (found(audit), audit.rows)


def test_tables_longer_than_a_page_are_walked_whole(Order, db):
    with db.session() as session, session.begin():
        session.execute(insert(Order), [{"id": number, "status": "new"} for number in range(1, 1203)])
    unseen(db, "UPDATE orders SET status = 'x' WHERE id IN (1, 600, 1202)", "DELETE FROM orders WHERE id IN (2, 1100)")
    audit = db.audit(Order)

    keys = {kind: {drift.key for drift in audit if drift.kind == kind} for kind in ("differs", "missing")}
    assert {"differs": {"order:1", "order:600", "order:1202"}, "missing": {"order:2", "order:1100"}} == keys
    assert (1200, 5) == (audit.rows, audit.drifted)


def test_a_composite_key_and_a_subclass_are_audited(db):
    class Line(BaseModel):
        order = IntegerField(primary_key=True)
        number = IntegerField(primary_key=True)
        text = StringField()

    class Pet(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Dog(Pet):
        tricks = IntegerField(required=False)

    Line(order=1, number=2, text="a").save()
    Line(order=2, number=1, text="b").save()
    Dog(id=1, name="Rex").save()
    Pet(id=2, name="Tom").save()
    unseen(
        db,
        f"UPDATE {Line.__tablename__} SET text = 'c' WHERE \"order\" = 2",
        f'DELETE FROM {Line.__tablename__} WHERE "order" = 1',
        f"UPDATE {Pet.__tablename__} SET name = 'Max'",
    )

    assert [("line:2/1", "differs", {"text": ("b", "c")}), ("line:1/2", "missing", {})] == found(db.audit(Line))
    assert ["pet:2", "dog:1"] == [drift.key for drift in db.audit(Pet)]
    assert ["dog:1"] == [drift.key for drift in db.audit(Dog)]


def test_a_class_that_is_no_model_is_refused(db):
    with pytest.raises(UnmappedModel):
        db.audit(Drift)


def test_a_record_is_followed_to_its_new_primary_key(Order, db):
    """It was missing under the old one for ever."""
    for number in (1, 2):
        Order(id=number).save()
    for number in (7, 8):
        order = Order.get(number - 6)
        order.id = number
        order.save()
    assert [] == list(db.audit(Order))

    # What is lost under the new key is missing, and so is another that came under the old one and went.
    Order(id=2).save()
    unseen(db, "DELETE FROM orders WHERE id IN (2, 7)")

    assert [("order:2", "missing", {}), ("order:7", "missing", {})] == found(db.audit(Order))
