"""`earnorm dead`: dead letters looked at, tried once more, or thrown away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from earnorm.cli.failures import NotAsItShouldBe
from earnorm.cli.lists import as_json, columns, counted, say_json
from earnorm.cli.target import Target, choose, database_url
from earnorm.cli.times import moment
from earnorm.delivery import Attempt, Delivery
from earnorm.operations import ALL, Operations, Selection
from earnorm.telemetry import escaped

__all__ = ["dead"]

F = TypeVar("F", bound=Callable[..., Any])

_HEADS = ("ID", "DIED", "ATTEMPT", "HANDLER", "EVENT", "KEY", "ERROR")
_ERROR_SHOWN = 80


@click.group()
def dead() -> None:
    """Dead letters: deliveries that are no longer tried, with their errors.

    MODULE:DB is what connect() returned in your application; --url or EARNORM_DATABASE_URL will do as well. ID is a
    dead letter's own, as `list` shows it.
    """


# --- which ones ------------------------------------------------------------------------------


def _said(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Every error holds the empty text, and a shell's variable that is not set must not mean all of them."""
    if value == "":
        raise click.BadParameter("it is empty; leave the option away, or say what")
    return value


_FILTERS = (
    click.option("--handler", callback=_said, metavar="NAME", help="Of this handler."),
    click.option("--event", callback=_said, metavar="NAME|ID", help="Of events of this name, or of one by its id."),
    click.option(
        "--error", callback=_said, metavar="TEXT|FINGERPRINT", help="Whose error holds it, or has this fingerprint."
    ),
    click.option("--since", callback=moment, metavar="MOMENT", help="That died then or later: a time, or 2h for ago."),
)


