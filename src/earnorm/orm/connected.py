"""The databases that are connected, by name: which one serves a bus, a call, a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from earnorm import _forks
from earnorm.backends.sqlalchemy.scope import current_scope
from earnorm.bus import EventBus
from earnorm.errors import NotConnected
from earnorm.event import running

if TYPE_CHECKING:
    from earnorm.orm.database import Database

__all__ = ["BY_NAME", "connected_database", "database_here", "database_named", "databases"]

BY_NAME: dict[str, Database] = {}


def connected_database(bus: EventBus) -> Database | None:
    """A database the bus is connected to, if any."""
    return next((database for database in BY_NAME.values() if database.bus is bus), None)


def database_here(what: str) -> Database:
    """The database of the transaction open here or of the event handled here, or the default. Raises NotConnected."""
    scope = current_scope()
    if scope is not None and scope.database is not None:
        return cast("Database", scope.database)
    now = running()
    delivered = now.event.database if now is not None else ""
    found = BY_NAME.get(delivered) or BY_NAME.get("default")
    if found is None:
        raise NotConnected(what)
    return found


def database_named(what: str, name: str) -> Database:
    """The database connected under this name. Raises NotConnected."""
    if name not in BY_NAME:
        raise NotConnected(what, name)
    return BY_NAME[name]


def databases() -> list[Database]:
    return list(BY_NAME.values())


def _after_fork() -> None:
    for database in databases():
        database._begin_anew()


_forks.watch(_after_fork)
