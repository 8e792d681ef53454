"""The command line: `earnorm`. Each command is one function, a thin view on the rooms behind it."""

from __future__ import annotations

import click

from earnorm.cli.capture import audit, capture
from earnorm.cli.database import db
from earnorm.cli.dead import dead
from earnorm.cli.explain import explain_command
from earnorm.cli.handlers import handlers, pause, resume
from earnorm.cli.prune import prune
from earnorm.cli.status import status
from earnorm.cli.worker import worker

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="earnorm", prog_name="earnorm")
def main() -> None:
    """Look after a database that keeps EarnORM events.

    Exit codes: 0 done, 1 the database is not as it should be, 2 the command cannot be understood, 3 the database
    cannot be worked with, 4 a worker process ended badly.
    """


for command in (db, worker, status, pause, resume, handlers, dead, prune, capture, audit, explain_command):
    main.add_command(command)
