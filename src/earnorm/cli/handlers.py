"""`earnorm pause`, `earnorm resume` and `earnorm handlers`: who is to run, and who never will again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from earnorm.cli.lists import as_json, columns, counted, say_json
from earnorm.cli.status import status_as_json
from earnorm.cli.target import choose, database_url, named
from earnorm.operations import Kind, Operations

__all__ = ["handlers", "pause", "resume"]

F = TypeVar("F", bound=Callable[..., Any])


def _one_name(metavar: str) -> Callable[[F], F]:
    """One name behind the application, if that is named at all."""

    def decorate(command: F) -> F:
        return click.argument("words", nargs=-1, required=True, metavar=f"[MODULE:DB] {metavar}")(database_url(command))

    return decorate


def _understood(words: Sequence[str]) -> tuple[str | None, str]:
    *apps, name = words
    if len(apps) > 1:
        raise click.UsageError(f"{' '.join(words)!r} is more than one name; give one")
    return (apps[0] if apps else None), name


def _which(command: F) -> F:
    command = click.option("--group", "kind", flag_value="group", help="NAME is a group.")(command)
    return click.option("--handler", "kind", flag_value="handler", help="NAME is a handler.")(command)


@click.command()
@_one_name("NAME")
@_which
@as_json
def pause(words: Sequence[str], url: str | None, *, kind: Kind | None, as_json: bool) -> None:
    """Have a handler, or all handlers of a group, run by nobody until `resume`. Their events wait.

    Workers heed it within two seconds; what runs ends. It outlasts restarts.
    """
    _set(words, url, Operations.pause, "paused", kind=kind, as_json=as_json)


@click.command()
@_one_name("NAME")
@_which
@as_json
def resume(words: Sequence[str], url: str | None, *, kind: Kind | None, as_json: bool) -> None:
    """Undo `pause`: what has waited is delivered."""
    _set(words, url, Operations.resume, "resumed", kind=kind, as_json=as_json)


def _set(
    words: Sequence[str],
    url: str | None,
    verb: Callable[[Operations, str, Kind | None], Kind],
    done: str,
    *,
    kind: Kind | None,
    as_json: bool,
) -> None:
    app, name = _understood(words)
    with choose(app, url).operations() as operations:
        found = verb(operations, name, kind)
    if as_json:
        say_json({done: name, "kind": found})
    else:
        click.echo(f"{found} {name} {done}")


@click.group()
def handlers() -> None:
    """The durable handlers that the database knows, whichever process has them."""


@handlers.command(name="list")
@named
@as_json
def list_(app: str | None, url: str | None, *, as_json: bool) -> None:
    """Show every handler that is recorded, when a process that knows it was last there, and what it has missed."""
    with choose(app, url).operations() as operations:
        found = operations.status()
    if as_json:
        say_json(status_as_json(found)["subscriptions"])
        return
    rows = (
        (
            one.name,
            one.group,
            "now" if one.known else one.seen.isoformat(timespec="seconds"),
            "paused" if one.paused else "",
            f"missed {one.missed:,}" if one.missed else "",
        )
        for one in found.subscriptions
    )
    click.echo("\n".join(columns(("HANDLER", "GROUP", "LAST SEEN", "", ""), rows)))


@handlers.command()
@_one_name("NAME")
@as_json
def retire(words: Sequence[str], url: str | None, *, as_json: bool) -> None:
    """Forget a handler that is gone for good: nothing waits for it any more. Its dead letters stay.

    Refused while a worker is alive that knows it, since that would record it again.
    """
    app, name = _understood(words)
    with choose(app, url).operations() as operations:
        dropped = operations.retire(name)
    if as_json:
        say_json({"retired": name, "dropped": dropped})
    else:
        deliveries = counted(dropped, "open delivery", "open deliveries")
        click.echo(f"handler {name} retired; {deliveries} dropped")
