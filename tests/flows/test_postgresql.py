"""What only a database server has: two phases, isolation levels, connections that break, workers elsewhere."""

import asyncio
import logging
import threading

import pytest
from sqlalchemy import create_engine, event, func, insert, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from earnorm import BaseModel, IntegerField, StringField, connect, event_handler, post_commit, post_rollback
from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import MANY
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import VirtualClock
from earnorm.orm.absence import Absence
from earnorm.testing._store_verbs import NOON, append, enter, move, positions, settle, subscribe, take
from tests import postgresql as postgres
from tests.flows.stories import names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@pytest.fixture
def db(postgresql):
    with connect(postgresql) as db:
        yield db


@pytest.fixture
def Note(db):
    class Note(BaseModel):
        text = StringField()

        @post_commit
        def committed(self):
            seen.append(f"+{self.text}")

        @post_rollback
        def rolled_back(self):
            seen.append(f"-{self.text}")

    db.ready()
    return Note


# --- two phases ---


@pytest.fixture
def two_phases(db):
    postgres.require_prepared_transactions()
    return db


def in_log(db):
    """All that is committed, past the horizon or not."""
    with db.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT name FROM earnorm_log ORDER BY position").scalars())


def test_a_session_s_events_are_prepared_with_it_and_released_by_its_second_phase(two_phases, Note):
    db = two_phases
    with Session(db.engine, twophase=True) as session:
        session.add(Note(text="one"))
        session.prepare()
        between = (names(db), list(seen))
        Note(text="two").save()
        held = (names(db), in_log(db), list(seen))
        session.commit()

    assert ([], []) == between
    # The second is committed, behind the first's place that is still to be filled.
    assert ([], ["note.created"], ["+two"]) == held
    assert ["note.created"] * 2 == names(db)
    assert ["+two", "+one"] == seen


def test_a_prepared_session_that_is_rolled_back_takes_its_events_along(two_phases, Note):
    with Session(two_phases.engine, twophase=True) as session:
        session.add(Note(text="one"))
        session.prepare()
        session.rollback()

    assert [] == in_log(two_phases)
    assert ["-one"] == seen


def test_a_commit_of_both_phases_at_once_does_the_same(two_phases, Note):
    with Session(two_phases.engine, twophase=True) as session:
        session.add(Note(text="one"))
        session.commit()

    assert ["note.created"] == names(two_phases)
    assert ["+one"] == seen


def test_a_session_joined_to_a_connection_s_two_phases_ends_with_them(two_phases, Note):
    with two_phases.engine.connect() as connection:
        both = connection.begin_twophase()
        with Session(connection) as session:
            session.add(Note(text="one"))
            session.commit()
        both.prepare()
        before = list(seen)
        both.commit()

    assert ([], ["+one"]) == (before, seen)
    assert ["note.created"] == names(two_phases)


def test_what_a_bulk_write_leaves_in_a_bundle_is_prepared_with_it(two_phases):
    class Note(BaseModel):
        text = StringField()

    two_phases.ready()

    def bundles():
        with two_phases.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(tables.bundle)).scalar_one()

    event_handler("note.created", name="hear")(lambda event: None)
    with Session(two_phases.engine, twophase=True) as session:
        session.execute(insert(Note), [{"text": "one of many"}] * MANY)
        session.prepare()
        between = bundles()
        session.commit()

    assert (0, 1) == (between, bundles())
    assert MANY == two_phases.drain(60)["done"]


def test_a_savepoint_rolled_back_before_the_first_phase_takes_its_events_along(two_phases, Note):
    with Session(two_phases.engine, twophase=True) as session:
        session.add(Note(text="kept"))
        session.flush()
        savepoint = session.begin_nested()
        session.add(Note(text="undone"))
        session.flush()
        savepoint.rollback()
        session.commit()

    assert ["note.created"] == in_log(two_phases)


def test_an_async_session_has_its_two_phases_too(two_phases, Note):
    db = two_phases

    async def main():
        async with db.async_engine.connect() as connection:
            both = await connection.run_sync(lambda inner: inner.begin_twophase())

            def work(inner):
                with Session(inner) as session:
                    session.add(Note(text="one"))
                    session.commit()
                both.prepare()
                both.commit()

            await connection.run_sync(work)
        await db.async_engine.dispose()

    asyncio.run(main())

    assert ["note.created"] == names(db)
    assert ["+one"] == seen


# --- isolation ---


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_could_not_be_serialized_takes_its_events_along(postgresql, level):
    class Counter(BaseModel):
        count = IntegerField()

    engine = create_engine(postgresql, isolation_level=level)
    with connect(engine) as db:
        counter = Counter(count=0).save()
        with db.session() as late:
            mine = late.scalars(select(Counter)).one()
            counter.count = 1
            counter.save()
            mine.count = 2
            with pytest.raises(OperationalError, match="could not serialize"):
                late.commit()

        assert ["counter.created", "counter.updated"] == names(db)
        assert [1] == [found.count for found in Counter.find()]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_events_of_an_engine_with_a_stricter_isolation_are_handled(postgresql, level):
    class Note(BaseModel):
        text = StringField()

    @event_handler("note.created", name="hear")
    def hear(note):
        seen.append(note.text)

    with connect(create_engine(postgresql, isolation_level=level), worker=True) as db:
        for number in range(5):
            Note(text=str(number)).save()
        assert 5 == db.drain()["done"]

    assert [str(number) for number in range(5)] == sorted(seen)


