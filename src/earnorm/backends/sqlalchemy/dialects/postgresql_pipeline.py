"""psycopg's pipeline by its own steps: several statements as one message, answered together.

By its public door, leaving it would be a round trip of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any

from psycopg import Pipeline, errors, generators
from psycopg.pq import ExecStatus

__all__ = ["REFUSED", "answers", "has_pipelines", "leave"]

REFUSED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)


@cache
def has_pipelines() -> bool:
    return Pipeline.is_supported()


def answers(pgconn: Any, count: int) -> Generator[Any, Any, list[Any]]:
    """End the message, and wait for the answers to so many statements; the last of what is returned says just that."""
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    found: list[Any] = []
    for _ in range(count + 1):
        found.extend((yield from generators.fetch_many(pgconn)))
    return found


def leave(pgconn: Any) -> None:
    """Out of the pipeline. If answers are still to come, the connection is of no use to anybody."""
    try:
        pgconn.exit_pipeline_mode()
    except errors.OperationalError:
        pgconn.finish()
