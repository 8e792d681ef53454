"""A statement and COMMIT as one message: psycopg's pipeline, one round trip to the server and not two.

A savepoint goes before them. If the statement is refused, the server skips the COMMIT behind it, and without the
savepoint the whole transaction would be lost with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection, errors, generators
from psycopg._preparing import Prepare
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from sqlalchemy import Connection as SQLAlchemyConnection
from sqlalchemy import Integer, LargeBinary, SmallInteger, String
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection
from sqlalchemy.types import BigInteger, TypeEngine
from sqlalchemy.util import await_only

from earnorm.backends.sqlalchemy.dialects import is_heard
from earnorm.backends.sqlalchemy.dialects.postgresql_pipeline import REFUSED, answers, has_pipelines, leave
from earnorm.backends.sqlalchemy.dialects.postgresql_wakeup import CHANNEL

__all__ = ["Driver", "Statement", "arrays", "driver_of", "elements", "formats", "send_with_commit", "values"]

Driver = Connection[Any] | AsyncConnection[Any]
_DRIVERS = (Connection, AsyncConnection)

_SAVEPOINT = b"SAVEPOINT earnorm_append"
_UNDO = b"ROLLBACK TO SAVEPOINT earnorm_append; RELEASE SAVEPOINT earnorm_append"
_TELL = f"SELECT pg_notify({CHANNEL}, $1)".encode()


class Statement(NamedTuple):
    """As the protocol has it."""

    text: bytes
    given: Sequence[bytes | None]
    formats: Sequence[int]


def driver_of(connection: SQLAlchemyConnection) -> Driver | None:
    """The connection of psycopg, if a statement can go with COMMIT there and nobody wants to hear of each statement."""
    found: Any = connection.connection.dbapi_connection
    driver = found.driver_connection if isinstance(found, AsyncAdapt_psycopg_connection) else found
    if not isinstance(driver, _DRIVERS) or not _can_send(driver):
        return None
    return None if is_heard(connection) else driver


def _can_send(driver: Driver) -> bool:
    pgconn = driver.pgconn
    # Where statements may be prepared, the session is one's own (`postgresql_engines`): no pooler is in between, which
    # may not know of pipelines.
    if driver._prepared.prepare_threshold is None or driver._autocommit or not has_pipelines():
        return False
    if pgconn.pipeline_status != PipelineStatus.OFF or pgconn.parameter_status(b"client_encoding") != b"UTF8":
        return False
    if pgconn.transaction_status == TransactionStatus.IDLE:
        # Nothing was sent yet, so that BEGIN goes along; in its plainer forms.
        return driver.read_only is None and driver.deferrable is None
    return pgconn.transaction_status == TransactionStatus.INTRANS


def send_with_commit(driver: Driver, last: Statement, tell: str | None) -> bool:
    """Run the statement and COMMIT. False: the statement was refused, and the transaction is as it was before.

    `driver` is what `driver_of` found just now. Listeners are told `tell` in a transaction of its own, behind that one.
    Raises what the driver does if COMMIT fails, or the connection.
    """
    talk = _talk(driver, last, None if tell is None else Statement(_TELL, [tell.encode()], [Format.TEXT]))
    if isinstance(driver, AsyncConnection):
        return await_only(_asend(driver, talk))
    with driver.lock:
        return driver.wait(talk)


async def _asend(driver: AsyncConnection[Any], talk: Generator[Any, Any, bool]) -> bool:
    async with driver.lock:
        return await driver.wait(talk)


def _talk(driver: Driver, last: Statement, telling: Statement | None) -> Generator[Any, Any, bool]:
    pgconn = driver.pgconn
    begun = pgconn.transaction_status == TransactionStatus.INTRANS
    pgconn.enter_pipeline_mode()
    try:
        pgconn.send_query_params(_SAVEPOINT if begun else _begin(driver), None)
        sent = _send(driver, last)
        pgconn.send_query_params(b"COMMIT", None)
        # Behind COMMIT a transaction of its own, which ends with the message.
        behind = 0 if telling is None else _send(driver, telling)
        found = yield from answers(pgconn, sent + behind + 2)
    finally:
        leave(pgconn)
    first, commit = found[0], found[sent + 1]
    if commit.status not in REFUSED:
        return True
    for statement in (last, telling):
        if statement is not None:
            # It may be as unknown to the server as it was before.
            _forget(driver, statement)
    if commit.status == ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(commit, encoding="utf-8")
    if first.status not in REFUSED:
        pgconn.send_query(_UNDO if begun else b"ROLLBACK")
        yield from generators.execute(pgconn)
    return False


def _begin(driver: Driver) -> bytes:
    level = driver.isolation_level
    return b"BEGIN" if level is None else f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()


# --- prepared, as psycopg prepares ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Query:
    """What psycopg knows a statement by."""

    query: bytes
    types: tuple[int, ...] = ()


_query = lru_cache(maxsize=64)(_Query)


def _send(driver: Driver, statement: Statement, answer: Format = Format.TEXT) -> int:
    """Send it, prepared, to be answered in this format; returns how many answers there will be.

    It stands in psycopg's own book, since psycopg drops every statement of the session when it rolls back a failure.
    """
    book: Any = driver._prepared
    query = _query(statement.text)
    name = book._names.get(key := book.key(query))
    is_new = name is None
    if is_new:
        name = book.get(query, True)[1]
        book.maybe_add_to_cache(query, Prepare.SHOULD, name)
        book._rotate()
        driver.pgconn.send_prepare(name, statement.text)
    else:
        book._names.move_to_end(key)
    driver.pgconn.send_query_prepared(name, statement.given, statement.formats, answer)
    return 2 if is_new else 1


def _forget(driver: Driver, statement: Statement) -> None:
    book: Any = driver._prepared
    book._names.pop(book.key(_query(statement.text)), None)


# --- values, as the protocol has them ---------------------------------------------------------


def values(row: Sequence[Any]) -> list[bytes | None]:
    return [
        each if each is None or (kind := type(each)) is bytes else b"%d" % each if kind is int else each.encode()
        for each in row
    ]


def formats(types: Sequence[TypeEngine[Any]], *, alone: bool) -> list[int]:
    """Those of one row's `values`, or of the `arrays` of many."""
    # Text goes as it is, too: as a C string it would end at a NUL.
    return [Format.TEXT if alone and isinstance(type_, Integer) else Format.BINARY for type_ in types]


