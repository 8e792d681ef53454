"""Strays: what is written in another schema than its handlers look in is said, and nothing else is."""

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from earnorm import BaseModel, StringField, connect, emit, event_handler, tenant

seen = []


@pytest.fixture
def Order():
    seen.clear()

    class Order(BaseModel):
        label = StringField(default="")

    return Order


@pytest.fixture
def elsewhere(db, add_schema, Order):
    """An engine of the user's own, whose tables are in another schema."""
    return made(db, Order, add_schema(db, "elsewhere"))


def made(db, Order, schema):
    translated = db.engine.execution_options(schema_translate_map={None: schema})
    Order.metadata.create_all(translated)
    return translated


def save(engine, Order, *, count=1):
    with Session(engine, expire_on_commit=False) as session:
        session.add_all([order := Order(label=f"o{number}") for number in range(count)])
        session.commit()
        return order


def bulk(engine, Order):
    with Session(engine) as session:
        session.execute(insert(Order), [{"label": "x"}] * 20)
        session.commit()


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "earnorm.log"]


@pytest.mark.parametrize("write", [save, bulk])
def test_a_model_whose_handlers_will_miss_its_records_is_named_once(db, elsewhere, Order, caplog, write):
    """They were skipped as missing, and nobody was told why."""
    event_handler("order.created", name="mail")(lambda order: seen.append(order))

    for _ in range(2):
        write(elsewhere, Order)

    assert [] == seen
    (text,) = told(caplog)
    assert "Order is written to orders in schema 'elsewhere'" in text or "in schema 'earnorm_t_" in text
    assert {"skipped"} == {name for name, count in db.drain().items() if count}


def test_an_emit_about_such_a_record_and_a_handler_after_its_commit_are_seen_too(db, elsewhere, Order, caplog):
    event_handler("order.counted", name="now", delivery="after_commit")(lambda order: seen.append(order))
    order = save(elsewhere, Order)
    assert [] == told(caplog)

    with Session(elsewhere) as session:
        session.add(order)
        emit("order.counted", order)
        session.commit()

    assert (1, []) == (len(told(caplog)), seen)


def test_what_nobody_hears_or_only_its_end_is_no_stray(db, elsewhere, Order, caplog):
    event_handler("order.deleted", name="gone")(lambda order: seen.append(order.label))

    order = save(elsewhere, Order)
    with Session(elsewhere) as session:
        session.delete(session.merge(order))
        session.commit()
    db.drain()

    assert ([], ["o0"]) == (told(caplog), seen)


def test_the_schema_that_is_meant_anyway_is_none(db, Order, caplog):
    event_handler("order.created", name="mail")(lambda order: seen.append(order.label))
    with db.engine.connect() as connection:
        default = connection.dialect.default_schema_name

    save(made(db, Order, default), Order)
    db.drain()

    assert ([], ["o0"]) == (told(caplog), seen)


@pytest.fixture
def tenants(url, Order, add_schema):
    schemas = {}
    with connect(url, worker=False, schemas=schemas.get) as db:
        schemas["acme"] = add_schema(db, "t_acme")
        with tenant("acme"):
            Order.metadata.create_all(db.tenant_engine)
        yield db


def test_a_tenant_whose_schema_is_known_has_none(tenants, Order, caplog):
    event_handler("order.created", name="mail")(lambda order: seen.append(order.label))

    with tenant("acme"):
        Order(label="own").save()
        save(tenants.tenant_engine, Order)
    tenants.drain()

    assert ([], ["o0", "own"]) == (told(caplog), sorted(seen))


def test_a_tenants_schema_without_the_tenant_is_one(tenants, Order, caplog):
    event_handler("order.created", name="mail")(lambda order: seen.append(order.label))
    with tenant("acme"):
        engine = tenants.tenant_engine

    save(engine, Order)

    assert 1 == len(told(caplog))
