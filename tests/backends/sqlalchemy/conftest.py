"""What tests of the backend have in common."""

import pytest

from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine


@pytest.fixture
def engine(postgresql):
    """As a database on PostgreSQL has it, with no tables yet."""
    engine = postgresql_engine(postgresql)
    yield engine
    engine.dispose()
