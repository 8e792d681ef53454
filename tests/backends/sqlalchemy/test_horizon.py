"""The safe horizon on PostgreSQL: no committed event is ever skipped, whoever commits when.

Each interleaving is played by hand, on connections of its own. What the horizon must not be made of is tried too:
each of those forms loses or hides an event here.
"""

import logging
import random
import threading
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from earnorm.backends.sqlalchemy.dialects import horizon as module
from earnorm.backends.sqlalchemy.dialects.horizon import Holder, Horizon, holder_of
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import VirtualClock
from earnorm.errors import ConnectionLost
from earnorm.glance import Span, glance_at
from earnorm.room import ROOM
from earnorm.testing._store_verbs import FAR, NOON, append, entry
from tests import postgresql as postgres


@pytest.fixture
def engine(postgresql):
    engine = made(postgresql)
    yield engine
    engine.dispose()


def made(url):
    engine = postgresql_engine(url, connect_args={"application_name": "shop"})
    with engine.begin() as connection:
        upgrade(connection)
    return engine


@pytest.fixture
def clock():
    return VirtualClock(NOON)


@pytest.fixture
def store(engine, clock):
    return SQLAlchemyStore(engine, clock=clock)


@pytest.fixture
def writer(engine):
    """Opens a transaction that commits when the test says so."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(engine.connect())


COLUMNS = "id, name, subject, key, data, at, correlation_id, depth, version, slot"


def values(name):
    return f"uuid_send(gen_random_uuid()), '{name}', '', '', ''::bytea, 0, ''::bytea, 0, 1, 0"


def write(connection, name="raw"):
    connection.exec_driver_sql(f"INSERT INTO earnorm_log ({COLUMNS}) VALUES ({values(name)})")


LOOKS = {"verb by verb": glance_at, "at a glance": SQLAlchemyStore.glance}
look = glance_at


@pytest.fixture(autouse=True, params=LOOKS)
def way(request, monkeypatch):
    """How a reader looks."""
    monkeypatch.setitem(globals(), "look", LOOKS[request.param])


def safe(store):
    """What a reader that starts now may see: the horizon, and the names up to it."""
    seen = look(store, Span(0, FAR, (), ROOM))
    return seen.horizon, [entry.name for entry in seen.entries]


# --- writers that commit late ---


def test_a_late_commit_with_a_lower_position_is_not_stepped_over(store, writer):
    late = writer()
    write(late, "first")
    append(store, "second")

    assert (0, []) == safe(store)
    late.commit()
    assert (2, ["first", "second"]) == safe(store)


def test_what_has_committed_below_the_open_writer_is_read(store, writer):
    append(store, "before")
    late = writer()
    write(late, "late")
    append(store, "after")

    assert (1, ["before"]) == safe(store)


def test_a_writer_that_gives_up_holds_nobody_back(store, writer):
    late = writer()
    write(late)
    append(store, "second")
    late.rollback()

    assert (2, ["second"]) == safe(store)


def test_the_lowest_of_many_open_writers_counts(store, writer):
    writers = [writer() for _ in range(5)]
    for number, connection in enumerate(writers):
        write(connection, str(number))
    ends = []
    for number in (3, 1, 0, 4, 2):
        writers[number].commit()
        ends.append(safe(store))

    assert [
        (0, []),
        (0, []),
        (2, ["0", "1"]),
        (2, ["0", "1"]),
        (5, ["0", "1", "2", "3", "4"]),
    ] == ends


FORMS = {
    "values": "INSERT INTO earnorm_log ({columns}) VALUES ({row}), ({row})",
    "select": "INSERT INTO earnorm_log ({columns}) SELECT {row} UNION ALL SELECT {row}",
    "with": "WITH w AS (INSERT INTO earnorm_log ({columns}) VALUES ({row}), ({row}) RETURNING id) SELECT * FROM w",
    "on conflict": "INSERT INTO earnorm_log ({columns}) VALUES ({row}), ({row}) ON CONFLICT DO NOTHING",
    "merge": "MERGE INTO earnorm_log USING (SELECT 1 UNION ALL SELECT 2) AS s ON false "
    "WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({row})",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_raw_insert_is_seen_coming(store, writer, form):
    late = writer()
    if form == "merge" and late.dialect.server_version_info < (15,):
        pytest.skip("this PostgreSQL has no MERGE")
    late.exec_driver_sql(FORMS[form].format(columns=COLUMNS, row=values("raw")))
    append(store, "second")

    assert (0, []) == safe(store)
    late.commit()
    assert (3, ["raw", "raw", "second"]) == safe(store)


def test_a_copy_is_seen_coming(store, writer):
    late = writer()
    driver = late.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY earnorm_log ({COLUMNS}) FROM STDIN") as copy:
        copy.write_row((uuid4().bytes, "raw", "", "", b"", 0, uuid4().bytes, 0, 1, 0))
    append(store, "second")

    assert (0, []) == safe(store)
    driver.commit()
    assert (2, ["raw", "second"]) == safe(store)


# --- savepoints, two phases, roles ---


def test_after_a_rolled_back_savepoint_the_lock_is_taken_anew(store, writer):
    late = writer()
    savepoint = late.begin_nested()
    write(late, "undone")
    savepoint.rollback()
    append(store, "one")
    # Nothing of the writer can come below what it has not begun to write.
    assert (2, ["one"]) == safe(store)

    write(late, "late")
    append(store, "two")
    assert (2, ["one"]) == safe(store)
    late.commit()
    assert (4, ["one", "late", "two"]) == safe(store)


def test_a_released_savepoint_keeps_the_lock(store, writer):
    late = writer()
    with late.begin_nested():
        write(late, "late")
    append(store, "one")

    assert (0, []) == safe(store)


def test_a_prepared_transaction_holds_its_place_until_it_commits(store, engine, writer):
    postgres.require_prepared_transactions()
    late, gid = writer(), f"earnorm_t_{uuid4().hex}"
    two_phases = late.begin_twophase(gid)
    write(late, "first")
    two_phases.prepare()
    append(store, "second")

    with engine.connect() as connection:
        held = holder_of(connection)
    assert (None, gid) == (held.pid, held.gid)
    assert gid in str(held)
    assert f"ROLLBACK PREPARED '{gid}'" == held.remedy
    assert (0, []) == safe(store)
    two_phases.commit()
    assert (2, ["first", "second"]) == safe(store)


@contextmanager
def role(engine, *grants):
    name = f"earnorm_t_{uuid4().hex}"
    with engine.begin() as connection:
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        connection.exec_driver_sql(f"CREATE ROLE {name}")
        for grant in (f"USAGE ON SCHEMA {schema}", *grants):
            connection.exec_driver_sql(f"GRANT {grant} TO {name}")
    try:
        yield name
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def test_a_role_that_may_only_insert_is_seen_coming_too(store, engine, writer):
    with role(engine, "INSERT ON earnorm_log", "USAGE ON SEQUENCE earnorm_log_position_seq") as name:
        late = writer()
        late.exec_driver_sql(f"SET LOCAL ROLE {name}")
        write(late, "first")
        append(store, "second")

        assert (0, []) == safe(store)
        late.commit()
        assert (2, ["first", "second"]) == safe(store)


def test_a_temporary_sequence_of_the_same_name_fools_nobody(store, writer):
    append(store, "one")
    late = writer()
    late.exec_driver_sql("CREATE TEMPORARY SEQUENCE earnorm_log_position_seq START 1000")
    late.exec_driver_sql("SELECT nextval('pg_temp.earnorm_log_position_seq')")
    write(late, "late")
    append(store, "two")

    assert (1, ["one"]) == safe(store)
    late.rollback()


def test_a_writer_to_a_sequence_that_has_given_nothing_out_is_seen_coming(store, writer):
    late = writer()
    late.exec_driver_sql("SELECT setval('earnorm_log_position_seq', 1000, false)")
    write(late, "late")
    append(store, "two")

    assert (0, []) == safe(store)
    late.commit()
    assert (1001, ["late", "two"]) == safe(store)


def test_an_upgrade_renews_the_function_of_an_older_version_beside_an_open_writer(engine, writer):
    source = text("SELECT prosrc FROM pg_proc WHERE oid = 'earnorm_log_horizon'::regproc")
    late = writer()
    write(late, "late")
    with engine.begin() as connection:
        ours = connection.scalar(source)
        connection.execute(text(module._FUNCTION.replace("flag text;", "flag text; -- older")))
        connection.execute(text("DELETE FROM earnorm_schema WHERE step = 8"))
        assert ours != connection.scalar(source)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        upgrade(connection)

        assert ours == connection.scalar(source)
    late.rollback()


def test_a_session_that_applies_changes_as_a_replica_is_seen_coming(store, writer):
    late = writer()
    late.exec_driver_sql("SET LOCAL session_replication_role = replica")
    write(late, "first")
    append(store, "second")

    assert (0, []) == safe(store)


def test_a_transaction_that_writes_to_two_logs_is_seen_by_both(store, writer):
    with postgres.schema() as other_url:
        other = made(other_url)
        other_store = SQLAlchemyStore(other)
        schema = other_url.query["options"].rpartition("=")[2]
        late = writer()
        write(late, "mine")
        late.exec_driver_sql(f"INSERT INTO {schema}.earnorm_log ({COLUMNS}) VALUES ({values('theirs')})")
        append(store, "second")
        append(other_store, "second")
        held = safe(store), safe(other_store)
        late.commit()
        free = safe(store), safe(other_store)
        other.dispose()

    assert ((0, []), (0, [])) == held
    assert ((2, ["mine", "second"]), (2, ["theirs", "second"])) == free


def test_the_writers_of_another_log_hold_nobody_back(store, writer):
    with postgres.schema() as other_url:
        other = made(other_url)
        with other.connect() as late:
            write(late)
            append(store, "mine")
            assert (1, ["mine"]) == safe(store)
        other.dispose()


def test_a_lock_of_the_application_is_no_writer(store, writer):
    append(store, "one")
    app = writer()
    for number in (0, 1, 2**40, -1):
        app.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
        app.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({number % 2**31}, 7)")
    append(store, "two")

    assert (2, ["one", "two"]) == safe(store)


# --- the reader's three statements ---


class During:
    """Does something once, just before the reader's statement of that number."""

    def __init__(self, engine, number, act):
        self.engine, self.left, self.act = engine, number, act

    def __enter__(self):
        event.listen(self.engine, "before_cursor_execute", self.look)

    def __exit__(self, *_):
        event.remove(self.engine, "before_cursor_execute", self.look)

    def look(self, *_):
        self.left -= 1
        if self.left == 0:
            self.act()


