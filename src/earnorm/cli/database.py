"""`earnorm db`: the tables of the log, brought to this version, looked at, printed."""

from __future__ import annotations

import json
from typing import Any

import click

from earnorm.backends.sqlalchemy import migrations
from earnorm.cli.target import Target, choose, named

__all__ = ["db"]

_DIALECTS = ("sqlite", "postgresql")


@click.group()
def db() -> None:
    """The tables that keep the log. The tables of your models are your own migrations' business."""


@db.command()
@named
@click.option("--to", type=int, metavar="STEP", help="Stop behind this step.")
def upgrade(app: str | None, url: str | None, to: int | None) -> None:
    """Run the steps that the database lacks. Safe to repeat, and to run from several places at once."""
    target = choose(app, url)
    with target.begin() as connection:
        run = migrations.upgrade(connection, to)
    for step in run:
        click.echo(f"step {step} ({migrations.step_name(step)}): done")
    click.echo(f"{target}: {_count(len(run))} run" if run else f"{target}: nothing to do")


@db.command()
@named
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(app: str | None, url: str | None, *, as_json: bool) -> None:
    """Show which steps the database has. Reads only, and ends with 0 whatever it finds."""
    target = choose(app, url)
    with target.read() as connection:
        found = migrations.status(connection)
    if as_json:
        click.echo(json.dumps(_status_as_json(target, found), indent=2))
        return
    for step in sorted({*found.applied, *found.pending}):
        click.echo(f"step {step} ({migrations.step_name(step)}): {'done' if step in found.applied else 'pending'}")
    click.echo(f"{target}: {_verdict(found)}")


@db.command()
@named
def check(app: str | None, url: str | None) -> None:
    """End with 0 if the tables are those of this version, else with 1 and what is missing. Reads only."""
    target = choose(app, url)
    with target.read() as connection:
        migrations.check(connection)
    click.echo(f"{target}: current")


@db.command()
@named
@click.option("--dialect", type=click.Choice(_DIALECTS), help="Whose SQL; without it, that of the database named.")
def sql(app: str | None, url: str | None, dialect: str | None) -> None:
    """Print all steps as a script, for those who run DDL by hand. Speaks to no database."""
    if dialect is None:
        dialect = choose(app, url).url.get_backend_name()
    click.echo(migrations.sql(dialect), nl=False)


def _status_as_json(target: Target, found: migrations.Status) -> dict[str, Any]:
    return {
        "database": str(target),
        "current": not found.pending and not found.unknown,
        "applied": [_step_as_json(step) for step in found.applied],
        "pending": [_step_as_json(step) for step in found.pending],
        "unknown": list(found.unknown),
    }


def _step_as_json(step: int) -> dict[str, Any]:
    return {"step": step, "name": migrations.step_name(step)}


def _verdict(found: migrations.Status) -> str:
    if found.unknown:
        return f"newer than this EarnORM, which does not know {_count(len(found.unknown))} of it"
    return f"{_count(len(found.pending))} pending" if found.pending else "current"


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
