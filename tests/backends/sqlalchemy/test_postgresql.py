"""The SQL store on PostgreSQL: the suite, and what only this database has."""

import asyncio
import threading
from datetime import timedelta

import pytest
from sqlalchemy import URL, event, text
from sqlalchemy.exc import IntegrityError

from earnorm import BaseModel, StringField, connect, event_handler
from earnorm.backends.sqlalchemy.dialects import postgresql_engines
from earnorm.backends.sqlalchemy.dialects.postgresql import PostgreSQL
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_async_engine, postgresql_engine
from earnorm.backends.sqlalchemy.migrations import STEPS, check, sql, upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import VirtualClock
from earnorm.errors import LeaseLost, MissingExtra, UnsoundLog, UnsupportedDatabase
from earnorm.store import Registration, Settlement
from earnorm.testing._store_verbs import (
    FAR,
    NOON,
    append,
    append_entries,
    cursor_of,
    cursor_of_in,
    deliveries,
    enter,
    entry,
    move,
    plan_of,
    positions,
    prune,
    read_all,
    set_aside,
    settle,
    settlement,
    subscribe,
    take,
    try_take,
)
from earnorm.testing.store_suite import StoreSuite
from earnorm.upkeep import Pruned
from tests import postgresql as postgres


@pytest.fixture
def engine(postgresql):
    engine = postgresql_engine(postgresql)
    with engine.begin() as connection:
        upgrade(connection)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine):
    return SQLAlchemyStore(engine)


class TestPostgreSQLStore(StoreSuite):
    @pytest.fixture
    def store(self, engine, clock):
        return SQLAlchemyStore(engine, clock=clock)

    @pytest.fixture
    def caller(self, engine):
        return engine.begin


@pytest.fixture
def statements(engine):
    """Every statement sent, as it is sent."""
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement))
    return sent


def in_thread(work):
    """Start `work`; what it returns or raises is what `join` gives."""
    ended = []

    def run():
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join()
        return ended[0]

    return join


