"""On PostgreSQL the append goes to the server with COMMIT: what may go wrong there, and who wants it sent apart."""

import asyncio
import logging

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import earnorm
from earnorm import BaseModel, Emit, IntegerField, StringField, connect, post_commit, post_rollback
from earnorm.backends.sqlalchemy.dialects import postgresql_commit
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.testing.rollback import rolled_back
from tests import postgresql as postgres
from tests.flows.stories import log, names, pairs

told = []


@pytest.fixture(autouse=True)
def nothing_told():
    told.clear()


@pytest.fixture
def db(postgresql):
    with connect(postgresql, worker=False) as db:
        yield db


@pytest.fixture
def Order(db):
    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")

        @post_commit
        def committed(self):
            told.append(f"+{self.id}")

        @post_rollback
        def rolled_back(self):
            told.append(f"-{self.id}")

    db.ready()
    return Order


@pytest.fixture
def sent(monkeypatch):
    """Of each append that went with COMMIT, whether it came to anything."""
    answers = []
    real = postgresql_commit.send_with_commit

    def send_with_commit(*given):
        answers.append(None)
        answers[-1] = real(*given)
        return answers[-1]

    monkeypatch.setattr(postgresql_commit, "send_with_commit", send_with_commit)
    return answers


def in_log(db):
    with db.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT key FROM earnorm_log ORDER BY position").scalars())


# --- what goes well ---


def test_a_row_and_its_event_end_in_one_round_trip(db, Order, sent):
    for number in range(10):
        Order(id=number).save()

    assert [True] * 10 == sent
    assert [f"order:{number}" for number in range(10)] == in_log(db)
    assert [f"+{number}" for number in range(10)] == told


def test_many_events_are_written_as_they_are_one_by_one(db, sent):
    payload = {"text": 'é\'\\\n{"a"}', "raw": b"\0\xff", "none": None}
    earnorm.emit("sale.one", None, Emit(delay=60), **payload)
    with db.transaction():
        for _ in range(3):
            earnorm.emit("sale.many", **payload)
        earnorm.emit("sale.late", None, Emit(delay=60), **payload)

    with db.engine.connect() as connection:
        rows = connection.execute(text("SELECT data, depth, causation_id, tenant, due IS NULL FROM earnorm_log")).all()

    assert [True, True] == sent
    assert 1 == len({row[0] for row in rows})
    assert [(0, None, None, False), *[(0, None, None, True)] * 3, (0, None, None, False)] == [row[1:] for row in rows]


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_transaction_that_only_emits_begins_and_ends_in_one_round_trip(postgresql, sent, level):
    engine = postgresql_engine(postgresql, isolation_level=level)
    with connect(engine, worker=False) as db:
        db.ready()
        with db.engine.begin() as connection:
            connection.execute(
                text("ALTER TABLE earnorm_log ADD level text DEFAULT current_setting('transaction_isolation')")
            )
        earnorm.emit("system.started")
        with db.engine.connect() as connection:
            levels = connection.execute(text("SELECT level FROM earnorm_log")).scalars().all()

    assert ([True], [level.lower()]) == (sent, levels)


def test_an_async_session_s_too(db, Order, sent):
    async def save():
        async with AsyncSession(db.async_engine) as session:
            session.add(Order(id=1))
            await session.commit()

    asyncio.run(save())

    assert ([True], ["order:1"], ["+1"]) == (sent, in_log(db), told)


def test_after_a_failure_the_statement_is_prepared_anew(db, Order, sent):
    """psycopg drops all that a session has prepared when it rolls back what has failed."""
    with db.engine.connect() as connection:
        for number in range(10):
            with Session(connection) as session:
                session.add(Order(id=number))
                session.commit()
            with Session(connection) as session, pytest.raises(IntegrityError):
                session.add(Order(id=number))
                session.flush()

    assert [True] * 10 == sent
    assert 10 == len(in_log(db))


# --- what is refused ---


