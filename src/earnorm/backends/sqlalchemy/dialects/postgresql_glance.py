"""A glance on PostgreSQL: its statements as one message, psycopg's pipeline, one round trip and not five.

The server takes them one after the other, and under READ COMMITTED each sees what was committed when its own turn
came; which is all that the horizon asks for. They go below SQLAlchemy, which takes as long as the server for each.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cache
from typing import Any

from psycopg import Connection, Error
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from sqlalchemy.dialects.postgresql.base import PGDialect

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects.horizon import _IN_FRONT, _LAST, _LOWEST
from earnorm.backends.sqlalchemy.dialects.postgresql_commit import (
    Statement,
    _forget,
    _send,
)
from earnorm.backends.sqlalchemy.dialects.postgresql_pipeline import REFUSED, answers, has_pipelines, leave
from earnorm.backends.sqlalchemy.statements import Statements
from earnorm.backends.sqlalchemy.width import LOT
from earnorm.errors import ConnectionLost
from earnorm.glance import Span

__all__ = ["answers_of"]

# Under any other isolation, which a server or a role may have for its default, one message would be one snapshot.
_FIRST = f"SELECT ({_LAST}), current_setting('transaction_isolation') = 'read committed'"


# The entries are asked for before it is known how far they may be read.
_FAR = (1 << 63) - 1

# Which of the answers they are.
_ENTRIES = 3

# Looking at the locks of the whole server takes a third of the message's time, and most looks find one entry, the next.
# What can be read is committed: where each position up to the last one can, no lock is on any of them. So many are
# counted; among more there mostly is one under way or rolled back. The last one is asked for again, and not lower.
_COUNTED = 32
_LOWEST_IF_ANY = f"""\
SELECT CASE WHEN s.last - $1 BETWEEN 0 AND {_COUNTED}
  AND s.last - $1 = (SELECT count(*) FROM {tables.log.name} WHERE position > $1 AND position <= s.last)
  THEN NULL ELSE ({_LOWEST}) END
FROM ({_LAST}) AS s (last)"""  # noqa: S608  names of ours


@cache
def _words() -> Statements:
    """With the server's own marks for parameters."""
    dialect: Any = PGDialect
    return Statements(dialect(paramstyle="numeric_dollar"))


@cache
def _asked(text: str) -> Statement:
    return Statement(text.encode(), (), ())


def answers_of(driver: Any, span: Span | None) -> list[Any] | None:
    """What was asked for, in order: the last position, the lowest lock, what lies in front of the lowest bundle.

    Then the span's entries if it is given, as `Width.entries` has them, and the groups beside what is set aside. All
    but the entries are rows. None where they cannot be asked together, or were refused: whoever asks one by one is told
    why. Raises ConnectionLost.
    """
    if not isinstance(driver, Connection) or not _can_ask(driver):
        return None
    statements = _questions(span)
    try:
        with driver.lock:
            found = driver.wait(_talk(driver, statements))
    except Error as error:
        if driver.closed:
            raise ConnectionLost(str(error)) from error
        return None
    if not {answer.status for answer in found}.isdisjoint(REFUSED):
        for statement in statements:
            # It may be as unknown to the server as it was before.
            _forget(driver, statement)
        return None
    told = _loaded(driver, [answer for answer in found if answer.status == ExecStatus.TUPLES_OK], span)
    return told if told[0][0][1] else None


def _can_ask(driver: Connection[Any]) -> bool:
    pgconn = driver.pgconn
    # Where statements may be prepared, the session is one's own (`postgresql_engines`).
    is_own = driver.prepare_threshold is not None and has_pipelines()
    is_free = pgconn.transaction_status == TransactionStatus.IDLE and pgconn.pipeline_status == PipelineStatus.OFF
    return is_own and is_free and pgconn.parameter_status(b"client_encoding") == b"UTF8"


def _questions(span: Span | None) -> list[Statement]:
    # In this order: see `horizon`. What is not read in between may be one statement: that is one snapshot.
    words = _words()
    first, last = _asked(_FIRST), _asked(words.groups_and_waiting.text)
    if span is None:
        return [first, _asked(_LOWEST), _asked(_IN_FRONT), last]
    reading, values = words.looking(_FAR, span)
    lowest = _statement(_LOWEST_IF_ANY, [span.after])
    return [first, lowest, _asked(_IN_FRONT), _statement(reading.text, reading.ordered(values)), last]


def _statement(text: str, values: Sequence[int]) -> Statement:
    return Statement(text.encode(), [b"%d" % value for value in values], [Format.TEXT] * len(values))


def _talk(driver: Connection[Any], statements: Sequence[Statement]) -> Generator[Any, Any, list[Any]]:
    pgconn = driver.pgconn
    pgconn.enter_pipeline_mode()
    try:
        expected = sum([_send(driver, statement, Format.BINARY) for statement in statements])
        return (yield from answers(pgconn, expected))
    finally:
        leave(pgconn)


def _loaded(driver: Connection[Any], answers: Sequence[Any], span: Span | None) -> list[Any]:
    loading, told = Transformer(driver), list[Any]()
    for number, answer in enumerate(answers):
        if answer.ntuples:
            loading.set_pgresult(answer)
        if span is not None and number == _ENTRIES:
            told.append(_words().width.entries(_lots(loading, answer.ntuples), span.room))
        else:
            told.append(loading.load_rows(0, answer.ntuples, tuple) if answer.ntuples else [])
    return told


def _lots(loading: Any, count: int) -> Iterator[list[tuple[Any, ...]]]:
    return (loading.load_rows(start, min(start + LOT, count), tuple) for start in range(0, count, LOT))
