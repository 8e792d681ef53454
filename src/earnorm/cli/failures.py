"""Failures: every error a command may meet, as one line without a password, and the exit code that tells its kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from earnorm.errors import (
    ConfigurationError,
    ConnectionLost,
    EarnORMError,
    MissingTables,
    SchemaTooNew,
    StoreError,
)

__all__ = ["Failure", "NotAsItShouldBe", "NotReached", "NotUnderstood", "clear_errors", "without_password"]


class Failure(click.ClickException):
    """What click shows as `Error: ...` on stderr before it ends the process with `exit_code`."""

    def __init__(self, message: str) -> None:
        super().__init__(without_password(" ".join(message.split())))


class NotAsItShouldBe(Failure):
    exit_code = 1


class NotUnderstood(Failure):
    exit_code = 2  # click's own, for options that do not exist


class NotReached(Failure):
    exit_code = 3


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """What fails inside ends the command with one line. `what` names the database, for errors that do not."""
    try:
        yield
    except ConnectionLost as error:
        # What broke it, in the server's words: nothing was under way here.
        broke = error.__cause__
        raise NotReached(f"{what}: {broke.orig if isinstance(broke, DBAPIError) else error}") from error
    except (MissingTables, SchemaTooNew, StoreError) as error:
        raise NotAsItShouldBe(f"{what}: {error}") from error
    except ConfigurationError as error:
        raise NotUnderstood(str(error)) from error
    except DBAPIError as error:
        raise NotReached(f"{what}: {error.orig}") from error
    except (SQLAlchemyError, EarnORMError, ImportError, OSError) as error:
        raise NotReached(f"{what}: {error}") from error


def without_password(text: str) -> str:
    """The text with what stands where a URL has its password, or behind `password=`, replaced by ***."""
    text = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&\s'\"]+", r"\1***", text)
