"""`earnorm status`: how a log stands, for the eye, for programs, and for whoever is to be woken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from earnorm.cli.lists import as_json, columns
from earnorm.cli.target import Target, choose, named
from earnorm.cli.times import length
from earnorm.status import COUNTED, Status, SubscriptionStatus, WorkerStatus
from earnorm.telemetry import escaped

__all__ = ["status", "status_as_json"]

_WRONG = 1
# Seconds between two looks of --watch.
_AGAIN = 2.0


@click.command()
@named
@click.option("--max-lag", callback=length, metavar="DURATION", help="End with 1 if events have waited for longer.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@as_json
def status(app: str | None, url: str | None, *, max_lag: float | None, watch: bool, as_json: bool) -> None:
    """Show how the log stands: groups, subscriptions, leases, workers. Reads only; ends with 1 if something is wrong.

    Wrong is an open transaction that keeps events from being read, events waiting for a handler that no worker knows,
    events that a handler has missed, and dead letters; and, with --max-lag, events that have waited for longer.
    """
    target = choose(app, url)
    while True:
        found = _look(target)
        problems = [*found.problems, *_late(found, max_lag)]
        if as_json:
            click.echo(json.dumps({**status_as_json(found), "problems": problems}, indent=None if watch else 2))
        else:
            if watch:
                click.clear()
            click.echo("\n".join(_page(found, problems)))
        if not watch:
            break
        time.sleep(_AGAIN)
    if problems:
        click.get_current_context().exit(_WRONG)


def _look(target: Target) -> Status:
    with target.operations() as operations:
        return operations.status()


def _late(found: Status, longest: float | None) -> Iterator[str]:
    for group in found.groups:
        if longest is not None and group.seconds > longest and not group.paused:
            yield f"events of group {group.name} have waited for {group.seconds:.0f} s, more than {longest:g} s"


# --- for programs ----------------------------------------------------------------------------


def status_as_json(found: Status) -> dict[str, Any]:
    plain = asdict(found)
    plain["workers"] = [{**asdict(worker), "alive": worker.alive} for worker in found.workers]
    return {name: _plain(value) for name, value in plain.items()}


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list():
            return [_plain(part) for part in value]
        case _:
            return value


# --- for the eye -----------------------------------------------------------------------------


def _page(found: Status, problems: Sequence[str]) -> Iterator[str]:
    yield from columns(("GROUP", "WAITING", "SINCE", ""), map(_group, found.groups))
    yield ""
    heads = ("HANDLER", "GROUP", "WAITING", "SINCE", "SET ASIDE", "DEAD", "")
    yield from columns(heads, map(_subscription, found.subscriptions))
    yield ""
    yield from columns(("CURSOR", "SLOTS", "POSITION", "WORKER"), map(_lease, found.leases))
    yield ""
    yield from columns(("WORKER", "HOST", "PID", "CURSORS", "HANDLERS", ""), map(_worker, found.workers))
    yield ""
    yield from problems or [_verdict(found)]


def _verdict(found: Status) -> str:
    """What is said if nothing is wrong: also what keeps events from being handled though somebody meant it so."""
    remarks = list(_remarks(found))
    if not remarks:
        return f"all is well at position {found.horizon:,}"
    return escaped(f"nothing is wrong at position {found.horizon:,}, but {'; '.join(remarks)}")


def _remarks(found: Status) -> Iterator[str]:
    unknown = [one.name for one in found.subscriptions if not one.known]
    if unknown and not any(worker.alive for worker in found.workers):
        yield "no worker is alive"
    elif unknown:
        yield f"no worker knows {', '.join(unknown)}"
    groups = {group.name for group in found.groups if group.paused}
    paused = [f"group {name}" for name in sorted(groups)]
    paused += [one.name for one in found.subscriptions if one.paused and one.group not in groups]
    if paused:
        yield f"paused: {', '.join(paused)}"
    if aside := sum(one.set_aside for one in found.subscriptions):
        yield f"{aside:,} set aside until their next attempt"


def _group(group: Any) -> Sequence[object]:
    return group.name, _number(group.waiting), _age(group.seconds), "paused" if group.paused else ""


def _subscription(one: SubscriptionStatus) -> Sequence[object]:
    remarks = {"paused": one.paused, "no worker knows it": not one.known, f"missed {one.missed:,}": one.missed}
    said = ", ".join(remark for remark, applies in remarks.items() if applies)
    return one.name, one.group, _number(one.waiting), _age(one.seconds), one.set_aside, one.dead, said


def _lease(lease: Any) -> Sequence[object]:
    deaths = f" ({lease.deaths} died of it in a row)" if lease.deaths else ""
    name = lease.name or f"group {lease.group}"
    return name, f"{lease.first} to {lease.last}", lease.position, f"{lease.worker or 'nobody'}{deaths}"


def _worker(worker: WorkerStatus) -> Sequence[object]:
    state = "idle" if worker.idle else "alive"
    state = state if worker.alive else f"not heard of for {_age(-worker.left)}"
    said = f"{state}, dedicated" if worker.dedicated else state
    return worker.worker.rpartition("/")[2], worker.host, worker.pid or "", worker.cursors, worker.knows, said


def _number(count: int) -> str:
    return f"{count:,}+" if count >= COUNTED else f"{count:,}"


def _age(seconds: float) -> str:
    if not seconds:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