def follow(engine, act, before, isolation_level="READ COMMITTED"):
    """One look of a reader, with `act` before its statement of that number; the horizon it finds, and its rows."""
    with engine.connect().execution_options(isolation_level=isolation_level) as reader:
        with During(reader, before, act):
            horizon = Horizon().read(reader, VirtualClock(NOON))
            rows = reader.exec_driver_sql(f"SELECT name FROM earnorm_log WHERE position <= {horizon} ORDER BY position")
            return horizon, [row[0] for row in rows]


@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_wherever_a_commit_falls_between_the_three_nothing_is_passed_unseen(store, engine, writer, before):
    late = writer()
    write(late, "first")
    append(store, "second")

    assert follow(engine, late.commit, before) in ((0, []), (2, ["first", "second"]))


@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_wherever_a_writer_begins_between_the_three_nothing_is_passed_unseen(store, engine, writer, before):
    append(store, "first")
    late = writer()

    def begin():
        write(late, "late")
        append(store, "after")

    found = follow(engine, begin, before)
    late.commit()

    # Either it stops before the late one, or has not learned yet that there is more.
    assert (1, ["first"]) == found


def test_a_wrong_form_repeatable_read_passes_an_event_unseen(store, engine, writer):
    late = writer()
    write(late, "first")
    append(store, "second")

    assert (2, ["second"]) == follow(engine, late.commit, 2, "REPEATABLE READ")


