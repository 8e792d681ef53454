"""`earnorm capture` and `earnorm audit`: what other programs write, told from now on, or found out afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from earnorm.backends.sqlalchemy import migrations
from earnorm.backends.sqlalchemy.capture import triggers
from earnorm.backends.sqlalchemy.capture.target import model_named
from earnorm.cli.failures import NotUnderstood
from earnorm.cli.target import application, application_named
from earnorm.codec import encode
from earnorm.errors import PayloadError
from earnorm.orm.audit import Audit, Drift
from earnorm.orm.captures import Work
from earnorm.orm.database import Database
from earnorm.orm.intakes import Bundles

__all__ = ["audit", "capture"]

_DRIFTED = 1

models = click.argument("models", metavar="MODEL...", nargs=-1, required=True)
as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group()
def capture() -> None:
    """Triggers on the tables of your models, so that what other programs write raises events too.

    MODULE:DB is what connect() returned in your application; MODEL a table, a class or the name of its events.
    """


@capture.command()
@application
@models
def install(app: str, models: Sequence[str]) -> None:
    """Put triggers on the tables, or renew stale ones. Safe to repeat."""
    _work(app, models, triggers.install, "captured")


@capture.command()
@application
@models
def remove(app: str, models: Sequence[str]) -> None:
    """Take the triggers off. What they saw before is told all the same."""
    _work(app, models, triggers.remove, "no longer captured")


@capture.command(name="list")
@application
@as_json_option
def list_(app: str, *, as_json: bool) -> None:
    """Show the captured tables: current, stale (`install` renews), or unknown to this application."""
    target, database = application_named(app)
    with target.read() as connection:
        found = triggers.installed(connection, database.captures.targets().values())
    if as_json:
        click.echo(json.dumps([{"table": one.table, "state": one.state} for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{one.table}: {one.state}")
    if not found:
        click.echo("no table is captured")


@click.command()
@application
@click.argument("model", metavar="MODEL")
@as_json_option
def audit(app: str, model: str, *, as_json: bool) -> None:
    """Compare the log with the table of MODEL; end with 1 if rows changed unseen. Reads one snapshot, in pages."""
    target, database = application_named(app)
    # Not `with database`, which would begin to deliver events here.
    with target.read() as connection:
        migrations.check(connection)
        store = database.store
        found = Audit(
            _model(database, model), store, Bundles(store), database.captures, lambda: None, schemas=database.schemas
        )
        for drift in found:
            click.echo(json.dumps(_as_json(drift)) if as_json else "\n".join(_lines(drift)))
    click.echo(json.dumps(_summary(found)) if as_json else _verdict(model, found))
    if found.drifted:
        click.get_current_context().exit(_DRIFTED)


def _work(app: str, models: Sequence[str], work: Work, done: str) -> None:
    target, database = application_named(app)
    with target.begin() as connection:
        migrations.check(connection)
        changed = database.captures.change(connection, models, work)
    for table in changed:
        click.echo(f"{table}: {done}")
    if not changed:
        click.echo("nothing to do")


def _model(database: Database, name: str) -> type:
    found = model_named(database.bus, name)
    if found is None:
        known = sorted(database.bus.registry.models)
        raise NotUnderstood(f"{name!r} is no model of the application; its models: {', '.join(known) or 'none'}")
    return found.cls


def _lines(drift: Drift) -> list[str]:
    since = f"since position {drift.position} ({drift.at.isoformat(timespec='seconds')})"
    match drift.kind:
        case "missing":
            return [f"{drift.key}: no row, and no deletion in the log; {since}"]
        case "extra":
            return [f"{drift.key}: a row, and its deletion in the log; {since}"]
        case _:
            fields = (
                f"  {name}: {logged!r} in the log, {stored!r} in the table"
                for name, (logged, stored) in drift.fields.items()
            )
            return [f"{drift.key}: differs {since}", *fields]


def _as_json(drift: Drift) -> dict[str, Any]:
    return {
        "key": drift.key,
        "kind": drift.kind,
        "position": drift.position,
        "at": drift.at.isoformat(),
        "fields": {
            name: {"logged": _value(logged), "table": _value(stored)} for name, (logged, stored) in drift.fields.items()
        },
    }


def _value(value: Any) -> Any:
    """As the log writes it, or its text if no log could."""
    try:
        return json.loads(encode({"value": value}))["value"]
    except PayloadError:
        return str(value)


def _summary(found: Audit) -> dict[str, int]:
    return {"rows": found.rows, "drifted": found.drifted, "unlogged": found.unlogged}


def _verdict(model: str, found: Audit) -> str:
    return f"{model}: {found.rows} rows, {found.drifted} drifted, {found.unlogged} not in the log"
