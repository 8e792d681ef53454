"""The databases that benchmarks run on: for each contestant one of its own, gone at the end."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

__all__ = ["KINDS", "POSTGRESQL", "schema", "targets"]

KINDS = ("SQLite", "PostgreSQL")
POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


@contextmanager
def targets(kind: str, names: Iterable[str]) -> Iterator[dict[str, str] | str]:
    """A URL for each name; or a sentence, why there is none."""
    with ExitStack() as stack:
        if kind == "SQLite":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            yield {name: f"sqlite:///{Path(folder) / name}.db" for name in names}
            return
        try:
            found: dict[str, str] | str = {name: stack.enter_context(schema()) for name in names}
        except ConnectionError as error:
            found = f"{error}; start it with: make services SERVICES=postgresql"
        yield found


@contextmanager
def schema() -> Iterator[str]:
    """A fresh schema's URL. Raises ConnectionError."""
    server = make_url(os.environ.get("EARNORM_POSTGRESQL_URL", POSTGRESQL))
    engine, name = create_engine(server, isolation_level="AUTOCOMMIT"), f"earnorm_bench_{uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
    except Exception as error:
        raise ConnectionError(f"PostgreSQL does not answer ({str(error).splitlines()[0]})") from error
    try:
        yield server.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()