def wait_for_a_lock(engine):
    """Until some transaction of this test's schema waits for a row."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND strpos(query, 'earnorm_') > 0 AND datname = current_database()"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.exec_driver_sql(query).scalar_one():
            connection.exec_driver_sql("SELECT pg_sleep(0.005)")


# --- appending ---


def test_an_append_is_one_statement_however_many_there_are(store, statements):
    for count in (1, 2_000):
        statements.clear()
        append_entries(store, *(entry() for _ in range(count)))

        assert 1 == len(statements)
        assert statements[0].startswith("INSERT INTO earnorm_log")


def test_an_event_is_stored_once(store):
    sent = entry()
    append_entries(store, sent)

    with pytest.raises(IntegrityError):
        append_entries(store, entry(), sent)
    assert [sent.id] == [e.id for e in read_all(store)]


LIMIT = "SELECT current_setting('idle_in_transaction_session_timeout')"


@pytest.mark.parametrize(
    "own, during",
    [("0", "30s"), ("10min", "30s"), ("1d", "30s"), ("5s", "5s"), ("700ms", "700ms"), ("30s", "30s")],
)
def test_a_client_that_dies_before_its_commit_holds_the_log_for_half_a_minute_at_most(engine, store, own, during):
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET idle_in_transaction_session_timeout = '{own}'")
        connection.commit()
        store.join(connection).append([entry()])
        found = connection.exec_driver_sql(LIMIT).scalar_one()
        connection.commit()
        after = connection.exec_driver_sql(LIMIT).scalar_one()
        connection.invalidate()

    assert (during, own) == (found, after)


@pytest.mark.parametrize("own, during", [("0", "10s"), ("1d", "10s"), ("5s", "5s")])
def test_who_is_cut_off_amid_a_settle_keeps_others_from_its_cursor_for_ten_seconds_at_most(engine, store, own, during):
    """A frozen process, or a host that is gone without a word: its lock would stay for as long as its connection."""
    subscribe(store, "mail")
    append(store, "old")
    lease = take(store)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET idle_in_transaction_session_timeout = '{own}'")
        connection.commit()
        end = read_all(store)[-1].position
        store.join(connection).settle(settlement(lease, advances=move(lease, end)))
        found = connection.exec_driver_sql(LIMIT).scalar_one()
        connection.commit()
        after = connection.exec_driver_sql(LIMIT).scalar_one()
        connection.invalidate()

    assert (during, own) == (found, after)


@pytest.mark.parametrize(
    "act",
    [
        lambda t, lease: t.beat(lease.worker, NOON),
        lambda t, lease: t.release([lease]),
        lambda t, lease: t.take(lease, lease.worker),
        lambda t, lease: t.split(lease, 5),
        lambda t, lease: t.bury(lease.worker),
        lambda t, lease: t.leave(lease.worker),
        lambda t, lease: t.pause("mail", paused=True),
    ],
    ids=["beat", "release", "take", "split", "bury", "leave", "pause"],
)
def test_nor_does_who_is_cut_off_amid_a_move(engine, store, act):
    subscribe(store, "mail")
    enter(store, "ada")
    lease = take(store)
    with engine.begin() as connection:
        act(store.join(connection), lease)
        found = connection.exec_driver_sql(LIMIT).scalar_one()

    assert "10s" == found


# --- pruning ---


def test_a_prune_under_way_keeps_neither_writers_nor_readers_waiting(engine, store):
    append(store, "old", "old")
    with store.begin() as pruning:
        assert pruning.prune(pruning.now(), 10, unseen=pruning.now()).count == 2
        with engine.begin() as other:
            other.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            t = store.join(other)
            t.append([entry("new")])
            assert ["old", "old", "new"] == [e.name for e in t.read(0, FAR, FAR)]

    assert ["new"] == [e.name for e in read_all(store)]


def test_a_prune_waits_for_who_is_just_being_recorded_to_hear_the_past(engine, store):
    """Read before and deleted after that commit, the past would go from under a subscription that is there."""
    subscribe(store, "mail")
    append(store, "old")
    lease = take(store)
    settle(store, lease, advances=move(lease, read_all(store)[-1].position))
    with store.begin() as registering:
        registering.subscribe([Registration(name="audit", since="beginning")])
        join = in_thread(lambda: prune(store, limit=10))
        wait_for_a_lock(engine)

    assert Pruned(0, 0) == join()
    assert ["old"] == [e.name for e in read_all(store)]


def test_one_prunes_at_a_time(store):
    with store.begin() as one, store.begin() as other:
        assert one.prune(one.now(), 10, unseen=one.now()) is not None
        assert other.prune(other.now(), 10, unseen=other.now()) is None


def test_who_holds_the_horizon_is_told_with_what_ends_it(engine, store):
    with engine.begin() as writing:
        store.join(writing).append([entry()])
        pid = writing.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with store.begin(readonly=True) as t:
            stall = t.stall()

    assert stall.holder.startswith(f"process {pid}")
    assert (True, f"SELECT pg_terminate_backend({pid})") == (stall.seconds >= 0, stall.remedy)


# --- the store's own transactions ---


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
@pytest.mark.parametrize("readonly", [True, False])
def test_they_are_read_committed_whatever_the_engine_is(postgresql, engine, level, readonly):
    own = postgresql_engine(postgresql, isolation_level=level)
    with SQLAlchemyStore(own).begin(readonly=readonly) as t:
        found = t._connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        # A look is statements with a snapshot each, which BEGIN and COMMIT around them would change nothing about.
        assert readonly == t._connection._is_autocommit_isolation()
    with own.connect() as connection:
        autocommit = connection.connection.driver_connection.autocommit
        after = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
    own.dispose()

    assert "read committed" == found
    # And the next user of the connection finds it as the engine wants it.
    assert level == ("AUTOCOMMIT" if autocommit else after.upper())


def test_they_are_read_committed_whatever_the_server_s_default_is(postgresql, engine):
    url = postgresql.replace("options=", "options=-cdefault_transaction_isolation%3Dserializable%20")
    own = postgresql_engine(url)
    with SQLAlchemyStore(own).begin() as t:
        found = t._connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
    own.dispose()

    assert "read committed" == found


def test_the_time_is_the_database_s_own(store):
    with store.begin() as t:
        first = t.now()
        server = t._connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        second = t.now()

    # Not the transaction's, which stands still.
    assert first < server < second
    assert timedelta(0) == first.utcoffset()


def test_two_that_subscribe_at_once_wait_and_agree(store, engine):
    with store.begin() as one:
        one.subscribe([Registration(name="b"), Registration(name="a")])
        other = in_thread(lambda: subscribe(store, "a", "b"))
        wait_for_a_lock(engine)

    assert other() is None
    assert {("default", "", 0): 0} == positions(store)
    with store.begin() as t:
        assert ["a", "b"] == [f.name for f in t.followers()]


# --- leases ---


@pytest.fixture
def clocked(engine):
    return SQLAlchemyStore(engine, clock=VirtualClock(NOON))


def bury(store, worker):
    with store.begin() as t:
        return t.bury(worker, dead=True)


def test_a_burial_waits_for_the_settlement_under_way(clocked, engine):
    enter(clocked, "ada")
    held = take(clocked, "ada")
    with clocked.begin() as t:
        t.settle(settlement(held, advances=move(held, 5)))
        burial = in_thread(lambda: bury(clocked, "ada"))
        wait_for_a_lock(engine)

    assert burial() is True
    assert (5, held.fence + 1, 1) == ((c := cursor_of(clocked)).position, c.fence, c.deaths)


def test_a_settlement_behind_a_burial_under_way_is_refused(clocked, engine):
    """A plain look at the fence would let it through, and its effects would stand twice."""
    enter(clocked, "ada")
    held = take(clocked, "ada")
    with clocked.begin() as t:
        t.bury("ada", dead=True)
        late = in_thread(lambda: settle(clocked, held, advances=move(held, 5), set_aside=[set_aside()]))
        wait_for_a_lock(engine)

    assert isinstance(late(), LeaseLost)
    assert (0, []) == (cursor_of(clocked).position, deliveries(clocked))


def test_a_settlement_without_a_move_is_waited_for_too(clocked, engine):
    enter(clocked, "ada")
    held = take(clocked, "ada")
    with clocked.begin() as t:
        t.settle(settlement(held, set_aside=[set_aside()]))
        burial = in_thread(lambda: bury(clocked, "ada"))
        wait_for_a_lock(engine)

    assert burial() is True


@pytest.mark.parametrize("cursor", ["shared", "own"])
@pytest.mark.parametrize("end", ["retire", "bury"])
def test_a_settlement_of_what_was_set_aside_and_the_end_of_its_handler_or_worker_do_not_wait_in_a_circle(
    clocked, engine, cursor, end
):
    """Each would have had a row that the other asked for next: a deadlock, of which the server ends one."""
    enter(clocked, "ada")
    subscribe(clocked, "mail")
    if cursor == "own":
        with clocked.begin() as t:
            t.part("default", ["mail"])
    held = take(clocked, "ada", name="mail" if cursor == "own" else "")
    settle(clocked, held, set_aside=[set_aside("mail", worker="ada")])
    (row,) = deliveries(clocked)
    plans = {} if cursor == "own" else plan_of(clocked)
    joins = []

    def other():
        with clocked.begin() as t:
            return t.retire("mail") if end == "retire" else t.bury("ada", dead=True)

    @event.listens_for(engine, "after_cursor_execute")
    def amid(_connection, _cursor, statement, *_):
        if statement.startswith("DELETE FROM earnorm_delivery") and not joins:
            joins.append(in_thread(other))
            wait_for_a_lock(engine)

    settle(clocked, held, finished=[row.id], advances=move(held, 5), plans=plans)
    event.remove(engine, "after_cursor_execute", amid)

    assert (0 if end == "retire" else True) == joins[0]()
    assert [] == deliveries(clocked)


def test_a_delivery_run_on_its_own_is_settled_before_its_worker_is_buried_or_not_at_all(clocked, engine):
    enter(clocked, "ada")
    settle(clocked, take(clocked, "ada"), set_aside=[set_aside(worker="ada")])
    (row,) = deliveries(clocked)
    with clocked.begin() as t:
        t.settle(Settlement(worker="ada", running=[row.id], emitted=[entry("done")]))
        burial = in_thread(lambda: bury(clocked, "ada"))
        wait_for_a_lock(engine)

    assert burial() is True
    assert ["done"] == [e.name for e in read_all(clocked)]


@pytest.mark.parametrize("change", ["part", "rejoin", "pause", "subscribe", "retire"])
def test_who_changes_who_follows_waits_for_the_settlement_under_way(clocked, engine, change):
    subscribe(clocked, "mail", "audit")
    with clocked.begin() as t:
        t.part("default", ["audit"])
    plan, held = plan_of(clocked), take(clocked)
    changes = {
        "part": lambda t: t.part("default", ["mail"]),
        "rejoin": lambda t: t.rejoin("audit"),
        "pause": lambda t: t.pause("mail", paused=True),
        "subscribe": lambda t: t.subscribe([Registration(name="new", since="beginning")]),
        "retire": lambda t: t.retire("mail"),
    }

    def work():
        with clocked.begin() as t:
            changes[change](t)

    with clocked.begin() as t:
        t.settle(settlement(held, advances=move(held, 0), plans=plan))
        changing = in_thread(work)
        wait_for_a_lock(engine)

    assert changing() is None


def test_a_settlement_behind_one_who_joins_is_refused(clocked, engine):
    subscribe(clocked, "mail", "audit")
    with clocked.begin() as t:
        t.part("default", ["audit"])
    plan, held = plan_of(clocked), take(clocked)
    append_entries(clocked, entry(), entry())
    with clocked.begin() as t:
        assert t.rejoin("audit")
        late = in_thread(lambda: settle(clocked, held, advances=move(held, 2), plans=plan))
        wait_for_a_lock(engine)

    assert isinstance(late(), LeaseLost)
    assert 0 == cursor_of(clocked).position


def test_a_wrong_form_of_change_that_locks_no_group_would_not_wait(clocked, engine):
    subscribe(clocked, "mail")
    plan, held = plan_of(clocked), take(clocked)
    with clocked.begin() as t:
        t.settle(settlement(held, plans=plan))
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            connection.exec_driver_sql("UPDATE earnorm_group SET generation = generation + 1")


def test_settlements_of_two_ranges_do_not_wait_for_each_other(clocked):
    subscribe(clocked, "mail")
    plan, whole = plan_of(clocked), take(clocked, "ada")
    with clocked.begin() as t:
        lower = t.split(whole, 32)
        upper = t.take(t.cursors()[1], "bob")
    with clocked.begin() as t:
        t.settle(settlement(lower, advances=move(lower, 5), plans=plan))
        t._connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        settle(clocked, upper, advances=move(upper, 7), plans=plan)

    assert {("default", "", 0): 5, ("default", "", 32): 7} == positions(clocked)


def test_two_that_take_at_once_are_told_apart(clocked, engine):
    subscribe(clocked, "mail")
    with clocked.begin() as t:
        first = t.take(cursor_of_in(t), "bob")
        other = in_thread(lambda: try_take(clocked, "eve"))
        wait_for_a_lock(engine)

    assert first is not None
    assert other() is None


def test_a_heartbeat_waits_for_no_settlement(clocked):
    enter(clocked, "ada")
    held = take(clocked, "ada")
    with clocked.begin() as t:
        t.settle(settlement(held))
        with clocked.begin() as other:
            assert other.beat("ada", NOON)


# --- is it sound ---


FAULTS = {
    "DROP TRIGGER earnorm_log_horizon ON earnorm_log": "trigger earnorm_log_horizon",
    "ALTER TABLE earnorm_log DISABLE TRIGGER earnorm_log_horizon": "not ENABLE ALWAYS",
    "ALTER TABLE earnorm_log ENABLE TRIGGER earnorm_log_horizon": "not ENABLE ALWAYS",
    "ALTER FUNCTION earnorm_log_horizon SET search_path = public": "another schema",
    "ALTER SEQUENCE earnorm_log_position_seq CACHE 50": "CACHE 50",
    "ALTER SEQUENCE earnorm_log_position_seq RESTART": "stands at 0 and the log at 2",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_that_would_lose_events_is_refused_and_the_sql_it_prints_repairs_it(store, engine, fault):
    append_entries(store, entry(), entry())
    store.require_sound()
    with engine.begin() as connection:
        connection.exec_driver_sql(fault)
    with pytest.raises(UnsoundLog, match=FAULTS[fault]) as caught:
        store.require_sound()

    assert caught.value.repair in str(caught.value)
    with engine.begin() as connection:
        connection.exec_driver_sql(caught.value.repair)
    store.require_sound()


def test_whoever_takes_a_cursor_looks_whether_the_log_is_sound(clocked, engine):
    subscribe(clocked, "mail")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER earnorm_log_horizon ON earnorm_log")

    with pytest.raises(UnsoundLog):
        try_take(clocked, "bob")


def test_a_standby_is_refused(engine):
    class Standby:
        def exec_driver_sql(self, statement):
            return self

        def one(self):
            return (True, 1, True, 5, 5)

    with pytest.raises(UnsoundLog, match=r"standby(.|\n)*connect to the primary"):
        PostgreSQL(engine.dialect).require_sound(Standby())


def test_connecting_looks_whether_the_log_is_sound(postgresql, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER earnorm_log_horizon ON earnorm_log")

    db = connect(postgresql, tables="none")
    with pytest.raises(UnsoundLog, match="CREATE OR REPLACE TRIGGER"):
        db.ready()
    db.close()


# --- the schema ---


def test_an_upgrade_runs_every_step_once(engine):
    with engine.begin() as connection:
        assert [] == upgrade(connection)
        check(connection)


def test_upgrades_at_once_all_succeed(postgresql):
    engine, start = postgresql_engine(postgresql), threading.Barrier(4)

    def work():
        start.wait()
        with engine.begin() as connection:
            return upgrade(connection)

    joins = [in_thread(work) for _ in range(4)]
    ended = sorted((join() for join in joins), key=len)
    engine.dispose()

    assert [[], [], [], [*range(1, len(STEPS) + 1)]] == ended


def test_databases_that_open_at_once_make_their_tables_once(postgresql):
    """Also where the engine's transactions would not see what another one made while they waited."""

    class Note(BaseModel):
        text = StringField()

    engines = [postgresql_engine(postgresql, isolation_level="REPEATABLE READ") for _ in range(3)]
    databases = [connect(engine, name=f"db{number}") for number, engine in enumerate(engines)]
    ended = [join() for join in [in_thread(db.ready) for db in databases]]
    for db in databases:
        db.close()

    assert [None] * 3 == ended


