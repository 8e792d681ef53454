"""The pytest plugin: a handler that fails after the commit fails the test, unless the test expected it.

It stands outside the package, whose import would load SQLAlchemy into every test run on the machine: until a test
or its conftest has imported `earnorm`, this does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

_FAILURES = pytest.StashKey[Any]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expect_failures: handlers may fail after the commit in this test (EarnORM)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if "earnorm" not in sys.modules:
        return (yield)
    from earnorm.testing.failures import watched

    with watched() as failures:
        if item.get_closest_marker("expect_failures") is None:
            item.stash[_FAILURES] = failures
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    _require_none(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    # What a worker does while a fixture closes its database counts as well.
    result = yield
    _require_none(item)
    return result


@pytest.fixture
def earnorm_rolled_back() -> Iterator[None]:
    """What the test writes to connected databases is undone at its end; `earnorm.testing.rolled_back` says how."""
    from earnorm.errors import NotConnected
    from earnorm.orm.connected import databases
    from earnorm.testing import rolled_back

    connected = databases()
    if not connected:
        raise NotConnected("the fixture earnorm_rolled_back")
    with ExitStack() as stack:
        for database in connected:
            stack.enter_context(rolled_back(database))
        yield


def _require_none(item: pytest.Item) -> None:
    failures = item.stash.get(_FAILURES, None)
    if failures:
        from earnorm.testing.failures import require_none

        require_none(failures)
