"""The attachment: what it puts in place of a log has to be one, since only the full form of `make compat` calls it."""

import inspect

from earnorm.backends.sqlalchemy.log import Log
from tests.compat.attachment import CountingLog


def test_the_log_that_counts_is_called_as_the_boundary_calls_a_log():
    methods = dict(inspect.getmembers(Log, lambda member: inspect.isfunction(member) and member.__name__[0] != "_"))

    assert {name: _parameters(method) for name, method in methods.items()} == {
        name: _parameters(getattr(CountingLog, name)) for name in methods
    }


def _parameters(method):
    return [(parameter.name, parameter.kind) for parameter in inspect.signature(method).parameters.values()]
