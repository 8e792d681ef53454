"""The SQL store on PostgreSQL: the suite, and what only this database has."""

import pytest
from sqlalchemy import delete

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.testing.store_suite import StoreSuite


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
    def prune(self, engine):
        def prune():
            with engine.begin() as connection:
                connection.execute(delete(tables.log))

        return prune
