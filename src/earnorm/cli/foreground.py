"""A worker in the foreground: from its start to the signal that ends it."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from earnorm.cli.failures import NotUnderstood, clear_errors
from earnorm.cli.lists import counted
from earnorm.cli.signals import Asked, heard
from earnorm.cli.target import application_named
from earnorm.orm.database import Database
from earnorm.subscription import registrations_of

__all__ = ["Settings", "log_to_stderr", "serve", "serve_as_child"]

_log = logging.getLogger("earnorm.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker is told on the command line. `options` are those of `earnorm.worker.Worker`."""

    grace: float
    options: dict[str, Any]


class _Start:
    """Until it is over there is nothing to finish: who is asked to stop does not wait for a server that is silent."""

    def __init__(self) -> None:
        self.is_over = False

    def break_off(self) -> None:
        if not self.is_over:
            raise Asked


def serve(app: str, settings: Settings) -> None:
    """Work the log until a signal comes; then finish what runs, within the grace."""
    start = _Start()
    with _ended_quietly(), heard(at_the_first=start.break_off) as asked:
        _serve(app, settings, start, [asked], None)


def serve_as_child(app: str, settings: Settings, parent: Connection) -> None:
    """`serve`, told to stop by the parent as well, and by its end; the parent is told of the start.

    A terminal's Ctrl-C goes to all its processes. It is the parent's to hear, or it would count twice here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = _Start()
    with _ended_quietly(), heard([signal.SIGTERM], at_the_first=start.break_off) as asked:
        _serve(app, settings, start, [asked, parent], parent)


@contextmanager
def _ended_quietly() -> Iterator[None]:
    try:
        yield
    except Asked:
        _log.info("stopped before it had started")


def _serve(app: str, settings: Settings, start: _Start, asked: Sequence[Connection], parent: Connection | None) -> None:
    target, database = application_named(app)
    with clear_errors(str(target)):
        handlers = _handlers(database, settings.options.get("groups"))
        _start(database, settings)
        start.is_over = True
        _log.info("%r started for %s, on %s", database.worker, handlers, target)
        if parent is not None:
            parent.send_bytes(b"started")
        wait(asked)
        _log.info("stopping; handlers that run have %g s to end", settings.grace)
        database.worker.stop(settings.grace)
        database.close(drain=0)
        _log.info("stopped")


def log_to_stderr() -> None:
    """Show what is logged, unless the application sees to that itself."""
    form = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)


def _start(database: Database, settings: Settings) -> None:
    database.dedicate(**settings.options)
    database.ready()
    # Where the module used its database already, `ready` had nothing to do.
    database.worker.start()


def _handlers(database: Database, groups: Sequence[str] | None) -> str:
    """How many there are to run, for people. Raises NotUnderstood."""
    known = registrations_of(database.bus.registry)
    ours = {one.name for one in known if groups is None or one.group in groups}
    if not ours and groups is not None:
        found = ", ".join(sorted({one.group for one in known})) or "none"
        raise NotUnderstood(f"no handler of group {', '.join(map(repr, groups))} is known here; known groups: {found}")
    if not ours:
        _log.warning(
            "no durable handler is known here; let the module named on the command line import those that define yours"
        )
    return counted(len(ours), "handler")
