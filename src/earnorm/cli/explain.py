"""`earnorm explain`: which handlers an event meets, moment by moment, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from earnorm.backends.sqlalchemy.capture.target import model_named
from earnorm.bus import EventBus
from earnorm.cli.failures import NotUnderstood
from earnorm.cli.lists import as_json, columns, say_json
from earnorm.cli.target import application, application_named
from earnorm.errors import InvalidName
from earnorm.explanation import Explained, Hearer, explain, explain_all, explain_model
from earnorm.handler import Phase, describe
from earnorm.names import validate_name
from earnorm.store import DEFAULT_GROUP

__all__ = ["explain_command"]

_HEADS = ("MOMENT", "HANDLER", "WRITTEN AS", "WHERE")


@click.command("explain")
@application
@click.argument("what", nargs=-1, metavar="[MODEL|EVENT]...")
@as_json
def explain_command(app: str, what: Sequence[str], *, as_json: bool) -> None:
    """Show which handlers an event meets, in the order in which they would run. Runs none, and asks no database.

    MODEL is a table, a class or the name of its events: all events of it. Without any: all events that are known here.
    """
    _, database = application_named(app)
    bus = database.bus
    found = [event for each in what for event in _explained(bus, each)] if what else explain_all(bus)
    if as_json:
        say_json([{"event": event.event, "handlers": list(map(_as_json, event.hearers))} for event in found])
        return
    click.echo("\n\n".join("\n".join(_lines(event)) for event in found) or "no handler is registered")


def _explained(bus: EventBus, what: str) -> list[Explained]:
    model = model_named(bus, what)
    if model is not None:
        return explain_model(bus, model.info)
    try:
        return [explain(bus, validate_name(what))]
    except InvalidName as error:
        raise NotUnderstood(str(error)) from error


def _lines(event: Explained) -> Iterator[str]:
    yield event.event
    if not event.hearers:
        yield "nobody hears it"
        return
    rows = [(h.handler.phase.value, h.handler.name, _written(h), h.handler.source) for h in event.hearers]
    yield from columns(_HEADS, rows)


def _written(hearer: Hearer) -> str:
    handler = hearer.handler
    heard = f" {', '.join(map(describe, handler.events))}" if handler.events else ""
    return f"{handler.decorator}{heard}"


def _as_json(hearer: Hearer) -> dict[str, Any]:
    handler, options = hearer.handler, hearer.handler.options
    return {
        "moment": handler.phase.value,
        "handler": handler.name,
        "decorator": handler.decorator,
        "events": list(map(describe, handler.events)),
        "fields": list(hearer.fields),
        "priority": options.priority,
        "conditional": options.when is not None,
        "group": (options.group or DEFAULT_GROUP) if handler.phase is Phase.DURABLE else None,
        "source": handler.source,
    }
