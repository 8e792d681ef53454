"""Captured tables on PostgreSQL: other roles, TRUNCATE, and transactions that overlap."""

import threading
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url, text

from earnorm import BaseModel, IntegerField, StringField, connect
from tests import postgresql as postgres
from tests.flows.stories import log, pairs
from tests.postgresql import libpq


@pytest.fixture
def Order():
    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")

    return Order


@pytest.fixture
def db(Order, postgresql):
    with connect(postgresql, worker=False) as db:
        db.captures.install(Order)
        yield db


@pytest.fixture
def other(postgresql):
    with closing(psycopg.connect(libpq(make_url(postgresql)))) as connection:
        yield connection


@pytest.fixture
def third(postgresql):
    with closing(psycopg.connect(libpq(make_url(postgresql)))) as connection:
        yield connection


def told(db):
    db.drain()
    return [(event.key, event.name.partition(".")[2], pairs(event)) for event in log(db)]


def test_a_role_that_may_only_write_the_model_s_table_is_told(db, other, postgresql):
    role = f"earnorm_t_{uuid4().hex}"
    schema = make_url(postgresql).query["options"].partition("=")[2]
    postgres.admin().execute(f"CREATE ROLE {role}")
    try:
        postgres.admin().execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        postgres.admin().execute(f"GRANT INSERT ON {schema}.orders TO {role}")
        other.execute(f"SET ROLE {role}")
        # Its own search_path leads elsewhere, and its temporary table is not written instead of ours.
        other.execute("CREATE TEMP TABLE earnorm_capture (subject text)")
        other.execute("SET search_path = pg_temp")
        other.execute(f"INSERT INTO {schema}.orders (id, status) VALUES (1, 'a')")
        other.commit()

        assert [("order:1", "created", {})] == told(db)
    finally:
        other.close()
        postgres.admin().execute(f"DROP OWNED BY {role}")
        postgres.admin().execute(f"DROP ROLE {role}")


def test_truncate_is_told_row_by_row(db, other):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'a'), (2, 'b')")
    other.commit()
    db.drain()
    other.execute("TRUNCATE orders")
    other.commit()

    assert [("order:1", "deleted", {}), ("order:2", "deleted", {})] == sorted(told(db)[2:])


def test_a_transaction_of_many_writes_is_one_event_a_record(db, other):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'a'), (2, 'a')")
    other.execute("UPDATE orders SET status = 'b'")
    other.execute("DELETE FROM orders WHERE id = 2")
    other.commit()
    other.execute("UPDATE orders SET status = 'c'")
    other.execute("UPDATE orders SET status = 'd'")
    other.commit()

    assert [("order:1", "created", {}), ("order:1", "updated", {"status": ("b", "d")})] == told(db)


def test_what_is_not_committed_keeps_nobody_waiting_and_is_told_when_it_is(db, other, third):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'slow')")
    third.execute("INSERT INTO orders (id, status) VALUES (2, 'quick')")
    third.commit()

    assert [("order:2", "created", {})] == told(db)
    other.commit()
    assert [("order:2", "created", {}), ("order:1", "created", {})] == told(db)


def test_interleaved_transactions_are_told_in_each_record_s_own_order(db, other, third):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'a'), (2, 'a')")
    other.commit()
    other.execute("UPDATE orders SET status = 'b' WHERE id = 1")
    third.execute("UPDATE orders SET status = 'b' WHERE id = 2")
    third.commit()
    other.execute("UPDATE orders SET status = 'c' WHERE id = 2")
    other.commit()

    changed = [(key, changes["status"]) for key, _, changes in told(db)[2:]]
    assert [("a", "b"), ("b", "c")] == [pair for key, pair in changed if key == "order:2"]
    assert [("a", "b")] == [pair for key, pair in changed if key == "order:1"]


def test_a_commit_waits_for_the_worker_that_turns_the_record_s_earlier_change_into_an_event(Order, db, other):
    order = Order(id=1, status="a").save()
    other.execute("UPDATE orders SET status = 'b'")
    other.commit()
    order.refresh()
    order.status = "c"
    taken, go_on = threading.Event(), threading.Event()
    entries = db.log.entries

    def slowly(occurrences):
        if threading.current_thread() is reader:
            taken.set()
            assert go_on.wait(30)
        return entries(occurrences)

    db.log.entries = slowly
    reader = threading.Thread(target=db.captures.take)
    writer = threading.Thread(target=order.save)
    reader.start()
    assert taken.wait(30)
    writer.start()
    while not waits_for_a_lock(other):
        assert writer.is_alive()
    go_on.set()
    reader.join(30)
    writer.join(30)

    assert [("a", "b"), ("b", "c")] == [changes["status"] for _, _, changes in told(db)[1:]]


