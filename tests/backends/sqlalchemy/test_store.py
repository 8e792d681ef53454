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
from earnorm.store import Store
from earnorm.testing._store_verbs import (
    NOON,
    append_entries,
    cursor_of,
    entry,
    move,
    plan_of,
    read_all,
    set_aside,
    settle,
    settlement,
    subscribe,
    take,
    try_take,
)
from earnorm.testing.store_suite import StoreSuite
from earnorm.upkeep import ALL, Selection


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


def test_a_thousand_subscriptions_that_stand_alike_move_by_one_update(store, statements):
    subscribe(store, *(f"s{number}" for number in range(1_000)))
    plan, lease = plan_of(store), take(store)
    statements.clear()
    settle(store, lease, advances=move(lease, 7), plans=plan)

    assert ["SELECT", "UPDATE"] == [text.split(" ")[0] for text in statements]


def test_asking_what_is_blocked_costs_one_look_while_nothing_is(store, statements):
    with store.begin(readonly=True) as t:
        t.blocked([("mail", f"user:{number}") for number in range(1000)])

    assert 1 == len(statements)


def test_a_lease_needs_no_memory_of_the_process_that_held_it(store, engine):
    first = take(store, "ada")
    other = SQLAlchemyStore(engine)
    assert try_take(other, "bob") is None
    with other.begin() as t:
        t.release([first])

    assert first.fence + 1 == take(other, "bob").fence


def text_plan(engine, prepared, **values):
    return plan(engine, prepared.text, prepared.ordered(values))


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
    settle(store, take(store), set_aside=rows)
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    return store


@pytest.mark.parametrize("analysed", [False, True])
def test_what_is_due_is_read_from_the_index_of_times_and_held_back_by_that_of_lanes(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    lines = text_plan(engine, store._statements.due, name="mail", now=0, limit=10)

    assert "SEARCH earnorm_delivery USING INDEX earnorm_delivery_due (subscription=? AND due<?)" in lines
    assert "SEARCH earlier USING INDEX earnorm_delivery_lane (subscription=? AND key=? AND id<?)" in lines
    assert not [line for line in lines if "TEMP B-TREE" in line or line.startswith("SCAN")]


@pytest.mark.parametrize("analysed", [False, True])
def test_every_other_read_uses_an_index(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    statements = store._statements
    plans = {
        "running": text_plan(engine, statements.running, by="ada"),
        "read": text_plan(engine, statements.reading(0, 10, 10, ())[0], after=0, upto=10, limit=10),
        "find": text_plan(engine, statements.find, key="user:1", name="user.deleted", after=0),
        "of": text_plan(engine, statements.deliveries_of, event_id=b""),
    }

    assert "SEARCH earnorm_delivery USING INDEX earnorm_delivery_running (worker=?)" == plans["running"][0]
    assert ["SEARCH earnorm_log USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"] == plans["read"]
    assert ["SEARCH earnorm_log USING INDEX earnorm_log_key (key=? AND position>?)"] == plans["find"]
    assert ["SEARCH earnorm_delivery USING INDEX earnorm_delivery_event (event=?)"] == plans["of"]


@pytest.mark.parametrize("analysed", [False, True])
def test_those_who_look_after_it_are_answered_from_narrow_indexes(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    asked = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if "FROM earnorm_delivery" in statement and not statement.startswith("EXPLAIN"):
            asked.append((statement, parameters))

    event.listen(store.own_engine, "before_cursor_execute", note)
    with store.begin() as t:
        t.tally()
        t.dead(ALL, 10)
        t.dead(Selection(handler="mail"), 10)
    plans = [plan(engine, *statement) for statement in asked]

    assert ["SCAN earnorm_delivery USING INDEX earnorm_delivery_due"] == plans[0]
    assert ["SCAN earnorm_delivery USING INDEX earnorm_delivery_dead"] == plans[1]
    assert "SCAN earnorm_delivery USING INDEX earnorm_delivery_dead" in plans[2]
    assert any(line.startswith("SEARCH earnorm_delivery USING INDEX earnorm_delivery_dead") for line in plans[3])


@pytest.mark.parametrize("analysed", [False, True])
def test_who_waits_is_found_by_leaps_through_the_index(store, engine, request, analysed):
    if analysed:
        request.getfixturevalue("filled")
    lines = text_plan(engine, store._statements.waiting)

    assert "SEARCH later USING INDEX earnorm_delivery_due (subscription>?)" in lines
    assert "SEARCH soonest USING INDEX earnorm_delivery_due (subscription=?)" in lines
    assert not [line for line in lines if "TEMP B-TREE" in line]


def test_who_waits_is_found_without_an_index_made_for_that_look_alone(store, engine):
    """Between some thousand rows and some ten thousand, SQLite sorted them all anew at each look of a worker."""
    settle(store, take(store), set_aside=[set_aside(key=f"user:{number}") for number in range(5_000)])
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    lines = text_plan(engine, store._statements.waiting)

    assert "SEARCH soonest USING INDEX earnorm_delivery_due (subscription=?)" in lines
    assert not [line for line in lines if "AUTOMATIC" in line or "TEMP B-TREE" in line]


@pytest.mark.parametrize("analysed", [False, True])
def test_what_is_done_with_the_attempts_of_one_delivery_looks_at_no_others(store, engine, request, analysed):
    """Each delivery that was done at last looked at every attempt in the database."""
    if analysed:
        request.getfixturevalue("filled")
    statements = store._statements
    plans = [
        text_plan(engine, statements.attempts, row=1),
        text_plan(engine, statements.finish_attempts, row=1, by="ada"),
        text_plan(engine, statements.drop_open_attempts, called="mail"),
    ]

    assert ["SEARCH earnorm_attempt USING INDEX earnorm_attempt_event (event=? AND subscription=?)"] * 3 == [
        plan[0] for plan in plans
    ]


def test_what_is_blocked_costs_one_look_a_pair(engine):
    lines = plan(engine, _blocked_text(2), ("a", "b", "c", "d"))

    assert "SEARCH d USING INDEX earnorm_delivery_lane (subscription=? AND key=?)" in lines


def test_a_settlement_may_stand_in_a_callers_transaction(store, engine):
    lease = take(store)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        store.join(connection).settle(settlement(lease, advances=move(lease, 3)))
        raise ZeroDivisionError
    with engine.begin() as connection:
        store.join(connection).settle(settlement(lease, advances=move(lease, 5)))

    assert 5 == cursor_of(store).position


def test_closing_gives_the_files_back(store, engine):
    append_entries(store, entry(at=NOON))
    store.close()

    assert 0 == engine.pool.checkedin()
