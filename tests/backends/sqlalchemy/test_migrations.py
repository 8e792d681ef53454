"""Migrations: any number of upgrades, killed anywhere, end in the one schema."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text

import earnorm.errors
from earnorm import connect, emit
from earnorm.backends.sqlalchemy import migrations, tables
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.errors import MissingTables, SchemaTooNew

ALL = list(range(1, len(migrations.STEPS) + 1))


class Killed(Exception):
    pass


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def engine(url):
    engine = sqlite_engine(url)
    yield engine
    engine.dispose()


def upgrade(engine, to=None):
    with engine.begin() as connection:
        return migrations.upgrade(connection, to)


def schema(engine):
    """Everything SQLite knows of the schema, and the rows that belong to it."""
    with engine.connect() as connection:
        made = connection.execute(text("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")).fetchall()
        steps = connection.execute(text("SELECT step FROM earnorm_schema ORDER BY step")).scalars().all()
    return made, steps


@pytest.fixture
def expected(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/expected.db")
    upgrade(engine)
    found = schema(engine)
    engine.dispose()
    return found


def fail_before(engine, number):
    """Raise before the statement of that number since now."""
    seen = []

    def count(*rest):
        seen.append(rest)
        if len(seen) == number:
            raise Killed

    event.listen(engine, "before_cursor_execute", count)
    return lambda: event.remove(engine, "before_cursor_execute", count)


def statements_of_an_upgrade(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/counted.db")
    seen = []
    event.listen(engine, "before_cursor_execute", lambda *rest: seen.append(rest))
    upgrade(engine)
    engine.dispose()
    return len(seen)


def test_an_upgrade_runs_every_step_once(engine):
    assert ALL == upgrade(engine)
    assert [] == upgrade(engine)


def test_an_upgrade_makes_what_the_tables_say(engine, expected, tmp_path):
    plain = create_engine(f"sqlite:///{tmp_path}/declared.db")
    tables.metadata.create_all(plain)
    with plain.connect() as connection:
        declared = connection.execute(text("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")).fetchall()
    plain.dispose()

    def words(rows):
        return [(kind, name, " ".join((sql or "").replace("IF NOT EXISTS ", "").split())) for kind, name, sql in rows]

    assert words(declared) == words(expected[0])


def test_an_upgrade_can_stop_at_a_step(engine, expected):
    assert [1, 2] == upgrade(engine, to=2)
    with engine.connect() as connection:
        assert migrations.Status((1, 2), tuple(ALL[2:])) == migrations.status(connection)
    assert ALL[2:] == upgrade(engine)
    assert expected == schema(engine)


def test_status_of_an_empty_database_says_that_all_is_to_do_and_writes_nothing(engine):
    with engine.connect() as connection:
        assert migrations.Status((), tuple(ALL)) == migrations.status(connection)
        assert [] == connection.execute(text("SELECT name FROM sqlite_schema")).fetchall()


def test_an_upgrade_killed_before_any_statement_leaves_nothing_and_runs_again(engine, expected, tmp_path):
    for number in range(1, statements_of_an_upgrade(tmp_path) + 1):
        stop = fail_before(engine, number)
        with pytest.raises(Killed):
            upgrade(engine)
        stop()
        with engine.connect() as connection:
            assert [] == connection.execute(text("SELECT name FROM sqlite_schema")).fetchall()

    assert ALL == upgrade(engine)
    assert expected == schema(engine)


def test_an_upgrade_whose_statements_commit_one_by_one_may_be_killed_before_any_of_them(expected, tmp_path):
    """As on databases that commit each DDL statement: what was done stays done."""
    for number in range(1, statements_of_an_upgrade(tmp_path) + 1):
        engine = create_engine(f"sqlite:///{tmp_path}/killed{number}.db", isolation_level="AUTOCOMMIT")
        event.listen(engine, "before_cursor_execute", no_transaction, retval=True)
        stop = fail_before(engine, number)
        with suppress(Killed):
            upgrade(engine)
        stop()
        upgrade(engine)

        assert expected == schema(engine)
        engine.dispose()


def no_transaction(connection, cursor, statement, parameters, context, many):
    return ("SELECT 1" if statement.startswith("BEGIN") else statement), parameters


def test_on_an_engine_of_the_users_own_an_upgrade_is_one_transaction_too(url):
    plain = create_engine(url)
    stop = fail_before(plain, 8)
    with pytest.raises(Killed):
        upgrade(plain)
    stop()
    with plain.connect() as connection:
        assert [] == connection.execute(text("SELECT name FROM sqlite_schema")).fetchall()
    assert ALL == upgrade(plain)
    plain.dispose()


def test_threads_upgrading_at_once_all_succeed(url, expected):
    start, results = threading.Barrier(6), []

    def work():
        engine = sqlite_engine(url)
        start.wait()
        try:
            results.append(upgrade(engine))
        except BaseException as error:
            results.append(error)
        engine.dispose()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [[], [], [], [], [], ALL] == sorted(results, key=len)
    engine = sqlite_engine(url)
    assert expected == schema(engine)
    engine.dispose()


PROCESS = """
import sys
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
engine = sqlite_engine(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with engine.begin() as connection:
    print(upgrade(connection))
engine.dispose()
"""


def start(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_upgrading_at_once_all_succeed(engine, url, expected):
    command = [sys.executable, "-c", PROCESS, url]
    environment = os.environ | {"PYTHONPATH": str(Path(earnorm.errors.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(3)]
        ready = [process.stdout.readline() for process in processes]
        for process in processes:
            start(process)
        said = [process.stdout.read().strip() for process in processes]

    assert ["ready\n"] * 3 == ready

    assert [str(ALL), "[]", "[]"] == sorted(said)
    assert expected == schema(engine)


def test_a_schema_from_the_future_is_refused_and_left_alone(engine):
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO earnorm_schema VALUES (99)"))
    before = schema(engine)

    for door in (migrations.upgrade, migrations.check):
        with pytest.raises(SchemaTooNew) as caught, engine.begin() as connection:
            door(connection)
        assert (99, len(ALL)) == (caught.value.found, caught.value.known)
    assert before == schema(engine)


@pytest.mark.parametrize("how", ["create", "check", "none"])
@pytest.mark.parametrize("worker", [True, False])
def test_a_process_of_an_older_version_does_not_start(engine, url, how, worker):
    """With tables="none" it did; and a worker that knows no bundles would have passed over what is in them."""
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO earnorm_schema VALUES ({len(ALL) + 1})"))
    db = connect(url, tables=how, worker=worker)

    with pytest.raises(SchemaTooNew, match="upgrade the package"):
        db.ready()
    with pytest.raises(SchemaTooNew):
        emit("day.closed")
    assert [] == [thread.name for thread in threading.enumerate() if thread.name.startswith("earnorm-worker")]
    db.close()


def test_check_names_the_steps_that_are_missing(engine):
    upgrade(engine, to=3)
    with engine.connect() as connection:
        with pytest.raises(MissingTables, match="step 4"):
            migrations.check(connection)
    upgrade(engine)
    with engine.connect() as connection:
        migrations.check(connection)


def test_the_steps_as_a_script_make_the_same_schema(engine, expected):
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        driver.executescript(migrations.sql("sqlite"))
        driver.executescript(migrations.sql("sqlite"))

    assert expected == schema(engine)


def test_the_steps_are_written_for_other_databases_too():
    script = migrations.sql("postgresql")

    assert "BIGSERIAL" in script
    assert "WHERE state = 'open' AND ordered;" in script
