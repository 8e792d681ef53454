"""Tests inside one rolled-back transaction: what they commit is committed for all that looks, and then never was."""

import asyncio
import threading

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from earnorm import (
    BaseModel,
    Emit,
    IntegerField,
    StringField,
    connect,
    event_handler,
    event_handler_async,
    post_commit,
    post_rollback,
)
from earnorm.delivery import Done
from earnorm.errors import NotConnected, OverlappingTransactions, TransactionError, UnsupportedInTest
from earnorm.testing import expect_failures, rolled_back
from tests import postgresql as postgres
from tests.test_plugin import run


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    match request.param:
        case "sqlite":
            yield f"sqlite:///{tmp_path}/app.db"
        case "postgresql":
            yield request.getfixturevalue("postgresql")
        case "asyncpg":
            with postgres.database() as url:
                yield url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def Order(heard):
    class Order(BaseModel):
        number = IntegerField(unique=True)
        status = StringField(default="new")

        @post_commit
        def committed(self):
            heard.append(("post_commit", self.number))

        @post_rollback
        def taken_back(self):
            heard.append(("post_rollback", self.number))

    @event_handler("order.created", name="mail", delivery="after_commit")
    def mail(order):
        heard.append(("after_commit", order.number))

    @event_handler("order.created", name="ship")
    def ship(order):
        heard.append(("durable", order.number))

    @event_handler_async("order.created", name="index")
    async def index(order):
        heard.append(("async", (await order.arefresh()).number))

    return Order


@pytest.fixture
def db(url, Order):
    with connect(url, worker=False) as db:
        yield db


each_async_driver = pytest.mark.parametrize("url", ["sqlite", "postgresql", "asyncpg"], indirect=True)
IN_PROCESS = [("post_commit", 1), ("after_commit", 1)]
LATER = [("async", 1), ("durable", 1)]


def rows(url, table="orders"):
    """What another process finds in the file."""
    engine = create_engine(url.replace("+asyncpg", "+psycopg"))
    try:
        with engine.connect() as connection:
            return connection.scalar(text(f"SELECT count(*) FROM {table}"))
    finally:
        engine.dispose()


# --- what a test sees ---


def test_handlers_after_the_commit_run_and_then_nothing_was(db, url, Order, heard):
    with rolled_back(db):
        Order(number=1).save()
        assert IN_PROCESS == heard

        counts = db.drain()
        assert (2, LATER) == (counts["done"], sorted(heard[2:]))
        assert [1] == [order.number for order in Order.find()]

    assert [] == Order.find()
    assert (0, 0, 0) == (rows(url), rows(url, "earnorm_log"), rows(url, "earnorm_delivery"))
    assert 0 == db.drain()["done"]


@each_async_driver
async def test_the_async_doors_do_the_same(url, Order, heard):
    async with connect(url, worker=False) as db:
        with rolled_back(db):
            await Order(number=1).asave()
            assert IN_PROCESS == heard

            counts = await db.adrain()
            assert (2, LATER) == (counts["done"], sorted(heard[2:]))
            assert [1] == [order.number for order in await Order.afind()]

        assert [] == await Order.afind()
    assert (0, 0) == (rows(url), rows(url, "earnorm_log"))


def test_tests_in_a_row_see_nothing_of_each_other(db, Order, heard):
    for _ in range(3):
        heard.clear()
        with rolled_back(db):
            Order(number=1).save()
            assert 2 == db.drain()["done"]
            assert IN_PROCESS == heard[:2]


def test_handles_and_keys_are_of_the_test_alone(db, Order, heard):
    for _ in range(2):
        with rolled_back(db):
            order = Order(number=1).save()
            handles = [order.emit("packed", Emit(key="r1"), by="Ada") for _ in range(2)]
            event_handler("order.packed", name="packed")(lambda order: None)
            later = order.emit("packed")
            db.drain()

            assert handles[0].id == handles[1].id
            assert ([False, True], {"packed": Done()}) == ([h.repeated for h in handles], later.outcomes())


def test_what_was_there_before_is_seen_and_stays(db, Order):
    order = Order(number=1).save()
    db.drain()
    with rolled_back(db):
        order.status = "paid"
        order.save()
        Order.get(order.id).delete()
        assert [] == Order.find()

    assert ["new"] == [found.status for found in Order.find()]


def test_what_rolls_back_inside_releases_nothing(db, Order, heard):
    with rolled_back(db):
        with pytest.raises(ZeroDivisionError), db.transaction():
            Order(number=1).save()
            1 / 0
        with db.transaction():
            with pytest.raises(ZeroDivisionError), db.transaction():
                Order(number=2).save()
                1 / 0
            Order(number=3).save()
        counts = db.drain()

        assert (2, [3]) == (counts["done"], [order.number for order in Order.find()])
    # As ever, a hook of that name runs after the outermost rollback alone.
    assert [("post_rollback", 1)] == [told for told in heard if told[0] == "post_rollback"]


