"""An audit: the log's events of a model, folded, beside the rows of its table; what differs changed unseen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Mapper

from earnorm.backends.sqlalchemy.bundles import is_bundled
from earnorm.backends.sqlalchemy.capture.changes import read_values
from earnorm.backends.sqlalchemy.capture.rows import peek
from earnorm.backends.sqlalchemy.dialects import READONLY
from earnorm.backends.sqlalchemy.history import Line, Part, histories, last_lines, lines_of, row_pages, there
from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of, root_of
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.backoff import Backoff
from earnorm.codec import decode
from earnorm.errors import EntriesPending, UnmappedModel
from earnorm.occurrence import key_of
from earnorm.orm.captures import Captures
from earnorm.orm.engines import Schemas, schemas_here
from earnorm.orm.intakes import Bundles
from earnorm.portal import refuse_in_coroutine
from earnorm.tenant import current_tenant

__all__ = ["Audit", "Drift"]

# Looks in a row at which others were at all that there was: the first soon again, for a minute in all.
_PATIENCE = Backoff(attempts=64, first=0.05, longest=1.0)

_VERBS = ("created", "updated", "trashed", "restored", "deleted")


@dataclass(frozen=True, slots=True)
class Drift:
    """A record whose row is not what the log says.

    kind      "differs"; "missing": the log knows of no deletion, and there is no row; "extra": of one, and there is
    fields    of one that differs: by field, the logged value and the table's
    position  of the record's last event in the log; the row was changed unseen after `at`, when that happened
    """

    key: str
    kind: Literal["differs", "missing", "extra"]
    position: int
    at: datetime
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])


class Audit:
    """What `db.audit(Order)` returns: iterating it, `for` or `async for`, compares and gives each Drift as it is found.

    With `connect(schemas=...)` it is about the records of the tenant on whose behalf it was asked for.

    It reads one snapshot of the database, in pages, whatever the table's size. Afterwards `rows` says how many rows
    there were, `unlogged` how many of them the log knows nothing of, since they are older or were written unseen.
    """

    def __init__(
        self,
        model: type,
        store: SQLAlchemyStore,
        bundles: Bundles,
        captures: Captures,
        ready: Callable[[], object],
        *,
        schemas: Schemas | None = None,
    ) -> None:
        found = mapping_of(model)
        if found is None:
            raise UnmappedModel(model.__name__)
        self._mapper: Mapper[Any] = inspect(model)
        self._store = store
        self._bundles = bundles
        self._captures = captures
        self._ready = ready
        self._part = Part() if schemas is None else Part.of_tenant(current_tenant(), schemas_here(schemas))
        self.rows = 0
        self.unlogged = 0
        self.drifted = 0

    def __iter__(self) -> Iterator[Drift]:
        refuse_in_coroutine("for drift in db.audit", "async for drift in db.audit(...)")
        return self._drifts()

    async def __aiter__(self) -> AsyncIterator[Drift]:
        drifts = self._drifts()
        try:
            # In threads, one step after the other: no loop waits for a page of rows.
            while (drift := await asyncio.to_thread(next, drifts, None)) is not None:
                yield drift
        finally:
            await asyncio.to_thread(drifts.close)

    def _drifts(self) -> Generator[Drift]:
        self._ready()
        self.rows = self.unlogged = self.drifted = 0
        with self._whole() as connection:
            waiting = self._waiting(connection)
            for mapper in self._mapper.self_and_descendants:
                mapping = mapping_of(mapper.class_)
                if mapping is not None:
                    yield from self._counted(self._of_rows(connection, mapper, mapping, waiting))
                    yield from self._counted(self._of_log(connection, mapper, mapping, waiting))

    @contextmanager
    def _whole(self) -> Iterator[Connection]:
        """A snapshot in which all entries are there: a bulk write may commit between taking them in and looking.

        What somebody else is taking in is waited for. Raises EntriesPending.
        """
        vain = 0
        while True:
            vain = 0 if self._take_in() else vain + 1
            with self._snapshot() as connection:
                if not is_bundled(connection):
                    yield connection
                    return
            if vain:
                self._pause(vain)

    def _take_in(self) -> bool:
        """Whether there was anything to take into the log."""
        took = self._bundles.take_all()
        while self._captures.take():
            took = True
        return took

    def _pause(self, vain: int) -> None:
        if _PATIENCE.exhausted(vain):
            waited = sum(_PATIENCE.wait(attempt, 0.0) for attempt in range(1, vain))
            raise EntriesPending(f"an audit of {self._mapper.class_.__name__}", waited)
        self._store.clock.wait(threading.Event(), _PATIENCE.wait(vain, 0.0))

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        options: dict[str, Any] = dict(READONLY)
        engine = self._store.own_engine
        if engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        with engine.execution_options(**options).begin() as connection:
            yield connection

    def _waiting(self, connection: Connection) -> set[tuple[Any, ...]]:
        """Records whose captured changes are on their way into the log."""
        base = mapping_of(root_of(self._mapper).class_)
        target = self._captures.targets().get(base.info.subject) if base is not None else None
        if base is None or target is None:
            return set()
        stored = [dict(zip(target.key, json.loads(key), strict=False)) for key in peek(connection, target.subject)]
        is_sqlite = connection.dialect.name == "sqlite"
        documents = [json.dumps([values] if is_sqlite else values) for values in stored]
        values = read_values(connection, target, documents) if documents else []
        return {base.logged(tuple(row[name] for name in target.key)) for row in values}

    def _counted(self, drifts: Iterator[Drift]) -> Iterator[Drift]:
        for drift in drifts:
            self.drifted += 1
            yield drift

    # --- from the rows -----------------------------------------------------------------------

    def _of_rows(
        self, connection: Connection, mapper: Mapper[Any], mapping: Mapping, waiting: set[tuple[Any, ...]]
    ) -> Iterator[Drift]:
        subject, names = mapping.info.subject, _names(mapping)
        for page in row_pages(connection, self._part, mapper, mapping.columns):
            self.rows += len(page)
            identities = [mapping.logged(tuple(row[name] for name in mapping.primary_key)) for row in page]
            keys = [key_of(subject, identity) for identity in identities]
            known = histories(connection, self._part, keys, names)
            for row, identity, key in zip(page, identities, keys, strict=True):
                lines = known.get(key)
                if lines is None:
                    self.unlogged += 1
                elif identity not in waiting:
                    yield from self._compared(connection, mapper, mapping, row, lines)

    def _compared(
        self, connection: Connection, mapper: Mapper[Any], mapping: Mapping, row: dict[str, Any], lines: list[Line]
    ) -> Iterator[Drift]:
        last = lines[-1]
        if last.name.endswith(".deleted"):
            yield Drift(last.key, "extra", last.position, last.at)
            return
        logged = _folded(lines, mapping)
        fields = {
            name: (logged[name], row[name])
            for name in mapping.columns
            if name in logged
            and name not in mapping.info.sensitive
            and not _agree(connection, mapper.columns[name].type, logged[name], row[name])
        }
        if fields:
            yield Drift(last.key, "differs", last.position, last.at, fields)

    # --- from the log ------------------------------------------------------------------------

    def _of_log(
        self, connection: Connection, mapper: Mapper[Any], mapping: Mapping, waiting: set[tuple[Any, ...]]
    ) -> Iterator[Drift]:
        # Where a record went on under another key. It takes a look at all updates, so only once something is missing.
        moved: dict[str, int] | None = None
        for page in last_lines(connection, self._part, mapping.info.subject, _names(mapping)):
            living = {_identity(line): line for line in page if not line.name.endswith(".deleted")}
            asked = [mapping.native(identity) for identity in living]
            found = (
                {mapping.logged(key) for key in there(connection, self._part, mapper, asked)} if asked else set[Any]()
            )
            for identity, line in living.items():
                if identity in found or identity in waiting:
                    continue
                if moved is None:
                    moved = _moved(connection, self._part, mapping)
                if moved.get(line.key, -1) < line.position:
                    yield Drift(line.key, "missing", line.position, line.at)


def _names(mapping: Mapping) -> Sequence[str]:
    return [f"{mapping.info.subject}.{verb}" for verb in _VERBS]


def _identity(line: Line) -> tuple[Any, ...]:
    return tuple(decode(line.data).get("identity", ()))


def _moved(connection: Connection, part: Part, mapping: Mapping) -> dict[str, int]:
    """By key that a record had before its primary key was changed, where its last such change stands in the log."""
    subject, found = mapping.info.subject, dict[str, int]()
    for line in lines_of(
        connection, part, subject, [f"{subject}.{verb}" for verb in ("updated", "trashed", "restored")]
    ):
        data = decode(line.data)
        changes = data.get("changes", {})
        if not changes.keys().isdisjoint(mapping.primary_key):
            parts = zip(mapping.primary_key, data.get("identity", ()), strict=False)
            found[key_of(subject, [changes[name][0] if name in changes else part for name, part in parts])] = (
                line.position
            )
    return found


def _folded(lines: list[Line], mapping: Mapping) -> dict[str, Any]:
    """The record's last values that the log knows; a value that was left out of it is unknown from there on."""
    values: dict[str, Any] = {}
    for line in lines:
        data = decode(line.data)
        values |= data.get("payload", {})
        values |= {name: pair[1] for name, pair in data.get("changes", {}).items()}
        for name in (*data.get("omitted", ()), *data.get("hidden", ())):
            values.pop(name, None)
    strange = mapping.info.strange
    return values if strange is None else dict(strange.native_values(values))


def _agree(connection: Connection, kind: Any, logged: Any, stored: Any) -> bool:
    if logged == stored:
        return True
    if logged is None or stored is None:
        return False
    # What was logged is what the program had set, and the column may have its own way of writing it.
    bind = kind._cached_bind_processor(connection.dialect)
    read = kind._cached_result_processor(connection.dialect, None)
    try:
        written = logged if bind is None else bind(logged)
        return bool((written if read is None else read(written)) == stored)
    except Exception:  # noqa: BLE001  a value that its own column would refuse is not the one that stands there
        return False
