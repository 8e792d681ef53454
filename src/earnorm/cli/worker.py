"""`earnorm worker`: the engine in a process of its own, or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from earnorm.cli.fleet import Fleet
from earnorm.cli.foreground import Settings, log_to_stderr, serve
from earnorm.cli.target import application
from earnorm.cli.times import length

__all__ = ["worker"]

_count = click.IntRange(min=1)


def _lease(context: click.Context, parameter: click.Parameter, value: str) -> float | None:
    seconds = length(context, parameter, value)
    if seconds is not None and seconds < 1:
        raise click.BadParameter(f"{value!r} is shorter than a worker's own pauses; give at least 1 s")
    return seconds


@click.command()
@application
@click.option("--group", "groups", multiple=True, metavar="NAME", help="Only handlers of this group; may be repeated.")
@click.option("--concurrency", type=_count, default=32, show_default=True, help="Async handlers side by side.")
@click.option("--threads", type=_count, default=8, show_default=True, help="Plain handlers side by side.")
@click.option("--processes", type=_count, default=1, show_default=True, help="Worker processes, under one parent.")
@click.option(
    "--grace",
    default="25s",
    show_default=True,
    metavar="DURATION",
    callback=length,
    help="What handlers that run have to end in, once it is to stop.",
)
@click.option(
    "--lease",
    default="10s",
    show_default=True,
    metavar="DURATION",
    callback=_lease,
    help="After how long others take over from one that died.",
)
def worker(app: str, *, processes: int, grace: float, groups: Sequence[str], **options: Any) -> None:
    """Deliver the events of a database to the handlers of MODULE, in the foreground.

    MODULE:DB is what connect() returned in your application; MODULE imports your handlers. SIGTERM or Ctrl-C: begins
    nothing more, lets what runs end, gives back the rest and ends with 0. A second one ends at once, with 143 or 130.
    """
    log_to_stderr()
    settings = Settings(grace=grace, options={**options, "groups": groups or None, "dedicated": True})
    if processes > 1:
        click.get_current_context().exit(Fleet(app, settings, processes).run())
    serve(app, settings)
