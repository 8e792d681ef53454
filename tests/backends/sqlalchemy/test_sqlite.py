"""SQLite engines: no update lost, sync or async, and a transaction that is what it says."""

import asyncio
import threading

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy.dialects import READONLY
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_async_engine, sqlite_engine
from earnorm.errors import UnsupportedDatabase

PRAGMAS = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/app.db"


@pytest.fixture
def engine(url):
    engine = sqlite_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    yield engine
    engine.dispose()


def pragmas(connection):
    return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS]


def add_one(connection):
    n = connection.execute(text("SELECT n FROM counter")).scalar()
    connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})


def counted(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT n FROM counter")).scalar()


def run_threads(work, count):
    errors = []

    def guarded():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_that_read_modify_and_write_lose_nothing(engine):
    def work():
        for _ in range(30):
            with engine.begin() as connection:
                add_one(connection)

    assert [] == run_threads(work, 4)
    assert 120 == counted(engine)


def test_sessions_that_read_modify_and_write_lose_nothing(engine):
    def work():
        for _ in range(30):
            with Session(engine) as session:
                add_one(session)
                session.commit()

    assert [] == run_threads(work, 4)
    assert 120 == counted(engine)


def test_threads_each_with_an_async_engine_lose_nothing(engine, url):
    async def work():
        own = sqlite_async_engine(url)
        for _ in range(30):
            async with own.begin() as connection:
                await connection.run_sync(add_one)
        await own.dispose()

    assert [] == run_threads(lambda: asyncio.run(work()), 4)
    assert 120 == counted(engine)


async def test_tasks_on_one_async_engine_lose_nothing(engine, url):
    own = sqlite_async_engine(url)

    async def work():
        for _ in range(30):
            async with own.begin() as connection:
                await connection.run_sync(add_one)

    await asyncio.gather(*(work() for _ in range(4)))
    await own.dispose()

    assert 120 == counted(engine)


def test_python_s_own_transactions_would_lose_some(engine, url):
    """What the engines are for. One schedule, played by hand, rather than luck."""
    plain = create_engine(url)
    with plain.connect() as one, plain.connect() as other:
        read = [connection.execute(text("SELECT n FROM counter")).scalar() for connection in (one, other)]
        for connection, n in zip((one, other), read, strict=True):
            connection.rollback()
            connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})
            connection.commit()
    plain.dispose()

    assert 1 == counted(engine)


def test_an_engine_sets_its_pragmas(engine):
    with engine.connect() as connection:
        assert ["wal", 2, 1, 5000] == pragmas(connection)


async def test_an_async_engine_sets_the_same(url):
    engine = sqlite_async_engine(url)
    async with engine.connect() as connection:
        assert ["wal", 2, 1, 5000] == await connection.run_sync(pragmas)
    await engine.dispose()


def test_the_url_has_the_last_word(url):
    engine = sqlite_engine(f"{url}?busy_timeout=70&synchronous=NORMAL&foreign_keys=off&journal_mode=truncate")
    with engine.connect() as connection:
        assert ["truncate", 1, 0, 70] == pragmas(connection)
    engine.dispose()


def test_the_driver_s_own_word_for_the_timeout_counts_too(url):
    engine = sqlite_engine(f"{url}?timeout=2")
    with engine.connect() as connection:
        assert 2000 == connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    engine.dispose()


@pytest.mark.parametrize("bad", ["sqlite:///app.db?synchronous=0;DROP TABLE x", "postgresql://host/app"])
def test_what_is_no_sqlite_url_is_refused(bad):
    with pytest.raises(UnsupportedDatabase):
        sqlite_engine(bad)


def test_one_url_serves_both_drivers(url):
    aiosqlite = url.replace("sqlite:", "sqlite+aiosqlite:")

    assert "pysqlite" == sqlite_engine(aiosqlite).dialect.driver
    assert "aiosqlite" == sqlite_async_engine(url).dialect.driver


def test_a_transaction_holds_the_write_lock_from_its_beginning(url, engine):
    other = sqlite_engine(f"{url}?busy_timeout=0")
    with engine.begin():
        with pytest.raises(OperationalError, match="locked"), other.begin():
            raise AssertionError("not reached")
    with other.begin() as connection:
        add_one(connection)
    other.dispose()


def test_a_reader_waits_for_no_writer_and_sees_one_moment(url, engine):
    reading = sqlite_engine(f"{url}?busy_timeout=0").execution_options(**READONLY)
    with engine.begin() as writer:
        add_one(writer)
        with reading.begin() as reader:
            before = reader.execute(text("SELECT n FROM counter")).scalar()
            writer.commit()
            after = reader.execute(text("SELECT n FROM counter")).scalar()
    reading.dispose()

    assert (0, 0) == (before, after)
    assert 1 == counted(engine)


def test_a_connection_that_was_locked_out_does_not_go_on_without_a_transaction(url, engine):
    """SQLAlchemy's `begin` event leaves a connection whose BEGIN failed believing it still begins: it autocommits."""
    other = sqlite_engine(f"{url}?busy_timeout=0")
    with other.connect() as connection:
        with engine.begin():
            with pytest.raises(OperationalError):
                connection.execute(text("UPDATE counter SET n = 100"))
        connection.execute(text("UPDATE counter SET n = 200"))
        assert connection.in_transaction()
        connection.rollback()
    other.dispose()

    assert 0 == counted(engine)


def test_savepoints_and_ddl_roll_back(engine):
    with engine.begin() as connection:
        add_one(connection)
        with connection.begin_nested() as savepoint:
            add_one(connection)
            connection.execute(text("CREATE TABLE gone (n INTEGER)"))
            savepoint.rollback()

    assert 1 == counted(engine)
    with engine.connect() as connection:
        assert 0 == connection.execute(text("SELECT count(*) FROM sqlite_schema WHERE name = 'gone'")).scalar()


def test_autocommit_begins_nothing_and_the_next_user_of_the_connection_has_transactions_again(engine):
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("UPDATE counter SET n = 5"))
    assert 5 == counted(engine)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        add_one(connection)
        raise ZeroDivisionError

    assert 5 == counted(engine)


def test_new_files_may_be_opened_by_many_at_once(tmp_path):
    for number in range(10):
        url = f"sqlite:///{tmp_path}/new{number}.db"
        start = threading.Barrier(6)

        def work(url=url, start=start):
            engine = sqlite_engine(url)
            start.wait()
            with engine.begin() as connection:
                assert "wal" == connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            engine.dispose()

        assert [] == run_threads(work, 6)


def test_a_private_memory_database_works_in_its_thread():
    engine = sqlite_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
    with engine.connect() as connection:
        assert [] == connection.execute(text("SELECT n FROM counter")).fetchall()
    engine.dispose()