# --- engines of the user's own ---


@pytest.mark.parametrize("make", [create_engine, create_async_engine])
def test_an_engine_given_gets_its_twin(postgresql, make):
    class Note(BaseModel):
        text = StringField()

    with connect(make(postgresql)):
        Note(text="one").save()

        async def asave():
            await Note(text="two").asave()
            return [note.text for note in await Note.afind()]

        assert ["one", "two"] == sorted(asyncio.run(asave()))


# --- connections that break ---


@pytest.fixture
def kill(db):
    """Ends every connection that the database has, as a server does that restarts."""
    pids = []
    for engine in (db.engine, db.async_engine.sync_engine):
        engine.dispose()
        event.listen(engine, "connect", lambda connection, _record: pids.append(connection.info.backend_pid))

    def kill():
        postgres.admin().execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", [pids])
        pids.clear()

    return kill


def test_a_transaction_whose_connection_breaks_takes_its_events_along(db, Note, kill):
    with pytest.raises(DBAPIError), db.transaction():
        Note(text="one").save()
        kill()
        Note(text="two").save()
    Note(text="three").save()

    assert ["note.created"] == names(db)
    assert "+three" == seen[-1]
    assert "+one" not in seen


def test_what_ran_while_the_connection_broke_is_handled_again_under_a_new_lease(db, kill, caplog):
    class Order(BaseModel):
        label = StringField()

    @event_handler("order.created", name="mail")
    def mail(order, event):
        seen.append((order.label, event.attempt))
        if len(seen) == 1:
            kill()

    Order(label="one").save()
    with caplog.at_level(logging.INFO, "earnorm.worker"):
        counts = db.drain()

    assert [("one", 1), ("one", 1)] == seen
    # The first was not settled, and so is not counted.
    assert 1 == counts["done"]
    assert "the log cannot be worked; trying again until it can" in caplog.messages
    with db.store.begin(readonly=True) as transaction:
        horizon = transaction.horizon()
    assert {("default", "", 0): horizon} == positions(db.store)


# --- workers elsewhere ---


@pytest.fixture
def store(postgresql):
    engine = postgresql_engine(postgresql)
    with engine.begin() as connection:
        upgrade(connection)
    clock = VirtualClock(NOON)
    store = SQLAlchemyStore(engine, clock=clock)
    store.test_clock = clock
    yield store
    engine.dispose()


class Looks:
    """Looks every half a minute, and what was hinted at."""

    def __init__(self, store, caplog):
        self.absence = Absence(store, store.test_clock, lambda: ["mail"], "shop")
        self.clock, self.caplog = store.test_clock, caplog

    def after(self, seconds):
        self.clock.advance(seconds)
        self.absence.notice()
        self.absence.close()
        return [message for message in self.caplog.messages if "no worker was seen" in message]


@pytest.fixture
def looks(store, caplog):
    caplog.set_level(logging.INFO, "earnorm.worker")
    subscribe(store, "mail")
    return Looks(store, caplog)


def test_events_that_wait_half_a_minute_without_a_worker_draw_one_hint(store, looks):
    append(store, "order.created")

    assert [] == looks.after(1)
    assert [] == looks.after(29)
    [hint] = looks.after(1)
    assert hint.startswith("events of database 'shop' have waited for 30 s")
    assert "earnorm worker MODULE:DB" in hint
    assert [hint] == looks.after(60)


def test_events_that_somebody_handles_draw_none(store, looks):
    append(store, "order.created")
    looks.after(1)
    lease = take(store, "ada")
    settle(store, lease, advances=move(lease, 1))
    append(store, "order.created")

    assert [] == looks.after(30)


def test_a_worker_that_lives_and_knows_the_handler_is_seen_though_it_takes_long(store, looks):
    append(store, "order.created")
    looks.after(1)
    enter(store, "ada", 60, knows=frozenset({"mail"}))

    assert [] == looks.after(30)


def test_a_log_that_cannot_be_read_draws_no_hint_and_harms_nobody(store, looks, caplog):
    with store.begin() as t:
        t._connection.exec_driver_sql("DROP TABLE earnorm_subscription")

    assert [] == looks.after(30)
    assert "could not look for a worker" in caplog.messages


def test_a_database_without_a_worker_looks_when_events_are_committed(db, Note, monkeypatch):
    looked = threading.Event()
    monkeypatch.setattr(db._absence, "look", looked.set)
    Note(text="one").save()

    assert looked.wait(10)


def test_a_database_with_its_worker_here_has_nobody_to_miss(postgresql):
    with connect(postgresql, worker=True) as db:
        assert db._absence is None