def test_a_wrong_form_one_statement_passes_an_event_unseen(store, engine, writer):
    """Its snapshot is older than its look at the locks; a gate between the two lets the writer commit there."""
    late, gate = writer(), writer()
    write(late, "first")
    append(store, "second")
    gate.exec_driver_sql("SELECT pg_advisory_xact_lock(7, 7)")
    found = []

    def read():
        with engine.connect() as reader:
            rows = reader.exec_driver_sql(
                f"WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock(7, 7)), "
                f"safe AS MATERIALIZED (SELECT least(({module._LAST}), ({module._LOWEST})) AS horizon FROM gate) "
                "SELECT name, horizon FROM safe JOIN earnorm_log ON position <= horizon ORDER BY position"
            )
            found.extend(tuple(row) for row in rows)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 7")
    late.commit()
    gate.commit()
    thread.join()

    assert [("second", 2)] == found


def wait_until(engine, query):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.exec_driver_sql(query).scalar_one():
            connection.exec_driver_sql("SELECT pg_sleep(0.005)")


def test_a_wrong_form_without_the_database_hides_events_behind_somebody_else_s_writer(store, engine):
    append(store, "mine")
    with engine.connect() as connection:
        oid = connection.exec_driver_sql("SELECT 'earnorm_log'::regclass::oid").scalar_one()
    with postgres.database() as url:
        other = postgresql_engine(url)
        with other.connect() as elsewhere, engine.connect() as connection:
            elsewhere.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({oid & 65535}::bigint << 48)")
            wrong = "\n".join(line for line in module._LOWEST.splitlines() if "l.database" not in line)
            lowest = [connection.exec_driver_sql(form).scalar_one() for form in (module._LOWEST, wrong)]
            found = safe(store)
        other.dispose()

    assert [None, 0] == lowest
    assert (1, ["mine"]) == found


