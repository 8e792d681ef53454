"""Engines for PostgreSQL: psycopg for the sync half, psycopg or asyncpg for the async one, both from one URL."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from earnorm.errors import MissingExtra, UnsupportedDatabase

__all__ = ["postgresql_async_engine", "postgresql_engine", "prepare"]

# The same thing by two names: (asyncpg, libpq).
_SSL = ("ssl", "sslmode")
# What only SQLAlchemy's dialect for asyncpg knows.
_ASYNCPG_ALONE = ("prepared_statement_cache_size", "prepared_statement_name_func")


def postgresql_engine(url: str | URL, **options: Any) -> Engine:
    """A sync engine by psycopg; `options` go to `create_engine`. Raises MissingExtra."""
    url, connect = _for_psycopg(make_url(url))
    return create_engine(url, connect_args={**connect, **options.pop("connect_args", {})}, **options)


def postgresql_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """An async engine by the URL's driver. Raises MissingExtra."""
    url = make_url(url)
    if url.get_driver_name() == "asyncpg":
        _require("asyncpg", "asyncpg")
        return create_async_engine(_renamed(url, *reversed(_SSL)), **options)
    url, connect = _for_psycopg(url)
    return create_async_engine(url, connect_args={**connect, **options.pop("connect_args", {})}, **options)


def prepare(engine: Engine) -> None:
    """An engine of the user's own is right as it is: the store chooses the isolation of its transactions itself."""
    if engine.dialect.driver == "asyncpg":
        _require("psycopg", "postgres")


def _for_psycopg(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL as libpq reads it, and what is psycopg's own.

    Prepared statements belong to a session, and behind a PgBouncer in transaction mode the next statement may be in
    another one. So there are none unless the URL says `prepare_threshold=5`.
    """
    _require("psycopg", "postgres")
    threshold = url.query.get("prepare_threshold")
    if threshold is not None and not (isinstance(threshold, str) and threshold.isdecimal()):
        raise UnsupportedDatabase(url.render_as_string(), f"prepare_threshold={threshold!r} is no number")
    url = _renamed(url.set(drivername="postgresql+psycopg"), *_SSL)
    url = url.difference_update_query(["prepare_threshold", *_ASYNCPG_ALONE])
    return url, {"prepare_threshold": None if threshold is None else int(threshold)}


def _renamed(url: URL, name: str, to: str) -> URL:
    if name not in url.query:
        return url
    return url.update_query_dict({to: url.query[name]}).difference_update_query([name])


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise MissingExtra("PostgreSQL", extra)
