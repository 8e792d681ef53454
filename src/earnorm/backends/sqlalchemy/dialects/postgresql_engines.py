"""Engines for PostgreSQL: psycopg for the sync half, psycopg or asyncpg for the async one, both from one URL."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from earnorm.backends.sqlalchemy.dialects.asyncpg_words import for_asyncpg
from earnorm.backends.sqlalchemy.dialects.loop_pool import LoopPool
from earnorm.backends.sqlalchemy.dialects.shared_pool import SharedPool
from earnorm.errors import MissingExtra, UnsupportedDatabase

__all__ = ["postgresql_async_engine", "postgresql_engine", "prepare"]

# The same thing by two names: (asyncpg, libpq).
_SSL = ("ssl", "sslmode")
# What only SQLAlchemy's dialect for asyncpg knows.
_ASYNCPG_ALONE = ("prepared_statement_cache_size", "prepared_statement_name_func")

# Lent is what came back last: who needs one connection at a time uses one, whose backend has all at hand, and not each
# of the pool in turn. Those below lie idle until there is a rush; a firewall may have forgotten them by then, so none
# is lent that is older than what the hastiest of them take for idle.
_POOL: Mapping[str, Any] = {"pool_use_lifo": True, "pool_recycle": 240}

# psycopg's own: what a session has sent so often, the server keeps prepared.
_OFTEN = 5


def postgresql_engine(url: str | URL, **options: Any) -> Engine:
    """A sync engine by psycopg; `options` go to `create_engine`. Raises MissingExtra."""
    url, connect = _for_psycopg(make_url(url))
    connect |= {"cursor_factory": _cursor(is_async=False)} | options.pop("connect_args", {})
    engine = create_engine(url, connect_args=connect, **{**_POOL, **options})
    _prepare_by(engine, connect)
    return engine


def postgresql_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """An async engine by the URL's driver. Raises MissingExtra, and UnsupportedDatabase for what the driver lacks."""
    url = make_url(url)
    if url.get_driver_name() == "asyncpg":
        _require("asyncpg", "asyncpg")
        url, connect = for_asyncpg(_renamed(url, *reversed(_SSL)))
        connect |= options.pop("connect_args", {})
        return create_async_engine(url, connect_args=connect, **{"poolclass": LoopPool, **_POOL, **options})
    url, connect = _for_psycopg(url)
    connect |= {"cursor_factory": _cursor(is_async=True)} | options.pop("connect_args", {})
    engine = create_async_engine(url, connect_args=connect, **{"poolclass": SharedPool, **_POOL, **options})
    _prepare_by(engine.sync_engine, connect)
    return engine


def prepare(engine: Engine) -> None:
    """An engine of the user's own is right as it is: the store chooses the isolation of its transactions itself."""
    if engine.dialect.driver == "asyncpg":
        _require("psycopg", "postgres")


def _for_psycopg(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL as libpq reads it, and what is psycopg's own.

    Nothing is prepared on the server unless the URL says `prepare_threshold=5`, or `_prepare_if_direct` does.
    """
    _require("psycopg", "postgres")
    threshold = url.query.get("prepare_threshold")
    if threshold is not None and not (isinstance(threshold, str) and threshold.isdecimal()):
        raise UnsupportedDatabase(url.render_as_string(), f"prepare_threshold={threshold!r} is no number")
    url = _renamed(url.set(drivername="postgresql+psycopg"), *_SSL)
    url = url.difference_update_query(["prepare_threshold", *_ASYNCPG_ALONE])
    return url, {"prepare_threshold": None if threshold is None else int(threshold)}


def _cursor(*, is_async: bool) -> type[Any]:
    from earnorm.backends.sqlalchemy.dialects import postgresql_begin

    return postgresql_begin.async_cursor() if is_async else postgresql_begin.cursor()


def _prepare_by(engine: Engine, connect: Mapping[str, Any]) -> None:
    from earnorm.backends.sqlalchemy.dialects.postgresql_rollback import keep_prepared

    keep_prepared(engine)
    if connect["prepare_threshold"] is None:
        event.listen(engine, "connect", _prepare_if_direct)


def _prepare_if_direct(connection: Any, _record: object) -> None:
    """Let the server keep what is sent often, if this connection is a session of its own there.

    Prepared statements belong to a session, and behind a PgBouncer in transaction mode the next statement may be in
    another one. A pooler cannot know which, so it gives its clients process numbers of its own making.
    """
    autocommit, connection.autocommit = connection.autocommit, True  # one round trip, not three
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (process,) = cursor.fetchone()
        cursor.close()
    finally:
        connection.autocommit = autocommit
    if process == connection.info.backend_pid:
        getattr(connection, "driver_connection", connection).prepare_threshold = _OFTEN


def _renamed(url: URL, name: str, to: str) -> URL:
    if name not in url.query:
        return url
    return url.update_query_dict({to: url.query[name]}).difference_update_query([name])


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise MissingExtra("PostgreSQL", extra)
