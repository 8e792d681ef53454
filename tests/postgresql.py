"""PostgreSQL for tests: a schema of its own for each, on the server that `make services` starts."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, make_url

DEFAULT = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"

# Seconds. Whoever still holds a lock after a test has lost its connection; the next test is not to wait for that.
LOCK_WAIT = 20

HOLDERS = """
    SELECT pg_terminate_backend(pid, 5000), application_name, state, now() - state_change AS since, query
      FROM pg_stat_activity
     WHERE pid IN (SELECT l.pid FROM pg_locks AS l
                     JOIN pg_class AS c ON c.oid = l.relation
                     JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE n.nspname = %(schema)s)
"""

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"


def server() -> URL:
    return make_url(os.environ.get("EARNORM_POSTGRESQL_URL", DEFAULT))


def libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@cache
def _admin(_pid: int) -> psycopg.Connection | str:
    """A connection of this process that makes and drops, or why there is none."""
    try:
        connection = psycopg.connect(
            libpq(server()), autocommit=True, connect_timeout=3, options=f"-clock_timeout={LOCK_WAIT}s"
        )
        atexit.register(connection.close)
        return connection
    except psycopg.OperationalError as error:
        return f"PostgreSQL does not answer ({str(error).strip()}); start it with: make services SERVICES=postgresql"


def missing(reason: str):
    """Skip; or fail, where servers are required."""
    if os.environ.get("EARNORM_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def admin() -> psycopg.Connection:
    found = _admin(os.getpid())
    if isinstance(found, str):
        missing(found)
    if found.info.transaction_status is not TransactionStatus.IDLE:
        # A test that ran out of time amid a statement; the tests after it have a connection of their own.
        _admin.cache_clear()
        return admin()
    return found


@contextmanager
def schema() -> Iterator[URL]:
    """A fresh schema; the URL's connections see it alone."""
    name = f"earnorm_t_{uuid4().hex}"
    admin().execute(f"CREATE SCHEMA {name}")
    try:
        yield server().update_query_dict({"options": f"-csearch_path={name}"})
    finally:
        _drop_schema(name)


def _drop_schema(name: str) -> None:
    try:
        admin().execute(f"DROP SCHEMA {name} CASCADE")
    except psycopg.errors.LockNotAvailable:
        left = admin().execute(HOLDERS, {"schema": name}).fetchall()
        admin().execute(f"DROP SCHEMA {name} CASCADE")
        pytest.fail(f"the test left transactions open, which held its tables for {LOCK_WAIT} s: {left}")


@contextmanager
def database() -> Iterator[URL]:
    """An empty database, for what a schema does not separate: another driver, roles, locks.

    It is emptied for the next test that asks and dropped with the last: DROP DATABASE is a checkpoint, which syncs the
    file of every table that was dropped since the one before, and took longer than a test may.
    """
    name = _spare.pop() if _spare else _create_database()
    try:
        yield server().set(database=name)
    finally:
        _empty(name)
        _spare.append(name)


_made: list[str] = []
_spare: list[str] = []


def drop_databases() -> None:
    while _made:
        admin().execute(f"DROP DATABASE {_made.pop()} WITH (FORCE)")


def _create_database() -> str:
    name = f"earnorm_t_{uuid4().hex}"
    admin().execute(f"CREATE DATABASE {name}")
    _made.append(name)
    return name


def _empty(name: str) -> None:
    """As CREATE DATABASE made it."""
    admin().execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    admin().execute(f"ALTER DATABASE {name} RESET ALL")
    with psycopg.connect(libpq(server().set(database=name)), autocommit=True) as inside:
        for (gid,) in inside.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall():
            inside.execute(f"ROLLBACK PREPARED '{gid}'")
        for (schema,) in inside.execute(SCHEMAS).fetchall():
            inside.execute(f'DROP SCHEMA "{schema}" CASCADE')
        inside.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        inside.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def require_prepared_transactions() -> None:
    if admin().execute("SHOW max_prepared_transactions").fetchone() == ("0",):
        missing(
            "this PostgreSQL has max_prepared_transactions = 0; stop it, and start it with: "
            "make services SERVICES=postgresql"
        )
