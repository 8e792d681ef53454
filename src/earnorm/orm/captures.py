"""Captures: tables whose changes are told whoever makes them, and what their triggers saw on its way into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy.capture import triggers
from earnorm.backends.sqlalchemy.capture.changes import Told, merged, told_by
from earnorm.backends.sqlalchemy.capture.rows import pending, take, take_own
from earnorm.backends.sqlalchemy.capture.target import Target, target_of, targets
from earnorm.backends.sqlalchemy.capture.triggers import Installed
from earnorm.backends.sqlalchemy.dialects import dialect_named
from earnorm.multitude import Happening
from earnorm.occurrence import Occurrence
from earnorm.portal import refuse_in_coroutine

if TYPE_CHECKING:
    from earnorm.orm.log import DatabaseLog

__all__ = ["Captures", "Installed"]

Work = Callable[[Connection, Target], bool]


class Captures:
    """`db.captures`: which tables are captured. `ready` makes the tables be there.

    A worker's pass takes in what other programs' transactions left (`pending`, `take`); a transaction of ours takes
    in its own before it commits (`settle_own`).
    """

    def __init__(self, log: DatabaseLog, ready: Callable[[], object]) -> None:
        self._log = log
        self._ready = ready
        self._known = (-1, dict[str, Target]())
        self._met = set[str]()

    # --- which tables ------------------------------------------------------------------------

    def install(self, *models: type | str) -> list[str]:
        """Put triggers on the models' tables, or renew stale ones; returns the tables where anything had to be done.

        A model is named by its class, or by the name of class, subject or table. Raises NotCapturable.
        """
        return self._each("install", models, triggers.install)

    def remove(self, *models: type | str) -> list[str]:
        """Take the triggers off; returns the tables that had some. What they saw before is told all the same."""
        return self._each("remove", models, triggers.remove)

    def installed(self) -> list[Installed]:
        """The captured tables: each current, stale (the model has other columns by now), or unknown to this process."""
        self._enter("installed")
        with self._log.store.begin(readonly=True) as transaction:
            return triggers.installed(transaction.connection, self.targets().values())

    async def ainstall(self, *models: type | str) -> list[str]:
        """`install`, awaited."""
        return await asyncio.to_thread(self.install, *models)

    async def aremove(self, *models: type | str) -> list[str]:
        """`remove`, awaited."""
        return await asyncio.to_thread(self.remove, *models)

    async def ainstalled(self) -> list[Installed]:
        """`installed`, awaited."""
        return await asyncio.to_thread(self.installed)

    def _enter(self, door: str) -> None:
        refuse_in_coroutine(f"db.captures.{door}", f"db.captures.a{door}")
        self._ready()

    def _each(self, door: str, models: Sequence[type | str], work: Work) -> list[str]:
        self._enter(door)
        with self._log.store.begin() as transaction:
            return self.change(transaction.connection, models, work)

    def change(self, connection: Connection, models: Sequence[type | str], work: Work) -> list[str]:
        """`triggers.install` or `triggers.remove`, in the caller's transaction; all of them or none."""
        chosen = [target_of(self._log.bus, model) for model in models]
        dialect_named(connection.dialect).lock_schema(connection)
        return [target.name for target in chosen if work(connection, target)]

    def targets(self) -> dict[str, Target]:
        """The tables that could be captured, by subject."""
        version, found = self._known
        if version != self._log.bus.registry.version:
            version = self._log.bus.registry.version
            found = targets(self._log.bus)
            self._known = (version, found)
        return found

    # --- by a worker's pass ------------------------------------------------------------------

    def pending(self) -> bool:
        """Whether triggers saw what is not in the log yet, of models that are known here."""
        with self._log.store.begin(readonly=True) as transaction:
            return pending(transaction.connection, self.targets())

    def take(self) -> bool:
        """Turn some of the oldest captured rows into entries of the log, in one transaction."""
        if not self.pending():
            return False
        with self._log.store.begin() as transaction:
            connection, known = transaction.connection, self.targets()
            rows = take(connection, known)
            if rows:
                self._log.look(connection)
                others = self._others(told_by(connection, known, rows, whole=False))
                transaction.append(self._log.entries(others))
        return bool(rows)

    # --- by our own transaction --------------------------------------------------------------

    def expects(self, told: Sequence[Happening]) -> bool:
        """Whether triggers saw records of these kinds written before."""
        return bool(self._met) and any(one.info is not None and one.info.subject in self._met for one in told)

    def settle_own(
        self, connection: Connection, told: Sequence[Occurrence], muted: Collection[str]
    ) -> tuple[list[Occurrence], list[Occurrence]]:
        """What triggers saw of this transaction, made one with what its Sessions told.

        Returns events of others, whose place is before it, and then its own.
        """
        known = self.targets()
        before, own = take_own(connection, known)
        seen = {found.key: found for found in told_by(connection, known, own, whole=True)}
        self._met.update(key.partition(":")[0] for key in seen)
        joined: list[Occurrence] = []
        for occurrence in told:
            found = seen.pop(occurrence.key, None) if occurrence.kind != "event" else None
            one = occurrence if found is None else merged(occurrence, found)
            if one is not None:
                joined.append(one)
        for found in (record for record in seen.values() if record.key not in muted):
            for occurrence in found.happened:
                occurrence.database = self._log.name
                joined.append(occurrence)
        return self._others(told_by(connection, known, before, whole=False)), joined

    def _others(self, told: Sequence[Told]) -> list[Occurrence]:
        """Events of transactions that nobody here had a part in."""
        found = [occurrence for record in told for occurrence in record.happened]
        for occurrence in found:
            occurrence.database, occurrence.tenant, occurrence.link = self._log.name, None, None
        return found