def test_the_steps_as_a_script_make_a_sound_log_any_number_of_times(postgresql):
    engine = postgresql_engine(postgresql)
    for _ in range(2):
        with engine.connect() as connection:
            connection.connection.driver_connection.execute(sql("postgresql"))
            connection.connection.driver_connection.commit()
    store = SQLAlchemyStore(engine)
    append_entries(store, entry())
    store.require_sound()
    with engine.begin() as connection:
        check(connection)
        assert [] == upgrade(connection)
    engine.dispose()


# --- engines ---


def test_a_url_without_a_driver_means_psycopg_for_both(postgresql):
    db = connect(postgresql.replace("postgresql+psycopg:", "postgresql:"))
    drivers = [db.engine.dialect.driver, db.async_engine.dialect.driver]
    db.close()

    assert ["psycopg", "psycopg"] == drivers


def test_asyncpg_is_for_the_async_half():
    with postgres.database() as url:
        db = connect(url.set(drivername="postgresql+asyncpg"))
        drivers = [db.engine.dialect.driver, db.async_engine.dialect.driver]
        db.close()

    assert ["psycopg", "asyncpg"] == drivers


async def test_what_asyncpg_writes_a_worker_by_psycopg_reads():
    class Note(BaseModel):
        text = StringField()

    heard = []

    @event_handler("note.created", name="hear")
    def hear(note, event):
        heard.append((note.text, event.payload["text"]))

    with postgres.database() as url:
        async with connect(url.set(drivername="postgresql+asyncpg"), worker=True) as db:
            note = await Note(text="one").asave()
            async with db.transaction():
                await Note(text="two").asave()
                event_handler("note.later", name="later")(lambda event: heard.append(event.name))
                await note.aemit("later")
            assert ["one", "two"] == sorted(found.text for found in await Note.afind())
            counts = await db.adrain()

    assert 3 == counts["done"]
    assert {("one", "one"), ("two", "two"), "note.later"} == set(heard)


