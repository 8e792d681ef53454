"""Failures after the commit: they reach no caller, so a test has to be told of them another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from earnorm import telemetry
from earnorm.telemetry import HandlerFailed

__all__ = ["Failures", "UnexpectedFailures", "expect_failures", "require_none", "watched"]

Failures = list[HandlerFailed]

# The innermost collector gets what fails. One stack for the process, since handlers fail in a worker's threads as well.
_collectors: list[Failures] = []


class UnexpectedFailures(AssertionError):
    """Handlers failed after the commit, and nobody expected it."""

    def __init__(self, failures: Failures) -> None:
        lines = "\n".join(f"  {failure.event.name}: {failure.sentence()}" for failure in failures)
        super().__init__(
            f"handlers failed after the commit:\n{lines}\n"
            f"if that is what the test is about, expect it: with earnorm.testing.expect_failures(): ..."
        )
        self.failures = tuple(failures)


@contextmanager
def expect_failures() -> Iterator[Failures]:
    """Handlers may fail after the commit inside this block: their failures are collected and fail no test.

        with expect_failures() as failures:
            order.emit("paid")
        assert ["no printer"] == [str(failure.error) for failure in failures]

    A whole test, class or module says so with `@pytest.mark.expect_failures`.
    """
    mine: Failures = []
    _collectors.append(mine)
    try:
        yield mine
    finally:
        # By identity: two empty lists are equal.
        _collectors[:] = [other for other in _collectors if other is not mine]


@contextmanager
def watched() -> Iterator[Failures]:
    """Collect what fails after the commit, but for what an `expect_failures` inside this block collects."""
    undo = telemetry.listen(_take, HandlerFailed)
    try:
        with expect_failures() as failures:
            yield failures
    finally:
        undo()


def require_none(failures: Failures) -> None:
    """Raises UnexpectedFailures, caused by the first of them; each is reported once."""
    found, failures[:] = list(failures), []
    if found:
        raise UnexpectedFailures(found) from found[0].error


def _take(failure: HandlerFailed) -> None:
    if _collectors and not failure.propagated:
        _collectors[-1].append(failure)
