"""`earnorm db`: the log's tables made, looked at and printed from a shell; every failure one line and its exit code."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, inspect, make_url, text

from earnorm import connect
from earnorm.backends.sqlalchemy import migrations
from earnorm.cli import main
from earnorm.cli.failures import without_password

LAST = len(migrations.STEPS)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.db"


@pytest.fixture
def url(file):
    return f"sqlite:///{file}"


@pytest.fixture
def app(tmp_path, monkeypatch):
    """An application's module of its own, found from where its developer stands."""

    def write(source, name):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


def run(*arguments, env=None):
    return CliRunner().invoke(main, ["db", *map(str, arguments)], env={"EARNORM_DATABASE_URL": None, **(env or {})})


def refused(code, words, *arguments, env=None):
    """The command ends with `code` and one line that holds `words`, without a traceback."""
    told = run(*arguments, env=env)
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("Error:")]
    assert words in line
    assert (code, "") == (told.exit_code, told.stdout)
    assert "Traceback" not in told.output
    return line


def tables(file):
    engine = create_engine(f"sqlite:///{file}")
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


# --- upgrade ---


def test_upgrade_makes_the_tables_and_a_second_one_finds_nothing_to_do(url, file):
    told = run("upgrade", "--url", url)

    assert 0 == told.exit_code
    assert f"{LAST} steps run" in told.stdout
    assert {"earnorm_log", "earnorm_schema"} <= tables(file)
    assert "nothing to do" in run("upgrade", "--url", url).stdout


def test_upgrade_may_stop_behind_a_step(url):
    told = run("upgrade", "--url", url, "--to", 1)

    assert "step 1 (make_log): done" in told.stdout
    assert "1 step run" in told.stdout


def test_a_step_that_is_not_there_is_refused_before_anything_is_made(url, file):
    refused(2, f"no step {LAST + 1}", "upgrade", "--url", url, "--to", LAST + 1)
    refused(2, "no step 0", "upgrade", "--url", url, "--to", 0)

    assert "earnorm_log" not in tables(file)


def test_what_upgrade_made_is_what_connect_asks_for(url):
    run("upgrade", "--url", url)

    with connect(url, worker=False, tables="check") as db:
        assert {"done": 0, "retry": 0, "dead": 0, "skipped": 0} == db.drain()


def test_the_environment_names_the_database(url):
    assert "current" in run("check", env={"EARNORM_DATABASE_URL": made(url)}).stdout


def made(url):
    run("upgrade", "--url", url)
    return url


# --- an application's own database ---


def test_an_application_is_named_by_its_module(app, url, file):
    app(f"from earnorm import connect\n\nclass held:\n    db = connect({url!r}, worker=False)\n", "shop_cli")

    told = run("upgrade", "shop_cli:held.db", env={"EARNORM_DATABASE_URL": "sqlite:////nowhere/else.db"})

    assert 0 == told.exit_code, told.output
    assert "earnorm_log" in tables(file)


def test_looking_at_an_applications_database_makes_nothing(app, url, file):
    """The engine of a connected database makes its tables at the first connection, whoever asks for one."""
    app(f"from earnorm import connect\n\ndb = connect({url!r}, worker=False)\n", "looked_at")
    create_engine(url).connect().close()
    file.touch()

    assert f"{LAST} steps pending" in run("status", "looked_at:db").stdout
    refused(1, "step 1", "check", "looked_at:db")
    assert set() == tables(file)


def test_an_application_that_cannot_be_found_is_told(app, url):
    app("value = 1\n", "no_database")
    app("1 / 0\n", "broken_module")

    refused(2, "write module:db", "status", "no_database")
    refused(2, "write module:db", "status", "no_database:")
    refused(2, "No module named 'not_there'", "status", "not_there:db")
    refused(2, "importing broken_module failed: ZeroDivisionError", "status", "broken_module:db")
    refused(2, "no_database has no 'db'", "status", "no_database:db")
    refused(2, "not what connect() returns", "status", "no_database:value")
    refused(2, "give one of them", "status", "no_database:db", "--url", url)


# --- looking ---


def test_status_tells_what_is_done_and_what_is_pending(url):
    run("upgrade", "--url", url, "--to", 2)
    told = run("status", "--url", url)

    assert "step 2 (make_subscriptions): done" in told.stdout
    assert "step 3 (make_workers): pending" in told.stdout
    assert (0, f"{LAST - 2} steps pending") == (told.exit_code, told.stdout.splitlines()[-1].rpartition(": ")[2])


def test_status_as_json_is_for_programs(url):
    run("upgrade", "--url", url, "--to", 1)
    found = json.loads(run("status", "--url", url, "--json").stdout)

    assert (False, [{"step": 1, "name": "make_log"}]) == (found["current"], found["applied"])
    assert list(range(2, LAST + 1)) == [step["step"] for step in found["pending"]]
    run("upgrade", "--url", url)
    assert json.loads(run("status", "--url", url, "--json").stdout)["current"] is True