def _filtered(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _chosen(command: F) -> F:
    """What `retry` and `discard` ask to be told."""
    command = click.option("--all", "everything", is_flag=True, help="Every dead letter there is; needs --yes.")(
        command
    )
    command = click.option("--yes", is_flag=True, help="Mean it.")(command)
    command = _filtered(as_json(command))
    return _words("[MODULE:DB] [ID]...")(database_url(command))


def _words(metavar: str) -> Callable[[F], F]:
    return click.argument("words", nargs=-1, metavar=metavar)


def _understood(words: Sequence[str], url: str | None) -> tuple[Target, tuple[int, ...]]:
    """The database, and the ids. A word that is no number names the application."""
    app = words[0] if words and not words[0].isdecimal() else None
    ids = words if app is None else words[1:]
    for word in ids:
        if not word.isdecimal():
            raise click.UsageError(f"{word!r} is no id of a dead letter; `earnorm dead list` shows them")
    return choose(app, url), tuple(map(int, ids))


# --- commands --------------------------------------------------------------------------------


@dead.command(name="list")
@_words("[MODULE:DB]")
@database_url
@_filtered
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show so many at most.")
@as_json
def list_(words: Sequence[str], url: str | None, *, limit: int, as_json: bool, **filters: Any) -> None:
    """Show dead letters, the oldest first."""
    target, ids = _understood(words, url)
    selection = Selection(ids=ids or None, **filters)
    with target.operations() as operations:
        found, count = operations.dead(selection, limit=limit), operations.count_dead(selection)
    if as_json:
        say_json({"count": count, "dead": [_as_json(row) for row in found]})
        return
    if found:
        click.echo("\n".join(columns(_HEADS, map(_row, found))))
    shown = f", of which {limit:,} are shown; narrow it, or give --limit" if count > len(found) else ""
    click.echo(f"{counted(count, 'dead letter')}{shown}")


@dead.command()
@_words("[MODULE:DB] ID")
@database_url
@as_json
def show(words: Sequence[str], url: str | None, *, as_json: bool) -> None:
    """Show one dead letter whole: its event, its error, and every attempt with its traceback."""
    target, ids = _understood(words, url)
    if len(ids) != 1:
        raise click.UsageError("give the id of one dead letter; `earnorm dead list` shows them")
    with target.operations() as operations:
        found, attempts = operations.dead(Selection(ids=ids)), operations.attempts(ids[0])
    if not found:
        raise NotAsItShouldBe(f"{target}: there is no dead letter {ids[0]}")
    if as_json:
        say_json({**_whole_as_json(found[0]), "attempts": [_attempt_as_json(made) for made in attempts]})
    else:
        click.echo("\n".join([*_page(found[0]), *(line for made in attempts for line in _attempt_lines(made))]))


@dead.command()
@_chosen
def retry(words: Sequence[str], url: str | None, *, as_json: bool, **chosen: Any) -> None:
    """Give dead letters one more attempt, at once, out of order. A worker of the application makes it."""
    _act(words, url, Operations.retry, "retried", as_json=as_json, **chosen)


@dead.command()
@_chosen
def discard(words: Sequence[str], url: str | None, *, as_json: bool, **chosen: Any) -> None:
    """Remove dead letters for good."""
    _act(words, url, Operations.discard, "discarded", as_json=as_json, **chosen)


def _act(
    words: Sequence[str],
    url: str | None,
    verb: Callable[[Operations, Selection], int],
    done: str,
    *,
    everything: bool,
    yes: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    target, ids = _understood(words, url)
    selection = Selection(ids=ids or None, **filters)
    if (selection == ALL) != everything:
        raise click.UsageError("say which: ids, --handler, --event, --error, --since; or --all, and nothing beside it")
    with target.operations() as operations:
        if everything and not yes:
            count = operations.count_dead()
            raise click.UsageError(f"--all means {counted(count, 'dead letter')} here; add --yes if that is meant")
        missing = sorted(set(ids) - {row.id for row in operations.dead(Selection(ids=ids), limit=len(ids))})
        count = verb(operations, selection)
        retired = _retired(operations, selection)
    if as_json:
        say_json({done: count})
    else:
        click.echo(f"{counted(count, 'dead letter')} {done}")
    if missing:
        raise NotAsItShouldBe(f"{target}: there is no dead letter {', '.join(map(str, missing))}")
    if retired:
        raise NotAsItShouldBe(
            f"{target}: of {', '.join(retired)} nothing can be retried, since it was retired; "
            f"a process that has the handler records it again"
        )


def _retired(operations: Operations, selection: Selection) -> list[str]:
    """The handlers of letters that were chosen and stay dead, since nobody would come for them."""
    left = {row.subscription for row in operations.dead(selection)}
    return sorted(left - {one.name for one in operations.status().subscriptions}) if left else []


# --- what is shown ---------------------------------------------------------------------------


def _row(row: Delivery) -> Sequence[object]:
    error = row.error.partition("\n")[0]
    short = error if len(error) <= _ERROR_SHOWN else f"{error[:_ERROR_SHOWN]}…"
    return row.id, _seconds(row.due), row.attempt, row.subscription, row.entry.name, row.entry.key, short


def _as_json(row: Delivery) -> dict[str, Any]:
    return {
        "id": row.id,
        "died": row.due.isoformat(),
        "attempt": row.attempt,
        "handler": row.subscription,
        "event": row.entry.name,
        "event_id": str(row.entry.id),
        "key": row.entry.key,
        "error": row.error.partition("\n")[0],
        "fingerprint": row.fingerprint,
    }


def _whole_as_json(row: Delivery) -> dict[str, Any]:
    entry = row.entry
    more = {"position": entry.position, "emitted": entry.at.isoformat(), "tenant": entry.tenant, "data": _data(row)}
    return {**_as_json(row), **more, "text": row.error}


def _attempt_as_json(made: Attempt) -> dict[str, Any]:
    return {
        "number": made.number,
        "started": made.started.isoformat(),
        "seconds": made.seconds,
        "error": made.error,
        "traceback": made.traceback,
        "fingerprint": made.fingerprint,
        "version": made.version,
        "worker": made.worker,
    }


def _attempt_lines(made: Attempt) -> Iterator[str]:
    version = f", version {made.version}" if made.version else ""
    yield ""
    worker = f", by {made.worker}" if made.worker else ""  # of one that has died nobody knows it
    yield escaped(f"attempt {made.number}, {_seconds(made.started)}, {made.seconds:.3f} s{worker}{version}")
    yield from map(escaped, [made.error, *made.traceback.splitlines()])


def _page(row: Delivery) -> Iterator[str]:
    entry = row.entry
    facts = {
        "handler": row.subscription,
        "event": f"{entry.name}  {entry.id}",
        "key": entry.key or "(none)",
        "emitted": f"{_seconds(entry.at)}, position {entry.position}",
        "died": f"{_seconds(row.due)}, attempt {row.attempt}",
        "data": json.dumps(_data(row), ensure_ascii=False),
        "error": row.fingerprint,
    }
    yield f"dead letter {row.id}"
    yield from (f"{name:8} {escaped(fact)}" for name, fact in facts.items())
    yield ""
    yield from map(escaped, row.error.splitlines())


def _data(row: Delivery) -> Any:
    """As the log has it; damaged data is what a letter may have died of."""
    try:
        return json.loads(row.entry.data)
    except ValueError:
        return repr(row.entry.data)


def _seconds(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
