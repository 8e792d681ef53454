"""What every test stands on: a clean slate, and how hard Hypothesis looks, the same way twice in CI."""

import os

import pytest
from hypothesis import settings

from earnorm.testing import isolated
from tests import postgresql as postgres

pytest_plugins = ("pytest_earnorm",)

settings.register_profile("default", max_examples=100, deadline=None)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def pytest_sessionfinish():
    # Not a fixture's end, which would be part of the last test and of its time.
    postgres.drop_databases()


@pytest.fixture(autouse=True)
def clean_slate():
    """A test may define `class User(BaseModel)`, register handlers and connect; the next one sees nothing of it."""
    with isolated():
        yield


@pytest.fixture
def postgresql():
    """A fresh schema on PostgreSQL, by its URL; it is dropped when the test ends."""
    with postgres.schema() as url:
        yield url.render_as_string(hide_password=False)