def test_check_ends_with_one_until_the_tables_are_current(url):
    run("upgrade", "--url", url, "--to", 1)

    assert "earnorm db upgrade" in refused(1, "step 2 (make_subscriptions)", "check", "--url", url)
    assert 0 == run("check", "--url", made(url)).exit_code


def test_a_database_of_a_newer_version_is_refused_and_told(url):
    engine = create_engine(made(url))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO earnorm_schema (step) VALUES (99)"))
    engine.dispose()

    refused(1, "upgrade the package", "check", "--url", url)
    refused(1, "upgrade the package", "upgrade", "--url", url)
    assert [99] == json.loads(run("status", "--url", url, "--json").stdout)["unknown"]
    assert "newer than this EarnORM" in run("status", "--url", url).stdout


def test_looking_at_a_file_that_is_not_there_makes_none(url, file):
    refused(3, "no such file", "status", "--url", url)
    refused(3, "no such file", "check", "--url", url)

    assert not file.exists()


# --- on a server ---


def test_the_commands_work_on_postgresql(postgresql):
    assert "there is no" not in refused(1, "step 1 (make_log)", "check", "--url", postgresql)
    assert "step 2 (make_subscriptions): done" in run("upgrade", "--url", postgresql, "--to", 2).stdout
    assert [1, 2] == [
        step["step"] for step in json.loads(run("status", "--url", postgresql, "--json").stdout)["applied"]
    ]
    assert f"{LAST - 2} steps run" in run("upgrade", "--url", postgresql).stdout
    assert 0 == run("check", "--url", postgresql).exit_code

    with connect(postgresql, worker=False, tables="check") as db:
        assert 0 == db.drain()["done"]


def test_a_server_that_is_not_there_is_one_line_without_a_password():
    told = refused(3, "127.0.0.1", "status", "--url", "postgresql+psycopg://ada:secret@127.0.0.1:1/shop")

    assert "ada:***@" in told


def test_a_database_that_is_not_there_is_told(postgresql):
    url = make_url(postgresql).set(database="earnorm_t_nowhere").render_as_string(hide_password=False)

    refused(3, "earnorm_t_nowhere", "upgrade", "--url", url)


# --- sql ---


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_sql_prints_the_script_of_a_dialect(dialect):
    assert migrations.sql(dialect) == run("sql", "--dialect", dialect).stdout


def test_sql_takes_the_dialect_of_the_database_named(url, file):
    assert migrations.sql("sqlite") == run("sql", "--url", url).stdout
    assert not file.exists()


def test_the_script_makes_what_upgrade_makes(file, tmp_path):
    import sqlite3

    by_hand = sqlite3.connect(file)
    by_hand.executescript(run("sql", "--dialect", "sqlite").stdout)
    by_hand.close()

    assert 0 == run("check", "--url", f"sqlite:///{file}").exit_code


# --- what cannot be done ---


def test_no_database_at_all_is_told():
    refused(2, "no database is named", "status")
    refused(2, "no database is named", "sql")
    refused(2, "not one of", "sql", "--dialect", "oracle")


def test_a_url_that_stands_alone_is_told_where_it_goes(url):
    """It was taken for a module, which could not be imported."""
    refused(2, "a database's URL is an option: --url URL", "status", url)


def test_a_database_that_is_no_use_is_told():
    refused(2, "no log for mysql", "upgrade", "--url", "mysql://ada:secret@db/shop")
    refused(2, "temporary file of one process", "upgrade", "--url", "sqlite://")
    refused(3, "unable to open database file", "upgrade", "--url", "sqlite:////nowhere/at/all.db")


def test_a_locked_database_is_one_line(url, file):
    import sqlite3

    other = sqlite3.connect(made(url).removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    refused(3, "database is locked", "upgrade", "--url", f"{url}?busy_timeout=1")
    other.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ada:secret@db/shop",
        "ada:secret@db/shop",
        "postgresql+nodriver://ada:secret@db/shop",
    ],
)
def test_no_password_is_printed(url):
    for command in ("upgrade", "status", "check"):
        told = run(command, "--url", url)

        assert told.exit_code in (2, 3)
        assert "secret" not in told.output


def test_a_password_in_the_middle_of_a_sentence_is_hidden():
    assert "at x://ada:***@db/shop, no" == without_password("at x://ada:se:cr@et@db/shop, no")
    assert "password=*** host=db" == without_password("password=secret host=db")


def test_the_console_script_is_installed():
    """As a user's shell runs it: the exit code reaches the shell and nothing but the line does."""
    env = {name: value for name, value in os.environ.items() if name != "EARNORM_DATABASE_URL"}
    told = subprocess.run(
        [sys.executable, "-W", "error", "-m", "earnorm.cli", "db", "check", "--url", "sqlite:////nowhere/x.db"],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        timeout=60,
    )

    assert (3, "") == (told.returncode, told.stdout)
    assert told.stderr.startswith("Error: sqlite")
    assert 1 == len(told.stderr.splitlines())