def test_a_commit_that_the_database_refuses_keeps_nothing(db, Order, sent):
    with db.engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE orders ADD parent int REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED")
        )

    with Session(db.engine) as session:
        session.add(Order(id=1))
        session.flush()
        session.execute(text("UPDATE orders SET parent = 7"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(Order(id=2))
        session.commit()

    assert ([None, True], ["order:2"], ["-1", "+2"]) == (sent, in_log(db), told)


@pytest.mark.parametrize("count", [1, 3])
def test_an_append_that_is_refused_says_so_and_takes_the_rows_with_it(db, Order, sent, count):
    with db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE earnorm_log ADD CHECK (key <> 'order:1')"))

    with Session(db.engine) as session:
        session.add_all(Order(id=number + 1) for number in range(count))
        with pytest.raises(IntegrityError, match="INSERT INTO earnorm_log"):
            session.commit()
        session.rollback()
        session.add(Order(id=9))
        session.commit()
        assert [9] == list(session.scalars(text("SELECT id FROM orders")))

    assert ([False, True], ["order:9"], "+9") == (sent, in_log(db), told[-1])


def test_an_emit_that_is_refused_leaves_the_connection_usable(db, sent):
    db.ready()
    with db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE earnorm_log ADD CHECK (name <> 'bad.one')"))

    with pytest.raises(IntegrityError, match="INSERT INTO earnorm_log"):
        earnorm.emit("bad.one")
    earnorm.emit("good.one")

    assert ([False, True], ["good.one"]) == (sent, names(db))


def test_a_connection_that_breaks_at_the_commit_tells_nothing(db, Order, sent):
    with Session(db.engine) as session:
        session.add(Order(id=1))
        session.flush()
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        postgres.admin().execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(DBAPIError) as raised:
            session.commit()

    Order(id=2).save()
    assert raised.value.connection_invalidated
    assert (["order:2"], ["-1", "+2"]) == (in_log(db), told)


def test_what_triggers_saw_is_one_with_what_the_session_told(db, Order, sent):
    """The first such transaction of a process does not know that the table is captured."""
    db.captures.install(Order)
    with Session(db.engine) as session:
        session.add(Order(id=1))
        session.flush()
        session.execute(text("UPDATE orders SET status = 'paid' WHERE id = 1"))
        session.commit()
    Order(id=2).save()
    db.drain()

    assert [False] == sent  # afterwards it knows
    assert [("order:1", "paid"), ("order:2", "new")] == [(e.key, e.payload["status"]) for e in log(db)]
    assert [{}, {}] == [pairs(e) for e in log(db)]
    assert ["+1", "+2"] == told


# --- who wants it apart ---


def test_a_listener_that_refuses_the_commit_stands_before_it(db, Order, sent):
    @event.listens_for(db.engine, "commit")
    def veto(_connection):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Order(id=1).save()
    event.remove(db.engine, "commit", veto)

    assert ([], [], ["-1"]) == (sent, in_log(db), told)


def test_who_listens_to_statements_hears_of_the_append(db, Order, sent):
    heard = []
    event.listen(db.engine, "before_cursor_execute", lambda *given: heard.append(given[2].split(" (")[0]))
    Order(id=1).save()

    assert [] == sent
    assert "INSERT INTO earnorm_log" in heard


def test_an_engine_that_echoes_logs_the_append(postgresql, caplog, sent):
    with connect(postgresql_engine(postgresql, echo=True), worker=False) as db, caplog.at_level(logging.INFO):
        db.ready()
        earnorm.emit("system.started")

    assert [] == sent
    assert any("INSERT INTO earnorm_log" in record.getMessage() for record in caplog.records)


def test_a_pooler_gets_statement_after_statement(db, Order, sent):
    """Where psycopg prepares nothing, the session may not be one's own."""
    event.listen(db.engine, "checkout", lambda driver, *rest: setattr(driver, "prepare_threshold", None))
    Order(id=1).save()

    assert ([], ["order:1"]) == (sent, in_log(db))


def test_a_test_that_is_rolled_back_commits_nothing(db, Order, sent):
    with rolled_back(db):
        Order(id=1).save()
        assert ["order:1"] == in_log(db)

    assert ([], []) == (sent, in_log(db))