@pytest.mark.parametrize(
    "driver, absent, extra",
    [("psycopg", "psycopg", "postgres"), ("asyncpg", "psycopg", "postgres"), ("asyncpg", "asyncpg", "asyncpg")],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch, driver, absent, extra):
    monkeypatch.setattr(postgresql_engines, "find_spec", lambda name: None if name == absent else object())

    with pytest.raises(MissingExtra, match=rf"pip install 'earnorm\[{extra}\]'"):
        connect(f"postgresql+{driver}://u@h/d")


def test_another_driver_is_refused_without_the_password():
    with pytest.raises(UnsupportedDatabase, match="'psycopg2' is not supported") as caught:
        connect("postgresql+psycopg2://u:secret@h/d")
    assert "secret" not in str(caught.value)


def test_a_word_of_one_driver_is_translated_for_the_other():
    asyncpg = "postgresql+asyncpg://u@h/d?ssl=require&prepared_statement_cache_size=0"
    psycopg = "postgresql+psycopg://u@h/d?sslmode=require"

    assert {"sslmode": "require"} == dict(postgresql_engine(asyncpg).url.query)
    assert {"ssl": "require"} == dict(postgresql_async_engine(psycopg.replace("psycopg", "asyncpg")).url.query)


async def test_settings_in_the_url_are_those_of_both_halves():
    """libpq's words raised a bare TypeError, and that only when the async half was first used."""
    query = {
        "options": r"-c search_path=here,public --work-mem=5MB -cDateStyle=ISO,\ DMY",
        "application_name": "shop",
        "connect_timeout": "7",
        "prepare_threshold": "3",
    }
    names = ("search_path", "work_mem", "DateStyle", "application_name")
    with postgres.database() as place:
        async with connect(place.set(drivername="postgresql+asyncpg", query=query), worker=False) as db:
            async with db.async_engine.connect() as connection:
                found = [await connection.scalar(text(f"SHOW {name}")) for name in names]
            with db.engine.connect() as connection:
                assert found == [connection.scalar(text(f"SHOW {name}")) for name in names]

    assert ["here,public", "5MB", "ISO, DMY", "shop"] == found


