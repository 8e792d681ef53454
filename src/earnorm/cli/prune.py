"""`earnorm prune`: old events out of the log."""

from __future__ import annotations

from datetime import timedelta

import click

from earnorm.cli.lists import as_json, counted, say_json
from earnorm.cli.target import choose, named
from earnorm.cli.times import length

__all__ = ["prune"]

_DEFAULT = timedelta(days=30).total_seconds()


@click.command()
@named
@click.option(
    "--older-than",
    callback=length,
    metavar="DURATION",
    help="Such as 30d or 12h. Default: the application's retention, and 30d where none is known.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1_000, show_default=True, help="Events in a transaction.")
@click.option("--dry-run", is_flag=True, help="Count only.")
@as_json
def prune(
    app: str | None, url: str | None, *, older_than: float | None, batch: int, dry_run: bool, as_json: bool
) -> None:
    """Remove events from the log that are old and that every subscription has passed.

    Workers do the same by themselves, a little at a time; this does all of it now, batch by batch.
    """
    target = choose(app, url)
    kept = target.database.retention if target.database is not None else _DEFAULT
    age = older_than if older_than is not None else kept
    if age is None:
        raise click.UsageError("this application keeps events for ever (retention=None); say --older-than")
    with target.operations() as operations:
        count = operations.prune(age, batch=batch, dry_run=dry_run)
    if as_json:
        say_json({"pruned": count, "dry_run": dry_run, "older_than_seconds": age})
        return
    click.echo(f"{target}: {counted(count, 'event')} {'would be ' if dry_run else ''}pruned")