def test_a_session_of_the_applications_own_is_rolled_back_as_well(db, url, Order, heard):
    with rolled_back(db):
        with Session(db.engine) as session:
            session.add(Order(number=1))
            session.commit()
            assert IN_PROCESS == heard
            session.add(Order(number=2))
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE orders SET status = 'paid'"))

        assert [(1, "paid")] == [(order.number, order.status) for order in Order.find()]
    assert 0 == rows(url)


def test_a_session_joined_to_a_connection_releases_at_that_connections_commit(db, Order, heard):
    with rolled_back(db), db.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Order(number=1))
            session.commit()
            assert [] == heard
        outer.commit()

        assert IN_PROCESS == heard


@each_async_driver
async def test_sessions_and_connections_of_the_async_engine_are_in_it_too(url, Order, heard):
    async with connect(url, worker=False) as db:
        with rolled_back(db):
            async with AsyncSession(db.async_engine) as session:
                session.add(Order(number=1))
                await session.commit()
            async with db.async_engine.connect() as connection:
                assert [1] == (await connection.execute(select(Order.number))).scalars().all()
                assert [(1,)] == [row async for row in await connection.stream(select(Order.number))]
            await asyncio.to_thread(lambda: Order(number=2).save())
            assert [1, 2] == [order.number for order in await Order.afind()]
    assert 0 == rows(url)


@each_async_driver
async def test_tasks_side_by_side_have_their_own_transactions(url, Order):
    async with connect(url, worker=False) as db:
        with rolled_back(db):

            async def place(number):
                async with db.transaction():
                    await Order(number=number).asave()
                    await asyncio.sleep(0)
                    if number % 2:
                        raise ZeroDivisionError

            await asyncio.gather(*map(place, range(10)), return_exceptions=True)
            assert [0, 2, 4, 6, 8] == sorted(order.number for order in await Order.afind())
            assert 10 == (await db.adrain())["done"]


def test_each_test_may_have_a_loop_of_its_own(db, Order, heard):
    async def place():
        await Order(number=1).asave()
        return (await db.adrain())["done"]

    for _ in range(3):
        with rolled_back(db):
            assert 2 == asyncio.run(place())


