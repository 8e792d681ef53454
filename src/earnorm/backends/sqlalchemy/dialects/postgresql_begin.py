"""BEGIN and the first statement of a transaction as one message: psycopg's cursors, with one round trip fewer.

psycopg sends BEGIN by itself and waits for an answer that tells nothing. What its own cursors do is done here in the
same steps, so all of this is for the one series of psycopg whose steps these are; elsewhere its cursors are its own.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import AsyncCursor, Cursor, errors
from psycopg._cursor_base import BaseCursor
from psycopg._preparing import Prepare
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, TransactionStatus

from earnorm.backends.sqlalchemy.dialects.postgresql_pipeline import answers, has_pipelines, leave

__all__ = ["async_cursor", "cursor"]

_SERIES = (3, 3)

_Steps = Generator[Any, Any, None]


def cursor() -> type[Cursor[Any]]:
    """What a connection is to have for a cursor."""
    return _Beginning if _is_known() else Cursor


def async_cursor() -> type[AsyncCursor[Any]]:
    return _AsyncBeginning if _is_known() else AsyncCursor


def _is_known() -> bool:
    return tuple(map(int, psycopg.__version__.split(".")[:2])) == _SERIES and has_pipelines()


class _Either(BaseCursor[Any, Any]):
    """What the cursors of both colours do; it stands before psycopg's own."""

    def _execute_gen(self, query: Any, params: Any = None, **words: Any) -> _Steps:
        if params and _begins(self._conn):
            return _execute(self, query, params, **words)
        return super()._execute_gen(query, params, **words)


class _Beginning(_Either, Cursor[Any]): ...


class _AsyncBeginning(_Either, AsyncCursor[Any]): ...


def _begins(driver: Any) -> bool:
    """Whether the next statement begins a transaction. A pooler, behind which nothing is prepared, gets BEGIN apart."""
    return (
        driver.pgconn.transaction_status == TransactionStatus.IDLE
        and not driver._autocommit
        and driver._prepared.prepare_threshold is not None
        and driver._pipeline is None
    )


def _execute(cursor: Any, query: Any, params: Any, *, prepare: bool | None, binary: bool | None) -> _Steps:
    """A cursor's `_execute_gen` where no transaction is open."""
    if cursor.closed:
        raise errors.InterfaceError("the cursor is closed")
    cursor._reset()
    if cursor._last_query is not query:
        cursor._tx = Transformer(cursor)
    cursor._last_query = None
    converted, book = cursor._convert_query(query, params), cursor._conn._prepared
    step, name = book.get(converted, prepare)
    if step is Prepare.SHOULD:
        # Once in a session: its answer is waited for before it is used.
        yield from cursor._conn._start_query()
        yield from cursor._maybe_prepare_gen(converted, prepare=prepare, binary=binary)
    else:
        results = yield from _begin(cursor, converted, name, binary=binary)
        key = book.maybe_add_to_cache(converted, step, name)
        if key is not None:
            book.validate(key, step, name, results)
        cursor._check_results(results)
        cursor._set_results(results)
    cursor._last_query = query
    yield from book.maintain_gen(cursor._conn)


def _begin(cursor: Any, query: Any, name: bytes, *, binary: bool | None) -> Generator[Any, Any, list[Any]]:
    """BEGIN and the statement, prepared under this name if it has one; returns what that gave."""
    pgconn = cursor._conn.pgconn
    pgconn.enter_pipeline_mode()
    try:
        pgconn.send_query_params(cursor._conn._get_tx_start_command(), None)
        if name:
            cursor._send_query_prepared(name, query, binary=binary)
        else:
            cursor._execute_send(query, force_extended=True, binary=binary)
        found = yield from answers(pgconn, 2)
    finally:
        leave(pgconn)
    if found[0].status == ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(found[0], encoding="utf-8")
    return found[1:-1]
