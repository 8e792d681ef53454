"""The target of a command: the database it is told of, by a URL or as `module:db`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from earnorm.backends.sqlalchemy import migrations
from earnorm.backends.sqlalchemy.dialects import READONLY
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.cli.failures import NotUnderstood, clear_errors
from earnorm.operations import Operations
from earnorm.orm.database import Database
from earnorm.orm.engines import Engines

__all__ = ["Target", "application", "application_named", "choose", "database_url", "named"]

F = TypeVar("F", bound=Callable[..., Any])

_SERVER = "postgresql+psycopg://user@host/name"
_NONE = (
    "no database is named; give --url, set EARNORM_DATABASE_URL, or name the application's: earnorm db ... module:db"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A database, by its engines; an application's own `connect()` is asked for it, never made ready by it."""

    engines: Engines
    database: Database | None = None

    @property
    def url(self) -> URL:
        return self.engines.sync.url

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def begin(self, **options: Any) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end."""
        with clear_errors(str(self)):
            try:
                if self.database is not None:
                    with self.database.before_ready(**options) as connection:
                        yield connection
                else:
                    with self.engines.sync.execution_options(**options).begin() as connection:
                        yield connection
            finally:
                self.engines.sync.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that only reads. A SQLite file that is not there is an error and is not made."""
        with clear_errors(str(self)):
            self._require_file()
        with self.begin(**READONLY) as connection:
            yield connection

    @contextmanager
    def operations(self) -> Iterator[Operations]:
        """The operations on the log, whose tables must be there. Nothing is delivered."""
        with clear_errors(str(self)):
            self._require_file()
            wakeup = self.engines.new_wakeup()
            try:
                with self.database.unready() if self.database is not None else nullcontext():
                    store = SQLAlchemyStore(self.engines.sync) if self.database is None else self.database.store
                    with store.begin(readonly=True) as transaction:
                        migrations.check(transaction.connection)
                    yield Operations(store, "" if self.database is None else self.database.name, wake=wakeup.notify)
            finally:
                wakeup.close()
                self.engines.sync.dispose()

    def _require_file(self) -> None:
        if self.url.get_backend_name() == "sqlite" and not Path(self.url.database or "").exists():
            raise FileNotFoundError("there is no such file; `earnorm db upgrade` makes it")


application = click.argument("app", metavar="MODULE:DB")


def named(command: F) -> F:
    """The argument and the option that say which database."""
    return click.argument("app", metavar="[MODULE:DB]", required=False)(database_url(command))


def database_url(command: F) -> F:
    """The option that says which database."""
    return click.option(
        "--url",
        envvar="EARNORM_DATABASE_URL",
        show_envvar=True,
        help=f"The database, as SQLAlchemy writes it: {_SERVER}, sqlite:///app.db.",
    )(command)


def choose(app: str | None, url: str | None) -> Target:
    """The database a command is about. An application named on the command line outranks the environment."""
    if app is not None:
        if url is not None and _given_on_the_command_line("url"):
            raise click.UsageError(f"both --url and {app} name a database; give one of them")
        return _of_application(app)
    if not url:
        raise click.UsageError(_NONE)
    with clear_errors("the database"):
        engines = Engines.of(_parsed(url))
    if engines.private is not None:
        engines.remove_private()
        raise NotUnderstood(f"{url} is a temporary file of one process; name a file: sqlite:///app.db")
    return Target(engines)


def application_named(app: str) -> tuple[Target, Database]:
    """The database of an application that a command cannot do without."""
    target = _of_application(app)
    assert target.database is not None
    return target, target.database


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        # Not shown: nobody can say which part of it would have been the password.
        what = f"what --url or EARNORM_DATABASE_URL says is no database URL; write sqlite:///app.db or {_SERVER}"
        raise NotUnderstood(what) from error


def _given_on_the_command_line(parameter: str) -> bool:
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _of_application(app: str) -> Target:
    module, colon, name = app.partition(":")
    if name.startswith("//"):
        raise click.UsageError(
            "a database's URL is an option: --url URL; what stands alone is MODULE:DB of an application"
        )
    if not (module and colon and name):
        raise click.UsageError(f"{app!r} names no database; write module:db, as in shop.models:db")
    found = _imported(module, app)
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotUnderstood(f"{app}: {module} has no {name!r}; what did connect() go to?")
        found = getattr(found, part)
    if not isinstance(found, Database):
        what = f"{app} is {type(found).__name__}, not what connect() returns"
        raise NotUnderstood(what)
    return Target(found._engines, found)


def _imported(module: str, app: str) -> Any:
    # As `python -m` does: an application is found from where its developer stands.
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  sys.path holds words
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        # The module is the application's own code and may fail in any way; one that ends the process, as a script that
        # calls `sys.exit()` does, would be taken for a worker that has done its work.
        what = f"{app}: importing {module} failed: {type(error).__name__}: {error}"
        raise NotUnderstood(what) from error
