"""ROLLBACK that leaves alone what a session has prepared.

The pool ends each transaction that only read with ROLLBACK, and psycopg drops all prepared statements at every one:
those of the writes in between as well, and ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from psycopg._preparing import PrepareManager
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine

__all__ = ["keep_prepared"]


def keep_prepared(engine: Engine) -> None:
    """Over each ROLLBACK of a transaction in which nothing failed."""
    dialect: Any = engine.dialect
    dialect.do_rollback = partial(_roll_back, dialect.do_rollback)


def _roll_back(ordinary: Callable[[Any], None], connection: Any) -> None:
    driver = getattr(connection, "driver_connection", connection)
    # The one connection of a test that is rolled back may be asyncpg's.
    pgconn = getattr(driver, "pgconn", None)
    status = None if pgconn is None else pgconn.transaction_status
    if status == TransactionStatus.IDLE and not (driver._tpc or driver._num_transactions or driver._pipeline):
        # As after each commit, on the way back to the pool; psycopg takes its lock to find that out.
        return
    if status != TransactionStatus.INTRANS:
        # What failed may be a statement that was prepared for a table as it was.
        ordinary(connection)
        return
    # psycopg is handed an empty book to clear. The server keeps them: it looks a statement's tables up anew if any of
    # them has changed, or was created in the transaction that is rolled back.
    book, driver._prepared = driver._prepared, PrepareManager()
    try:
        ordinary(connection)
    finally:
        driver._prepared = book
