"""On PostgreSQL a transaction's first statement takes BEGIN along: what the server is sent, and what may go wrong."""

import asyncio
import tempfile

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError

from earnorm.backends.sqlalchemy.dialects import postgresql_begin
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_async_engine, postgresql_engine

FIRST = "SELECT %s::int"


def driver_of(connection):
    return connection.connection.driver_connection


def rounds(connection, work):
    """What ends each message that is sent in `work`, and is then waited for."""
    pgconn = driver_of(connection).pgconn
    with tempfile.TemporaryFile("r+") as file:
        pgconn.trace(file.fileno())
        try:
            work()
        finally:
            pgconn.untrace()
        file.seek(0)
        lines = [line.split("\t") for line in file]
    return [words[3].strip() for words in lines if words[1] == "F" and words[3].strip() in ("Sync", "Query")]


def test_begin_goes_with_the_first_statement(engine):
    with engine.connect() as connection:

        def work():
            connection.exec_driver_sql(FIRST, (1,))
            connection.exec_driver_sql(FIRST, (2,))
            connection.commit()

        # By itself it is another message, "Query", before them.
        assert ["Sync", "Sync", "Query"] == rounds(connection, work)


def test_so_it_does_where_it_is_awaited(postgresql):
    async def story():
        engine = postgresql_async_engine(postgresql)
        async with engine.connect() as connection:

            def work(connection):
                return rounds(connection, lambda: connection.exec_driver_sql(FIRST, (1,)))

            found = await connection.run_sync(work)
        await engine.dispose()
        return found

    assert ["Sync"] == asyncio.run(story())


def test_also_with_one_that_the_server_has_prepared(engine):
    with engine.connect() as connection:

        def work():
            assert 1 == connection.exec_driver_sql(FIRST, (1,)).scalar_one()
            connection.commit()

        found = [rounds(connection, work) for _ in range(8)]
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()

    # The sixth prepares it, which is answered by itself.
    assert [["Sync", "Query"]] * 5 == found[:5]
    assert [["Sync", "Query"]] * 2 == found[6:]
    assert 1 == prepared


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_transaction_is_the_one_that_was_asked_for(postgresql, level):
    engine = postgresql_engine(postgresql, isolation_level=level)
    options = {"postgresql_readonly": True, "postgresql_deferrable": True}
    with engine.connect().execution_options(**options) as connection:
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        text = "SELECT current_setting(%s), current_setting(%s), current_setting(%s)"
        found = connection.exec_driver_sql(text, names).one()
    engine.dispose()

    assert (level.lower(), "on", "on") == tuple(found)


def test_without_a_transaction_there_is_no_begin(postgresql):
    engine = postgresql_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        text = "SELECT %s::int, now() = statement_timestamp()"
        assert ["Sync"] * 2 == rounds(
            connection, lambda: [connection.exec_driver_sql(text, (1,)).one() for _ in range(2)]
        )
        assert "IDLE" == driver_of(connection).info.transaction_status.name
    engine.dispose()


def test_several_statements_without_parameters_are_sent_as_before(engine):
    with engine.connect() as connection:

        def work():
            connection.exec_driver_sql("CREATE TEMP TABLE one (id int); CREATE TEMP TABLE other (id int)")

        assert ["Query", "Query"] == rounds(connection, work)


def test_a_pooler_gets_begin_by_itself(postgresql):
    """It may not know of pipelines."""
    engine = postgresql_engine(postgresql, connect_args={"prepare_threshold": None})
    with engine.connect() as connection:
        driver_of(connection).prepare_threshold = None
        assert ["Query", "Sync"] == rounds(connection, lambda: connection.exec_driver_sql(FIRST, (1,)))
    engine.dispose()


@pytest.mark.parametrize("version, known", [("3.2.9", False), ("3.3.0", True), ("3.3.10.dev1", True), ("3.4.0", False)])
def test_cursors_of_another_psycopg_are_its_own(monkeypatch, version, known):
    monkeypatch.setattr(psycopg, "__version__", version)

    assert known == (psycopg.Cursor is not postgresql_begin.cursor())
    assert known == (psycopg.AsyncCursor is not postgresql_begin.async_cursor())


def test_a_cursor_that_is_asked_for_is_had(postgresql):
    engine = postgresql_engine(postgresql, connect_args={"cursor_factory": psycopg.ClientCursor})
    with engine.connect() as connection:
        assert psycopg.ClientCursor is driver_of(connection).cursor_factory
    engine.dispose()


# --- what goes wrong ---


def test_a_first_statement_that_is_refused_fails_the_transaction_until_its_rollback(engine):
    with engine.connect() as connection:
        with pytest.raises(DataError, match="division by zero"):
            connection.execute(text("SELECT 1 / CAST(:by AS int)"), {"by": 0})
        assert "INERROR" == driver_of(connection).info.transaction_status.name
        connection.rollback()
        assert 1 == connection.execute(text("SELECT 1 / CAST(:by AS int)"), {"by": 1}).scalar_one()


def test_what_cannot_be_sent_begins_nothing(engine):
    with engine.connect() as connection:
        with pytest.raises(ProgrammingError, match="cannot adapt"):
            connection.exec_driver_sql(FIRST, (object(),))
        assert "IDLE" == driver_of(connection).info.transaction_status.name
        connection.rollback()
        assert 1 == connection.exec_driver_sql(FIRST, (1,)).scalar_one()


def test_a_connection_that_was_lost_is_replaced_by_another(engine):
    with engine.connect() as connection:
        lost = driver_of(connection).info.backend_pid
    other = psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
    with other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (lost,))
    with engine.connect() as connection:
        with pytest.raises(OperationalError) as caught:
            connection.exec_driver_sql(FIRST, (1,))
        connection.rollback()
        found = connection.exec_driver_sql("SELECT pg_backend_pid(), %s::int", (1,)).one()

    assert caught.value.connection_invalidated
    assert lost != found[0]


def test_whoever_is_cancelled_amid_it_leaves_a_connection_that_is_of_use(postgresql):
    async def story():
        engine = postgresql_async_engine(postgresql)
        async with engine.connect() as connection:
            waiting = asyncio.ensure_future(connection.exec_driver_sql("SELECT pg_sleep(%s)", (60,)))
            async with engine.connect() as other:
                busy = "SELECT count(*) FROM pg_stat_activity WHERE query ~ %s AND state = 'active' AND wait_event = %s"
                while not (await other.exec_driver_sql(busy, ("pg_sleep", "PgSleep"))).scalar_one():
                    await other.rollback()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with engine.connect() as connection:
            found = (await connection.exec_driver_sql(FIRST, (1,))).scalar_one()
        await engine.dispose()
        return found

    assert 1 == asyncio.run(story())