def arrays(types: Sequence[TypeEngine[Any]], rows: Sequence[tuple[Any, ...]]) -> list[bytes | None]:
    """The columns of many rows, each as an array of its type."""
    return [_array(type_, column) for type_, column in zip(types, zip(*rows, strict=True), strict=True)]


_NULL = b"\xff\xff\xff\xff"
_size = struct.Struct(">i").pack


def _array(type_: TypeEngine[Any], column: Sequence[Any]) -> bytes:
    """A value of one dimension: its header, then each element behind its size (`array_recv`)."""
    oid, parts = elements(type_, column)
    header = struct.pack(">iiIii", 1, int(None in column), oid, len(column), 1)
    return b"".join(chain((header,), parts))


def elements(type_: TypeEngine[Any], column: Sequence[Any]) -> tuple[int, list[bytes]]:
    """The type's oid, and each value behind its size."""
    match type_:
        case LargeBinary():
            return 17, [_NULL if each is None else _size(len(each)) + each for each in column]
        case String():
            written = [None if each is None else each.encode() for each in column]
            return 25, [_NULL if each is None else _size(len(each)) + each for each in written]
        case _:
            oid, width, pack = _number(type_)
            return oid, [_NULL if each is None else pack(width, each) for each in column]


def _number(type_: TypeEngine[Any]) -> tuple[int, int, Callable[..., bytes]]:
    """The type's oid, its width and what packs both it and a value."""
    match type_:
        case SmallInteger():
            return 21, 2, struct.Struct(">ih").pack
        case BigInteger():
            return 20, 8, struct.Struct(">iq").pack
        case _:
            return 23, 4, struct.Struct(">ii").pack