def test_threads_take_turns(db, Order):
    with rolled_back(db):
        threads = [threading.Thread(target=lambda n=n: Order(number=n).save()) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert list(range(8)) == sorted(order.number for order in Order.find())
        assert 16 == db.drain()["done"]


def test_who_is_amid_its_rows_sees_what_was_there_when_it_asked(db, Order):
    with rolled_back(db), db.engine.connect() as connection:
        for number in (1, 2):
            Order(number=number).save()
        rows = connection.execute(select(Order.number).order_by(Order.number))
        first = next(rows).number
        Order(number=3).save()

        assert [1, 2] == [first, *(row.number for row in rows)]
        assert 3 == len(Order.find())


def test_an_error_of_the_database_leaves_the_test_its_transaction(db, Order):
    with rolled_back(db):
        Order(number=1).save()
        with pytest.raises(IntegrityError):
            Order(number=1).save()
        with pytest.raises(Exception, match="nowhere"), Session(db.engine) as session:
            session.execute(text("SELECT * FROM nowhere"))
        Order(number=2).save()

        assert [1, 2] == sorted(order.number for order in Order.find())


def test_a_failing_handler_is_counted_retried_and_forgotten(db, Order):
    @event_handler("order.created", name="broken")
    def broken(order):
        raise RuntimeError("no printer")

    for _ in range(2):
        with rolled_back(db), expect_failures() as failures:
            Order(number=1).save()
            counts = db.drain()
            assert (2, 1, ["no printer"]) == (counts["done"], counts["retry"], [str(f.error) for f in failures])


def test_models_and_handlers_may_come_inside(db, url, heard):
    with rolled_back(db):

        class Note(BaseModel):
            text = StringField()

        @event_handler("note.created", name="read")
        def read(note):
            heard.append(note.text)

        Note(text="late").save()
        assert (1, ["late"]) == (db.drain()["done"], heard)

    # Its table was made inside, and was undone with the rest; the next use makes it again.
    with pytest.raises(Exception, match=r"no such table|does not exist"):
        rows(url, "notes")
    Note(text="again").save()
    assert 1 == rows(url, "notes")


def test_it_may_be_nested_for_data_that_several_tests_share(db, url, Order):
    with rolled_back(db):
        Order(number=1).save()
        for number in (2, 3):
            with rolled_back(db):
                Order(number=number).save()
                assert [1, number] == sorted(order.number for order in Order.find())
                db.drain()
        assert [1] == [order.number for order in Order.find()]
        # What was handled in the inner blocks was not, by now.
        assert 2 == db.drain()["done"]
    assert 0 == rows(url)


# --- the worker ---


def test_a_worker_pauses_and_goes_on_afterwards(url, Order, heard):
    with connect(url, worker=True) as db:
        with rolled_back(db):
            Order(number=1).save()
            # Nothing runs by itself, so that a test knows when.
            assert IN_PROCESS == heard
            assert not [thread for thread in threading.enumerate() if thread.name == "earnorm-worker"]
            db.drain()
            assert LATER == sorted(heard[2:])
        assert [thread for thread in threading.enumerate() if thread.name == "earnorm-worker"]
        heard.clear()
        Order(number=1).save()
        db.drain()

    assert IN_PROCESS + LATER == heard[:2] + sorted(heard[2:])


async def test_async_handlers_keep_the_applications_loop(url, Order):
    loops = []

    @event_handler_async("order.created", name="where")
    async def where(order):
        loops.append(asyncio.get_running_loop())

    async with connect(url, worker=True) as db:
        for _ in range(2):
            with rolled_back(db):
                await Order(number=1).asave()
                await db.adrain()

    assert [asyncio.get_running_loop()] * 2 == loops


# --- what cannot be done ---


def test_two_open_transactions_of_one_test_are_refused(db, Order):
    with rolled_back(db), Session(db.engine) as session:
        session.add(Order(number=1))
        session.flush()
        with pytest.raises(OverlappingTransactions, match="commit or close the first one"):
            Order(number=2).save()
        session.commit()
        Order(number=2).save()

        assert 2 == len(Order.find())


def test_a_session_that_has_only_read_holds_nobody_up(db, Order):
    with rolled_back(db), Session(db.engine) as session:
        assert [] == session.scalars(select(Order)).all()
        Order(number=1).save()
        session.rollback()

        assert 1 == len(Order.find())


def test_it_is_entered_outside_of_transactions(db, Order):
    with db.transaction(), pytest.raises(TransactionError, match="enter it before"):
        with rolled_back(db):
            pass


def test_a_session_left_open_can_only_be_closed(db, Order, url):
    with rolled_back(db):
        session = Session(db.engine)
        session.add(Order(number=1))
        session.flush()
        other = Order(number=2)

    with pytest.raises(UnsupportedInTest, match="undone already"):
        session.execute(select(Order))
    session.close()
    other.save()
    assert 1 == rows(url)


def test_two_phases_are_refused(db):
    from earnorm.testing._shared_connection import SharedConnection, Stage

    with pytest.raises(UnsupportedInTest, match="two-phase"):
        SharedConnection(Stage(None, guarded=False)).tpc_begin("x")


# --- the fixture ---

CONFTEST = """
    import pytest
    from earnorm import BaseModel, IntegerField, connect, event_handler

    heard = []

    class Order(BaseModel):
        number = IntegerField(unique=True)

    @event_handler("order.created")
    def ship(order):
        heard.append(order.number)

    @pytest.fixture(scope="session")
    def database():
        with connect("sqlite://", worker=False) as db:
            yield db

    @pytest.fixture
    def db(database, earnorm_rolled_back):
        return database

    @pytest.mark.parametrize("again", range(3))
    def test_it(db, again):
        heard.clear()
        Order(number=1).save()
        assert (1, [1], 1) == (db.drain()["done"], heard, len(Order.find()))
"""


def test_the_plugins_fixture_rolls_back_whatever_is_connected(tmp_path):
    told = run(tmp_path, CONFTEST, "-pno:asyncio")

    assert "3 passed" in told.stdout


def test_the_fixture_says_that_nothing_is_connected(tmp_path):
    told = run(tmp_path, "def test_it(earnorm_rolled_back):\n    pass\n", "-pno:asyncio")

    assert "the fixture earnorm_rolled_back: no database is connected" in told.stdout
    assert NotConnected.__name__ in told.stdout


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_no_commit_of_a_test_reaches_the_disk(db, Order):
    """Which is what makes such tests fast."""
    statements = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2].split()[0]))
    with rolled_back(db):
        connection = db.engine.connect()
        connection.connection.dbapi_connection.set_trace_callback(statements.append)
        for number in range(10):
            Order(number=number).save()
        db.drain()
        connection.connection.dbapi_connection.set_trace_callback(None)
        connection.close()

    assert "INSERT" in statements
    assert [] == [statement for statement in statements if statement.startswith(("COMMIT", "BEGIN"))]
