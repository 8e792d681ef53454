"""On PostgreSQL what a session has prepared outlives a ROLLBACK, unless a statement had failed."""

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError

from earnorm import BaseModel, IntegerField, StringField, connect
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_async_engine

# psycopg prepares what it has sent five times.
OFTEN = 6
PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '::int'"


def look(engine, times=1):
    """In a transaction each, which the pool ends."""
    for number in range(times):
        with engine.connect() as connection:
            assert number == connection.exec_driver_sql("SELECT %s::int", (number,)).scalar_one()


def prepared(engine):
    with engine.connect() as connection:
        return connection.exec_driver_sql(PREPARED).scalar_one()


def test_what_is_read_often_is_prepared(engine):
    look(engine, OFTEN + 2)

    assert 1 == prepared(engine)


def test_also_where_it_is_awaited(postgresql):
    async def story():
        engine = postgresql_async_engine(postgresql)
        for number in range(OFTEN + 2):
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT %s::int", (number,))
        async with engine.connect() as connection:
            found = (await connection.exec_driver_sql(PREPARED)).scalar_one()
        await engine.dispose()
        return found

    assert 1 == asyncio.run(story())


def test_who_reads_between_two_saves_leaves_the_append_prepared(postgresql):
    """psycopg dropped it at each read, and the next save paid for its plan, twice the time of the append."""
    with connect(postgresql, worker=False) as db:

        class Order(BaseModel):
            id = IntegerField(primary_key=True)
            status = StringField(default="new")

        def appends():
            with db.engine.connect() as connection:
                text = "SELECT name, prepare_time FROM pg_prepared_statements WHERE statement ~ 'INTO earnorm_log'"
                return connection.exec_driver_sql(text).all()

        for number in (1, 2):  # the first one makes the tables be there
            Order(id=number).save()
        first = appends()
        for number in range(3, 6):
            Order.get(number - 1)
            Order(id=number).save()

        assert 1 == len(first)
        assert first == appends()


def test_after_a_statement_that_failed_nothing_is(engine):
    look(engine, OFTEN)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="division by zero"):
        connection.exec_driver_sql("SELECT 1 / %s", (0,))

    assert 0 == prepared(engine)


def test_a_statement_for_a_table_that_was_rolled_back_fails_once_at_most(engine):
    def fill(type_):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE box (size {type_})")
            for number in range(OFTEN):
                connection.exec_driver_sql("INSERT INTO box VALUES (%s) RETURNING size", (number,))
            if type_ == "int":
                connection.rollback()

    fill("int")
    with pytest.raises(DBAPIError, match="cached plan must not change result type"):
        fill("bigint")
    fill("bigint")

    with engine.connect() as connection:
        assert OFTEN == connection.exec_driver_sql("SELECT count(*) FROM box").scalar_one()