@pytest.mark.parametrize(
    "query, reason",
    [
        ({"options": "-cwork_mem=5MB -B 7"}, "more than settings"),
        ({"options": "-c"}, "more than settings"),
        ({"connect_timeout": "soon"}, "connect_timeout='soon' is no number"),
        ({"sslrootcert": "ca.pem"}, "asyncpg knows no 'sslrootcert'; give connect.. an AsyncEngine"),
    ],
)
def test_what_asyncpg_cannot_be_told_is_refused_at_once_without_the_password(query, reason):
    with pytest.raises(UnsupportedDatabase, match=reason) as caught:
        connect(URL.create("postgresql+asyncpg", "u", "secret", "h", database="d", query=query))
    assert "secret" not in str(caught.value)


_PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'int'"


def _prepared(connection):
    for _ in range(10):
        connection.exec_driver_sql("SELECT %s::int", (1,))
    return connection.exec_driver_sql(_PREPARED).scalar_one()


@pytest.mark.parametrize("more, prepared", [("", 1), ("&prepare_threshold=0", 2), ("&prepare_threshold=20", 0)])
def test_a_session_of_one_s_own_keeps_what_is_sent_often_prepared(postgresql, more, prepared):
    engine = postgresql_engine(postgresql + more)
    with engine.connect() as connection:
        assert prepared == _prepared(connection)
    engine.dispose()


