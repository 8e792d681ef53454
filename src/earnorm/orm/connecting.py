"""Connecting: `connect()`, which lets models and handlers meet a database."""

from __future__ import annotations

import os
from collections.abc import Collection

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from earnorm.durations import Duration
from earnorm.errors import AlreadyConnected, InvalidSetting
from earnorm.orm.connected import BY_NAME
from earnorm.orm.database import Database
from earnorm.orm.engines import Schemas
from earnorm.orm.log import Kept
from earnorm.orm.tables import Tables

__all__ = ["connect"]


def connect(
    url: str | URL | Engine | AsyncEngine | None = None,
    *,
    name: str = "default",
    worker: bool | None = None,
    tables: Tables = "create",
    log: Kept = "all",
    schemas: Schemas | None = None,
    retention: Duration | None = "30d",
    version: str | None = None,
    groups: Collection[str] | None = None,
) -> Database:
    """Connect models and handlers to a database; events are durable from here on.

    `url` is a URL or a SQLAlchemy engine (default: the environment's EARNORM_DATABASE_URL); `sqlite://` is a
    private temporary file. Nothing is opened and no thread starts before the first use, or `with`. A worker of this
    process delivers on SQLite; on a server database another process does, unless `worker=True`. `tables="check"`
    refuses missing tables, "none" trusts that they are there.
    `log="subscribed"` keeps only events that a subscription hears, one that another process has just added after 5
    seconds at most; a model may say otherwise (see `attach`).
    `schemas` gives the schema of a tenant, for sessions opened within `with tenant(...)`: a name for tables without a
    schema, or a `schema_translate_map`. The worker of this process runs the handlers of `groups` (default: of all).
    `retention` is how long events stay in the log that every subscription has passed; None keeps them for ever.
    `version` is that of your code, kept with every attempt that fails (default: the environment's
    EARNORM_CODE_VERSION).
    Raises AlreadyConnected, UnsupportedDatabase, MissingExtra, InvalidDuration, HandlerNameNeeded; MissingTables,
    SchemaTooNew and UnsoundLog on first use.
    """
    if url is None:
        url = os.environ.get("EARNORM_DATABASE_URL")
        if not url:
            raise InvalidSetting(
                "connect", "url", None, "a database URL, here or in the environment's EARNORM_DATABASE_URL"
            )
    _require_words(name, worker, groups)
    if tables not in ("create", "check", "none"):
        raise InvalidSetting("connect", "tables", tables, "'create', 'check' or 'none'")
    if log not in ("all", "subscribed"):
        raise InvalidSetting("connect", "log", log, "'all' or 'subscribed'")
    if name in BY_NAME:
        raise AlreadyConnected(name)
    database = Database(
        url,
        name=name,
        worker=worker,
        tables=tables,
        log=log,
        schemas=schemas,
        retention=retention,
        version=version,
        groups=groups,
    )
    BY_NAME[name] = database
    database.bus.forget_plans()
    return database


def _require_words(name: object, worker: object, groups: Collection[object] | None) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidSetting("connect", "name", name, "a name, such as 'archive'")
    if worker not in (None, True, False):
        raise InvalidSetting("connect", "worker", worker, "True, False, or None for the database's habit")
    if groups is not None and not (groups and all(isinstance(group, str) and group for group in groups)):
        raise InvalidSetting("connect", "groups", groups, "a list of names of groups, or None for all of them")
