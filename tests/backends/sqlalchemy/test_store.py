"""The SQL store on SQLite: the suite, and what only SQL has."""

import pytest
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError

from earnorm.backends.sqlalchemy.dialects import dialect_named
from earnorm.backends.sqlalchemy.dialects.sqlite import _blocked_text, sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.errors import UnsupportedDatabase
from earnorm.store import Advance, Settlement, Store
from earnorm.testing._store_verbs import NOON, append_entries, claim, entry, read_all, set_aside, settle, subscribe
from earnorm.testing.store_suite import StoreSuite


@pytest.fixture
def engine(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/log.db")
    with engine.begin() as connection:
        upgrade(connection)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine):
    return SQLAlchemyStore(engine)


@pytest.fixture
def statements(engine):
    """Every statement sent, as it is sent."""
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, text, *rest: sent.append(text))
    return sent


class TestSQLAlchemyStore(StoreSuite):
    @pytest.fixture
    def store(self, engine, clock):
        return SQLAlchemyStore(engine, clock=clock)

    @pytest.fixture
    def caller(self, engine):
        return engine.begin


def test_it_is_a_store(store):
    assert isinstance(store, Store)


def test_a_database_without_a_log_of_ours_is_named():
    with pytest.raises(UnsupportedDatabase, match="mysql"):
        dialect_named(mysql.dialect(), "mysql+pymysql://host/name")


def test_an_append_is_one_statement(store, statements):
    append_entries(store, *(entry() for _ in range(200)))

    assert 1 == len(statements)
    assert statements[0].startswith("INSERT INTO earnorm_log")


def test_an_event_is_stored_once(store):
    sent = entry()
    append_entries(store, sent)

    with pytest.raises(IntegrityError):
        append_entries(store, entry(), sent)
    assert [sent.id] == [e.id for e in read_all(store)]


def test_subscriptions_that_move_alike_move_by_one_update(store, statements):
    subscribe(store, "a", "b", "c", "d")
    lease = claim(store)
    statements.clear()
    settle(store, lease, advances={name: Advance(0, 7) for name in "abc"} | {"d": Advance(0, 5)})

    assert 2 == len([text for text in statements if text.startswith("UPDATE earnorm_subscription")])


def test_a_batch_without_failures_touches_no_delivery(store, statements):
    subscribe(store, "a")
    lease = claim(store)
    statements.clear()
    settle(store, lease, advances={"a": Advance(0, 7)})

    assert [] == [text for text in statements if "earnorm_delivery" in text]


def test_asking_what_is_blocked_costs_one_look_while_nothing_is(store, statements):
    with store.begin(readonly=True) as t:
        t.blocked([("mail", f"user:{number}") for number in range(1000)])

    assert 1 == len(statements)


def test_a_lease_needs_no_memory_of_the_process_that_held_it(store, engine):
    first = claim(store, "ada")
    other = SQLAlchemyStore(engine)
    with other.begin() as t:
        assert t.claim("bob", 10) is None
        t.release(first)

    assert first.fence + 1 == claim(other, "bob").fence


def plan_of(engine, prepared, **values):
    return plan(engine, prepared.text, prepared._ordered(values))


def plan(engine, text, values):
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, values).fetchall()
    # Newer versions of SQLite see that the condition of a partial index need not be looked up, and call it covering.
    return [row[3].replace("COVERING ", "") for row in rows]


@pytest.fixture
def filled(store, engine):
    """Enough rows, analysed, for the planner to mean what it says."""
    append_entries(store, *(entry(key=f"user:{number % 50}") for number in range(500)))
    rows = [set_aside(key=f"user:{number % 50}", state="dead" if number % 3 else "open") for number in range(500)]
    settle(store, claim(store), set_aside=rows)
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    return store


@pytest.mark.parametrize("analysed", [False, True])
def test_what_is_due_is_read_from_the_index_of_times_and_held_back_by_that_of_lanes(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    lines = plan_of(engine, store._statements.due, now=0, limit=10)

    assert "SEARCH earnorm_delivery USING INDEX earnorm_delivery_due (due<?)" in lines
    assert "SEARCH earlier USING INDEX earnorm_delivery_lane (subscription=? AND key=? AND id<?)" in lines
    assert not [line for line in lines if "TEMP B-TREE" in line or line.startswith("SCAN")]


@pytest.mark.parametrize("analysed", [False, True])
def test_every_other_read_uses_an_index(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    statements = store._statements
    plans = {
        "next_due": plan_of(engine, statements.next_due),
        "read": plan_of(engine, statements.read, after=0, upto=10, limit=10),
        "find": plan_of(engine, statements.find, key="user:1", name="user.deleted", after=0),
        "of": plan_of(engine, statements.deliveries_of, event_id=b""),
    }

    assert "SCAN earnorm_delivery USING INDEX earnorm_delivery_due" == plans["next_due"][0]
    assert ["SEARCH earnorm_log USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"] == plans["read"]
    assert ["SEARCH earnorm_log USING INDEX earnorm_log_key (key=? AND position>?)"] == plans["find"]
    assert ["SEARCH earnorm_delivery USING INDEX earnorm_delivery_event (event=?)"] == plans["of"]


def test_what_is_blocked_costs_one_look_a_pair(engine):
    lines = plan(engine, _blocked_text(2), ("a", "b", "c", "d"))

    assert "SEARCH d USING INDEX earnorm_delivery_lane (subscription=? AND key=?)" in lines


def test_a_settlement_may_stand_in_a_callers_transaction(store, engine):
    subscribe(store, "mail")
    lease = claim(store)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        store.join(connection).settle(lease, Settlement(advances={"mail": Advance(0, 3)}))
        raise ZeroDivisionError
    with engine.begin() as connection:
        store.join(connection).settle(lease, Settlement(advances={"mail": Advance(0, 5)}))

    with store.begin() as t:
        assert {"mail": 5} == t.cursors()


def test_closing_gives_the_files_back(store, engine):
    append_entries(store, entry(at=NOON))
    store.close()

    assert 0 == engine.pool.checkedin()