def test_the_locks_are_not_looked_at_again_while_nothing_was_written(store, engine):
    append(store, "one")
    safe(store)
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement))
    safe(store)
    once = [statement for statement in sent if "pg_locks" in statement]
    append(store, "two")
    safe(store)

    assert [] == once
    assert 1 == len([statement for statement in sent if "pg_locks" in statement])


def test_a_broken_connection_ends_what_was_known_of_the_horizon(store, engine):
    append(store, "one")
    safe(store)
    with pytest.raises(ConnectionLost, match="done again"), store.begin() as t:
        pid = t._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with engine.connect() as killer:
            killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
            wait_until(engine, f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}")
        t.horizon()
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement))

    assert (1, ["one"]) == safe(store)
    assert 1 == len([statement for statement in sent if "pg_locks" in statement])


# --- a horizon that stands still ---


def test_who_holds_the_horizon_is_named_after_five_seconds_once(store, clock, writer, caplog):
    late = writer()
    pid = late.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    write(late)
    append(store, "waits")
    with caplog.at_level(logging.WARNING, "earnorm.log"):
        safe(store)
        clock.advance(4.9)
        safe(store)
        assert [] == caplog.messages
        clock.advance(0.1)
        safe(store)
        safe(store)

    [message] = caplog.messages
    assert message.startswith("events past position 0 wait for an open transaction that wrote events: ")
    assert f"process {pid} (shop), open for 0 s" in message
    assert message.endswith(f"SELECT pg_terminate_backend({pid})")
    late.rollback()


def test_a_horizon_that_moves_is_no_stall(store, clock, writer, caplog):
    with caplog.at_level(logging.WARNING, "earnorm.log"):
        for _ in range(3):
            late = writer()
            write(late)
            append(store, "waits")
            safe(store)
            clock.advance(4)
            late.rollback()
            safe(store)

    assert [] == caplog.messages


def test_what_a_role_may_not_see_of_the_holder_is_left_out():
    assert "process 7" == str(Holder(7, None, None, None))


# --- many at once ---


def test_with_writers_that_dawdle_and_give_up_no_event_is_skipped(store, engine):
    """A plain cursor would miss a third of them."""
    random.seed(7)
    committed, done = [], threading.Event()

    def work(number):
        dice = random.Random(number)
        for step in range(25):
            name = f"{number}.{step}"
            with engine.connect() as connection:
                write(connection, name)
                connection.exec_driver_sql(f"SELECT pg_sleep({dice.random() / 200})")
                if dice.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()
                    committed.append(name)

    def read():
        cursor, names = 0, []
        last = False
        while True:
            last = done.is_set()
            with store.begin(readonly=True) as t:
                horizon = t.horizon()
                names += [e.name for e in t.read(cursor, horizon, FAR)]
            # It falls back where a writer read the sequence long before it locks; what it writes lies past both.
            cursor = max(cursor, horizon)
            if last:
                return names

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    found = []
    reader = threading.Thread(target=lambda: found.extend(read()))
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()

    assert sorted(committed) == sorted(found)


def test_one_append_of_many_takes_one_lock(store, engine):
    with store.begin() as t:
        t.append([entry() for _ in range(2_000)])
        locks = t._connection.execute(text("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"))

        assert locks.scalar_one() < 20