def waits_for_a_lock(connection):
    waiting = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    connection.rollback()
    return waiting != (0,)


def test_one_alone_turns_captured_rows_into_events(db, other):
    other.execute("INSERT INTO orders (id, status) VALUES (1, 'a')")
    other.commit()
    with db.engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtext('earnorm capture'), hashtext(current_schema()))")
        )
        assert False is db.captures.take()
    assert True is db.captures.take()


def test_a_backlog_longer_than_a_batch_is_told_whole_and_in_order(db, other):
    other.execute("INSERT INTO orders (id, status) SELECT n, 'a' FROM generate_series(1, 1200) n")
    other.commit()
    other.execute("UPDATE orders SET status = 'b'")
    other.commit()
    db.drain()

    with db.store.begin(readonly=True) as transaction:
        entries = transaction.read(0, transaction.horizon(), 10_000)
    by_key = {}
    for entry in entries:
        by_key.setdefault(entry.key, []).append(entry.name)
    assert (1200, [["order.created", "order.updated"]]) == (
        len(by_key),
        [list(names) for names in {tuple(names) for names in by_key.values()}],
    )


async def test_the_async_door_by_asyncpg_is_told_once(Order, postgresql):
    pytest.importorskip("asyncpg")
    with postgres.database() as place:
        async with connect(place.set(drivername="postgresql+asyncpg"), worker=False) as db:
            await db.captures.ainstall(Order)
            order = await Order(id=1).asave()
            async with db.asession() as session, session.begin():
                session.add(order)
                order.status = "paid"
                await session.flush()
                await session.execute(text("INSERT INTO orders (id, status) VALUES (2, 'raw')"))
            await db.adrain()

            found = sorted((event.key, event.name, pairs(event)) for event in log(db))
            assert [
                ("order:1", "order.created", {}),
                ("order:1", "order.updated", {"status": ("new", "paid")}),
                ("order:2", "order.created", {}),
            ] == found


# --- a table that is altered while this process knows it as it was ---


def alter(other, *statements):
    for statement in statements:
        other.execute(statement)
    other.commit()


def test_a_captured_column_that_is_dropped_is_left_out_and_stops_nothing(Order, db, other):
    """No captured change of any table was told any more, until each process had been started anew."""
    Order(id=1, status="paid").save()
    alter(other, "UPDATE orders SET status = 'sent'", "ALTER TABLE orders DROP COLUMN status")
    alter(other, "INSERT INTO orders (id) VALUES (2)", "DELETE FROM orders WHERE id = 1")

    assert [
        ("order:1", "created", {}),
        ("order:2", "created", {}),
        ("order:1", "deleted", {}),
    ] == told(db)


def test_a_captured_column_that_is_renamed_is_left_out_until_the_triggers_are_renewed(Order, db, other):
    Order(id=1, status="paid").save()
    alter(other, "ALTER TABLE orders RENAME COLUMN status TO state", "INSERT INTO orders VALUES (2, 'new')")

    assert ["stale"] == [captured.state for captured in db.captures.installed()]
    assert [("order:1", "created", {}), ("order:2", "created", {})] == told(db)
    assert {"id": 2} == dict(log(db)[1].payload)


def test_changes_of_a_table_that_is_renamed_or_dropped_are_told_as_its_model_knows_them(Order, db, other):
    Order(id=1, status="paid").save()
    alter(other, "UPDATE orders SET status = 'sent'", "ALTER TABLE orders RENAME TO old_orders")
    alter(other, "UPDATE old_orders SET status = 'back'", "DROP TABLE old_orders")

    assert [
        ("order:1", "created", {}),
        ("order:1", "updated", {"status": ("paid", "sent")}),
        ("order:1", "updated", {"status": ("sent", "back")}),
    ] == told(db)


def test_rows_whose_key_the_triggers_do_not_find_any_more_are_said(db, other, caplog):
    """They were told as events of no record."""
    alter(other, "ALTER TABLE orders RENAME COLUMN id TO number", "INSERT INTO orders VALUES (2, 'new')")

    assert [] == told(db)
    assert ["a row of orders has a key that Order cannot read, and its change is not told: [null]"] == [
        record.getMessage() for record in caplog.records if record.name == "earnorm.log"
    ]