def test_so_does_an_async_one(postgresql):
    async def story():
        engine = postgresql_async_engine(postgresql)
        async with engine.connect() as connection:
            found = await connection.run_sync(_prepared)
        await engine.dispose()
        return found

    assert 1 == asyncio.run(story())


def _lent_after_two(engine):
    """The processes of two connections, the first of them given back last, and of three lent after that."""
    with engine.connect() as one, engine.connect() as other:
        first, last = (c.connection.driver_connection.info.backend_pid for c in (one, other))
    lent = []
    for _ in range(3):
        with engine.connect() as connection:
            lent.append(connection.connection.driver_connection.info.backend_pid)
    return first, last, lent


def test_whoever_needs_one_connection_at_a_time_uses_one(postgresql):
    """From a queue it was lent each of the pool in turn, all of whose backends had to read the catalogue anew."""
    engine = postgresql_engine(postgresql)
    first, last, lent = _lent_after_two(engine)
    engine.dispose()

    assert first != last
    assert [first] * 3 == lent


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_so_does_whoever_awaits_it(postgresql, driver):
    async def story():
        engine = postgresql_async_engine(postgresql.replace("+psycopg", f"+{driver}"))
        async with engine.connect() as one, engine.connect() as other:
            pids = [(await c.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one() for c in (one, other)]
        lent = []
        for _ in range(3):
            async with engine.connect() as connection:
                lent.append((await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one())
        await engine.dispose()
        return pids[0], lent

    first, lent = asyncio.run(story())
    assert [first] * 3 == lent


@pytest.mark.parametrize("word", ["soon", "-1"])
def test_a_threshold_that_is_no_number_is_refused(word):
    with pytest.raises(UnsupportedDatabase, match="prepare_threshold"):
        connect(f"postgresql://u@h/d?prepare_threshold={word}")


# --- where the worker is ---


@pytest.mark.parametrize("worker, where", [(None, "without a worker"), (True, "with an embedded worker")])
def test_a_server_s_worker_is_another_process_unless_asked_for(postgresql, worker, where):
    with connect(postgresql, worker=worker) as db:
        assert where in repr(db)
