"""Captured tables: what other programs write is told as if a record had been saved, and what we write is told once."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, Integer, make_url, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from earnorm import (
    BaseModel,
    BooleanField,
    BytesField,
    DateField,
    DateTimeField,
    DecimalField,
    EnumField,
    FloatField,
    IntegerField,
    JSONField,
    StringField,
    UUIDField,
    attach,
    connect,
    current_tenant,
    default_bus,
    event_handler,
    tenant,
)
from earnorm.errors import NotCapturable, SyncDoorInCoroutine
from earnorm.testing import isolated
from tests.flows.stories import log, names, pairs
from tests.postgresql import libpq


@pytest.fixture
def Order():
    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")
        total = DecimalField(precision=10, scale=2, required=False)
        pin = StringField(required=False, sensitive=True)

    return Order


@pytest.fixture
def other(url):
    """Another program: a plain connection of the driver, which knows nothing of us."""
    with driver(url) as connection:
        yield connection


@contextmanager
def driver(url):
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        connection = sqlite3.connect(made.database, timeout=10)
    else:
        connection = psycopg.connect(libpq(made))
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def captured(Order, db):
    db.captures.install(Order)
    return db


def write(connection, *statements):
    """In one transaction."""
    for statement in statements:
        connection.execute(statement)
    connection.commit()


def told(db):
    """The log, once everything captured is in it."""
    db.drain()
    return log(db)


# --- other programs --------------------------------------------------------------------------


def test_another_program_s_update_reaches_a_handler_with_old_and_new_values(Order, captured, other):
    heard = []

    @event_handler("order.updated", name="hear")
    def hear(order, event, old_total, new_total):
        heard.append((order.status, event.key, pairs(event), old_total, new_total))

    Order(id=1, status="new", total=Decimal("1.50")).save()
    write(other, "UPDATE orders SET status = 'paid', total = 7.25 WHERE id = 1")
    captured.drain()

    changes = {"status": ("new", "paid"), "total": (Decimal("1.50"), Decimal("7.25"))}
    assert [("paid", "order:1", changes, Decimal("1.50"), Decimal("7.25"))] == heard


def test_rows_that_come_and_go_are_told(Order, captured, other):
    write(other, "INSERT INTO orders (id, status, total) VALUES (7, 'raw', 2.5)")
    write(other, "DELETE FROM orders WHERE id = 7")

    created, deleted = told(captured)
    assert ("order.created", "order:7") == (created.name, created.key)
    assert {"id": 7, "status": "raw", "total": Decimal("2.50")} == dict(created.payload) == dict(deleted.payload)
    assert "order.deleted" == deleted.name


def test_another_process_is_told_too(Order, captured, url, kind):
    Order(id=1).save()
    program = {
        "sqlite": f"import sqlite3 as driver; c = driver.connect({make_url(url).database!r})",
        "postgresql": f"import psycopg as driver; c = driver.connect({libpq(make_url(url))!r})",
    }[kind]
    source = f"{program}\nc.execute(\"UPDATE orders SET status = 'paid'\")\nc.commit()\nc.close()\n"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)

    assert {"status": ("new", "paid")} == pairs(told(captured)[-1])


def test_a_running_worker_takes_them_in_by_itself(Order, url, other):
    heard = threading.Event()

    @event_handler("order.created", name="hear")
    def hear(order):
        heard.set()

    with connect(url, worker=True) as db:
        db.captures.install(Order)
        write(other, "INSERT INTO orders (id, status) VALUES (1, 'raw')")
        assert heard.wait(30)


def test_what_is_rolled_back_is_not_told(Order, captured, other):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'raw')")
    other.rollback()
    other.execute("INSERT INTO orders (id, status) VALUES (2, 'raw')")
    other.execute("SAVEPOINT s")
    other.execute("UPDATE orders SET status = 'undone' WHERE id = 2")
    other.execute("ROLLBACK TO SAVEPOINT s")
    other.commit()

    assert [("order.created", "order:2")] == [(event.name, event.key) for event in told(captured)]


def test_what_another_program_wrote_is_of_no_tenant(Order, captured, other):
    acting = []
    event_handler("order.created", name="hear")(lambda event: acting.append((event.tenant, current_tenant())))
    write(other, "INSERT INTO orders (id, status) VALUES (1, 'new')")
    with tenant("whoever looks first"):
        captured.drain()

    assert ([("order.created", None)], [(None, None)]) == (
        [(event.name, event.tenant) for event in log(captured)],
        acting,
    )


def test_what_the_model_wrote_keeps_its_tenant(Order, captured, other):
    write(other, "INSERT INTO orders (id, status) VALUES (1, 'new')")
    captured.drain()
    with tenant("acme"):
        Order(id=2, status="new").save()
    with tenant("whoever looks next"):
        captured.drain()

    assert [("order:1", None), ("order:2", "acme")] == [(event.key, event.tenant) for event in log(captured)]


async def test_what_the_model_wrote_in_async_code_keeps_its_tenant(Order, captured):
    with tenant("acme"):
        await Order(id=1, status="new").asave()
    await captured.adrain()

    assert [("order:1", "acme")] == [(event.key, event.tenant) for event in log(captured)]


def test_an_update_that_changes_nothing_is_not_told(Order, captured, other):
    Order(id=1, status="paid").save()
    write(other, "UPDATE orders SET status = 'paid'")

    assert ["order.created"] == [event.name for event in told(captured)]


def test_a_key_that_changes_is_one_record_that_goes_and_one_that_comes(Order, captured, other):
    Order(id=1).save()
    write(other, "UPDATE orders SET id = 9")

    expected = [("order.created", "order:1"), ("order.deleted", "order:1"), ("order.created", "order:9")]
    assert expected == [(event.name, event.key) for event in told(captured)]


def test_an_upsert_is_told_by_what_it_did(Order, captured, other):
    upsert = "INSERT INTO orders (id, status) VALUES (1, '{}') ON CONFLICT (id) DO UPDATE SET status = excluded.status"
    write(other, upsert.format("a"))
    write(other, upsert.format("b"))
    write(other, "INSERT INTO orders (id, status) VALUES (1, 'c') ON CONFLICT DO NOTHING")

    created, updated = told(captured)
    assert ("order.created", "order.updated", {"status": ("a", "b")}) == (created.name, updated.name, pairs(updated))


def test_a_database_s_own_cascade_is_told(db, other, kind):
    class Author(BaseModel):
        id = IntegerField(primary_key=True)

    class Book(BaseModel):
        id = IntegerField(primary_key=True)
        author = mapped_column(Integer, ForeignKey("authors.id", ondelete="CASCADE"))

    db.captures.install(Book)
    Author(id=1).save()
    Book(id=2, author=1).save()
    if kind == "sqlite":
        other.execute("PRAGMA foreign_keys = ON")
    write(other, "DELETE FROM authors")

    assert "book.deleted" == told(db)[-1].name


def test_secrets_are_named_and_never_written_down(Order, captured, other, look):
    Order(id=1, pin="1234").save()
    write(other, "UPDATE orders SET pin = '9876'")

    with look.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT old, new, hidden FROM earnorm_capture").fetchall()
    assert [True] == ["pin" in row[2] for row in rows]
    assert [] == [row for row in rows if "1234" in str(row) or "9876" in str(row)]
    changed = told(captured)[-1]
    assert ({"pin": (None, None)}, False) == (pairs(changed), "pin" in changed.payload)
    with captured.store.begin(readonly=True) as transaction:
        entries = transaction.read(0, transaction.horizon(), 100)
    assert [] == [entry for entry in entries if b"1234" in entry.data or b"9876" in entry.data]


# --- what we write ourselves -----------------------------------------------------------------


def test_what_the_model_wrote_is_told_once(Order, captured):
    order = Order(id=1).save()
    order.status = "paid"
    order.save()
    order.delete()

    assert ["order.created", "order.updated", "order.deleted"] == [event.name for event in told(captured)]
    assert {"status": ("new", "paid")} == pairs(log(captured)[1])


async def test_what_an_async_door_wrote_is_told_once(Order, captured):
    order = await Order(id=1).asave()
    order.status = "paid"
    await order.asave()
    await captured.adrain()

    assert ["order.created", "order.updated"] == names(captured)


def test_raw_sql_beside_the_model_in_one_transaction_is_one_event_a_record(Order, captured):
    order = Order(id=1).save()
    with captured.session() as session, session.begin():
        session.add(order)
        order.status = "paid"
        session.flush()
        session.execute(text("UPDATE orders SET total = 9.5 WHERE id = 1"))
        session.execute(text("INSERT INTO orders (id, status) VALUES (2, 'raw')"))

    events = {event.key: event for event in told(captured)[1:]}
    assert ["order:1", "order:2"] == sorted(events)
    assert {"status": ("new", "paid"), "total": (None, Decimal("9.50"))} == pairs(events["order:1"])
    assert "paid" == events["order:1"].payload["status"]
    assert "order.created" == events["order:2"].name


def test_raw_sql_before_the_model_s_own_write_is_part_of_its_event(Order, captured):
    order = Order(id=1).save()
    with captured.session() as session, session.begin():
        session.execute(text("UPDATE orders SET status = 'raw' WHERE id = 1"))
        session.add(order)
        order.total = Decimal(1)
        session.flush()

    assert {"status": ("new", "raw"), "total": (None, Decimal("1.00"))} == pairs(told(captured)[-1])


def test_a_model_s_write_undone_by_raw_sql_is_no_event(Order, captured):
    order = Order(id=1).save()
    with captured.session() as session, session.begin():
        session.add(order)
        order.status = "paid"
        session.flush()
        session.execute(text("UPDATE orders SET status = 'new' WHERE id = 1"))

    assert ["order.created"] == [event.name for event in told(captured)]


def test_raw_sql_alone_through_our_engine_is_told(Order, captured):
    with captured.engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id, status) VALUES (3, 'raw')"))

    assert ["order:3"] == [event.key for event in told(captured)]


def test_a_rolled_back_transaction_of_ours_leaves_nothing(Order, captured):
    with pytest.raises(ZeroDivisionError), captured.transaction():
        Order(id=1).save()
        raise ZeroDivisionError

    assert [] == told(captured)


def test_another_program_s_earlier_write_stands_before_ours(Order, captured, other):
    order = Order(id=1, status="a").save()
    write(other, "UPDATE orders SET status = 'b' WHERE id = 1")
    order.refresh()
    order.status = "c"
    order.save()

    assert [{"status": ("a", "b")}, {"status": ("b", "c")}] == [pairs(event) for event in told(captured)[1:]]


def test_a_bulk_statement_is_told_once(Order, captured):
    for number in (1, 2):
        Order(id=number).save()
    with captured.session() as session, session.begin():
        session.execute(Order.__table__.update().values(total=1))
        session.execute(update(Order).values(status="paid"))

    changed = told(captured)[2:]
    assert ["order:1", "order:2"] == sorted(event.key for event in changed)
    both = {"status": ("new", "paid"), "total": (None, Decimal("1.00"))}
    assert [both, both] == [pairs(event) for event in changed]


def test_a_muted_save_stays_muted(Order, captured):
    with default_bus.muted("order.*", reason="an import"):
        Order(id=1).save()

    assert [] == told(captured)


# --- types -----------------------------------------------------------------------------------


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


VALUES = {
    "flag": (True, False),
    "number": (2**31 - 1, -1),
    "ratio": (0.1 + 0.2, 1e300),
    "price": (Decimal("12345678.90"), Decimal("0.01")),
    "wide": (Decimal("12345678901234567890.123456"), Decimal("-0.000001")),
    "words": ('it\'s "ü" \\ \n 🐍', ""),
    "at": (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), datetime(1999, 12, 31, tzinfo=UTC)),
    "day": (date(2026, 2, 28), date(1, 1, 1)),
    "ref": (UUID(int=5), UUID(int=2**127)),
    "raw": (b"\x00\xff'\\x", b""),
    "tree": ({"a": [1, None, "x"]}, [1.5, {"b": True}]),
    "mood": (Mood.GOOD, Mood.BAD),
}


def test_values_come_back_with_their_types(db, url):
    class Sample(BaseModel):
        id = UUIDField(primary_key=True)
        flag = BooleanField()
        number = IntegerField()
        ratio = FloatField()
        price = DecimalField(precision=15, scale=2)
        wide = DecimalField(precision=30, scale=6)
        words = StringField()
        at = DateTimeField()
        day = DateField()
        ref = UUIDField()
        raw = BytesField()
        tree = JSONField()
        mood = EnumField(Mood)

    db.captures.install(Sample)
    first, second = ({name: pair[side] for name, pair in VALUES.items()} for side in (0, 1))
    with db.engine.begin() as connection:
        connection.execute(Sample.__table__.insert().values(id=UUID(int=1), **first))
    with db.engine.begin() as connection:
        connection.execute(Sample.__table__.update().values(**second))

    created, updated = told(db)
    assert {"id": UUID(int=1), **first} == dict(created.payload)
    assert VALUES == pairs(updated)
    assert f"sample:{UUID(int=1)}" == created.key


def test_a_value_that_the_model_cannot_read_is_left_out_and_stops_nothing(db, other):
    class Cat(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        mood = EnumField(Mood)

    db.captures.install(Cat)
    write(other, "INSERT INTO cats (id, name, mood) VALUES (1, 'Tom', 'furious')")

    (created,) = told(db)
    assert {"id": 1, "name": "Tom"} == dict(created.payload)


def test_subclasses_in_one_table_are_told_under_their_own_names(db, other):
    class Pet(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Dog(Pet):
        tricks = IntegerField(required=False)

    db.captures.install(Pet)
    dog = Dog(id=1, name="Rex").save()
    Pet(id=2, name="Tom").save()
    write(other, f"UPDATE {Pet.__tablename__} SET name = 'Max'")

    assert ["dog.created", "pet.created", "dog.updated", "pet.updated"] == [event.name for event in told(db)]
    assert "dog:1" == f"dog:{dog.id}"


def test_a_row_that_becomes_one_of_another_class_is_one_record_that_goes_and_one_that_comes(db, other):
    """It was told as an update of the class that it is now, of a record that nobody had heard of."""

    class Pet(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Dog(Pet):
        tricks = IntegerField(required=False)

    db.captures.install(Pet)
    Pet(id=1, name="Rex").save()
    write(other, f"UPDATE {Pet.__tablename__} SET kind = 'dog', tricks = 3 WHERE id = 1")

    _, gone, came = told(db)
    assert ("pet.deleted", "pet:1", "Rex") == (gone.name, gone.key, gone.payload["name"])
    assert ("dog.created", "dog:1", 3) == (came.name, came.key, came.payload["tricks"])
    assert [] == [*db.audit(Pet), *db.audit(Dog)]


def test_so_is_one_that_the_model_has_written_in_the_same_transaction(db):
    class Pet(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Dog(Pet):
        tricks = IntegerField(required=False)

    db.captures.install(Pet)
    pet = Pet(id=1, name="Rex").save()
    with db.transaction() as transaction:
        pet.name = "Max"
        pet.save()
        transaction.session.execute(text(f"UPDATE {Pet.__tablename__} SET kind = 'dog' WHERE id = 1"))

    assert ["pet.created", "pet.deleted", "dog.created"] == [event.name for event in told(db)]


def test_a_key_that_the_model_cannot_read_is_said_and_stops_nothing(db, other, kind, caplog):
    """No captured change of any table was told any more, and nobody said so."""
    if kind != "sqlite":
        pytest.skip("PostgreSQL's columns hold nothing else than their type")

    class Cat(BaseModel):
        id = UUIDField(primary_key=True)
        name = StringField()

    db.captures.install(Cat)
    write(other, "INSERT INTO cats (id, name) VALUES ('nonsense', 'Tom')")
    write(other, f"INSERT INTO cats (id, name) VALUES ('{UUID(int=1).hex}', 'Tim')")

    assert [f"cat:{UUID(int=1)}"] == [event.key for event in told(db)]
    assert ["a row of cats has a key that Cat cannot read, and its change is not told: [\"'nonsense'\"]"] == [
        record.getMessage() for record in caplog.records if record.name == "earnorm.log"
    ]


# --- installing ------------------------------------------------------------------------------


async def test_async_code_awaits_it(Order, db):
    assert ["orders"] == await db.captures.ainstall(Order)
    assert [] == await db.captures.ainstall("orders")
    assert ["current"] == [found.state for found in await db.captures.ainstalled()]
    assert ["orders"] == await db.captures.aremove(Order)
    assert [] == await db.captures.ainstalled()


async def test_in_a_coroutine_the_sync_ones_name_the_others(Order, db):
    """They blocked the loop, on SQLite for as long as one of its tasks was writing."""
    with pytest.raises(SyncDoorInCoroutine, match=r"db\.captures\.ainstall"):
        db.captures.install(Order)
    with pytest.raises(SyncDoorInCoroutine, match=r"db\.captures\.aremove"):
        db.captures.remove(Order)
    with pytest.raises(SyncDoorInCoroutine, match=r"db\.captures\.ainstalled"):
        db.captures.installed()


def test_installing_again_does_nothing_until_the_model_has_other_columns(url, other):
    with isolated():

        class Order(BaseModel):
            id = IntegerField(primary_key=True)

        with connect(url, worker=False) as db:
            assert ["orders"] == db.captures.install(Order)
            assert [] == db.captures.install("orders", "order", "Order")
            assert ["current"] == [found.state for found in db.captures.installed()]

    write(other, "ALTER TABLE orders ADD COLUMN note varchar")

    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        note = StringField(required=False)

    with connect(url, worker=False) as db:
        assert ["stale"] == [found.state for found in db.captures.installed()]
        write(other, "INSERT INTO orders (id, note) VALUES (1, 'unseen')")
        db.drain()
        order = Order.get(1)
        order.note = "by the model, which knows it"
        order.save()
        assert ["orders"] == db.captures.install(Order)
        write(other, "UPDATE orders SET note = 'seen'")

        assert [("unseen", "by the model, which knows it"), ("by the model, which knows it", "seen")] == [
            tuple(event.changes["note"]) for event in told(db)[1:]
        ]


def test_removed_triggers_see_nothing_and_what_they_saw_is_told(Order, captured, other):
    write(other, "INSERT INTO orders (id, status) VALUES (1, 'a')")
    assert ["orders"] == captured.captures.remove(Order)
    write(other, "INSERT INTO orders (id, status) VALUES (2, 'b')")

    assert ["order:1"] == [event.key for event in told(captured)]
    assert ([], []) == (captured.captures.remove(Order), captured.captures.installed())


def test_what_cannot_be_captured_is_told(Order, db, other):
    class Base(DeclarativeBase):
        pass

    class Lost(Base):
        __tablename__ = "lost"
        id: Mapped[int] = mapped_column(primary_key=True)

    class View(Base):
        __tablename__ = "some_orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    attach(Base)
    write(other, "CREATE VIEW some_orders AS SELECT id FROM orders")

    with pytest.raises(NotCapturable, match=r"no model known here; known tables: .*orders"):
        db.captures.install("nothing")
    with pytest.raises(NotCapturable, match="the database has no such table"):
        db.captures.install(Lost)
    with pytest.raises(NotCapturable, match="a view, whose rows are other tables'"):
        db.captures.install(View)


def test_a_hierarchy_over_several_tables_is_refused(db):
    class Base(DeclarativeBase):
        pass

    class Animal(Base):
        __tablename__ = "animals"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Bird(Animal):
        __tablename__ = "birds"
        id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)

    attach(Base)
    with pytest.raises(NotCapturable, match="several tables"):
        db.captures.install(Bird)


def test_rows_of_a_model_that_this_process_does_not_know_wait_for_one_that_does(Order, captured, other):
    with captured.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO earnorm_capture (subject, key, operation, hidden, transaction, at) "
                "VALUES ('stranger', '[1]', 'D', '[]', 0, 0)"
                if connection.dialect.name == "postgresql"
                else 'INSERT INTO earnorm_capture (subject, "key", operation, hidden, "transaction", at) '
                "VALUES ('stranger', '[1]', 'D', '[]', 0, 0)"
            )
        )
    write(other, "INSERT INTO orders (id, status) VALUES (1, 'a')")

    assert ["order:1"] == [event.key for event in told(captured)]


# --- in general ------------------------------------------------------------------------------

WRITES = st.lists(
    st.tuples(
        st.sampled_from(["save", "raw", "both", "undone", "elsewhere"]),
        st.sampled_from(["put", "set", "drop"]),
        st.integers(1, 3),
        st.sampled_from(["a", "b", "c"]),
    ),
    max_size=12,
)


def test_the_folded_log_is_the_table_whoever_wrote_it(Order, captured, other):
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(WRITES)
    def check(writes):
        for how, what, key, value in writes:
            apply(captured, other, Order, how, what, key, value)
        assert table(other) == folded(told(captured))

    check()


def apply(db, other, Order, how, what, key, value):
    if how == "elsewhere":
        write(other, raw(what, key, value))
        return
    with db.session() as session:
        with session.begin() as transaction:
            if how in ("raw", "both"):
                session.execute(text(raw(what, key, value)))
            if how != "raw":
                order = session.get(Order, key)
                if what == "drop" and order is not None:
                    session.delete(order)
                elif what != "drop" and order is None:
                    session.add(Order(id=key, status=value + "!"))
                elif what != "drop":
                    order.status = value + "!"
                session.flush()
            if how == "both":
                session.execute(text(raw("set", key, value + "?")))
            if how == "undone":
                transaction.rollback()


def raw(what, key, value):
    match what:
        case "put":
            return f"INSERT INTO orders (id, status) VALUES ({key}, '{value}') ON CONFLICT (id) DO NOTHING"
        case "set":
            return f"UPDATE orders SET status = '{value}' WHERE id = {key}"
        case _:
            return f"DELETE FROM orders WHERE id = {key}"


def table(connection):
    rows = connection.execute("SELECT id, status FROM orders").fetchall()
    connection.rollback()
    return {f"order:{key}": status for key, status in rows}


def folded(events):
    """Each change must fit what was there before it."""
    found = {}
    for event in events:
        match event.name.partition(".")[2]:
            case "created":
                assert event.key not in found
                found[event.key] = event.payload["status"]
            case "updated":
                assert found[event.key] == event.changes["status"].old
                found[event.key] = event.changes["status"].new
            case _:
                del found[event.key]
    return found


def test_programs_and_sessions_that_write_at_once_leave_an_unbroken_chain(Order, url):
    """Each event's old value is the last one's new value, and the last one's is the row's: none lost, none twice."""
    failures = []

    def run(work):
        try:
            work()
        except Exception as error:
            failures.append(error)

    def elsewhere():
        with driver(url) as connection:
            for number in range(40):
                write(
                    connection,
                    f"UPDATE orders SET status = 'e{number}-{threading.get_ident()}' WHERE id = {number % 2}",
                )

    def here():
        for number in range(40):
            with db.session() as session, session.begin():
                order = session.get(Order, number % 2, with_for_update=True)
                order.status = f"h{number}-{threading.get_ident()}"
                session.flush()
                if number % 3 == 0:
                    session.execute(text(f"UPDATE orders SET status = status || '!' WHERE id = {number % 2}"))

    with connect(url, worker=True) as db, driver(url) as look:
        db.captures.install(Order)
        for number in range(2):
            Order(id=number, status="new").save()
        threads = [threading.Thread(target=run, args=(work,)) for work in (elsewhere, elsewhere, here, here)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [] == failures
        assert table(look) == folded(told(db))
        assert 162 == len(log(db))
