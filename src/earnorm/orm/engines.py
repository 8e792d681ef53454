"""The two engines of a database: a sync one and its async twin."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from earnorm.backends.sqlalchemy.dialects import READONLY, backend_of
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.errors import UnsupportedDatabase
from earnorm.tenant import current_tenant
from earnorm.wakeup import Wakeup

__all__ = ["Engines", "Schemas", "schemas_here"]

Schemas = Callable[[str], str | Mapping[str | None, str | None]]
"""A tenant's name to the schema of its tables, or to a whole `schema_translate_map`."""

E = TypeVar("E", Engine, AsyncEngine)


@dataclass(frozen=True, slots=True)
class Engines:
    """`private` is the folder of a database that is a temporary file of this process alone."""

    sync: Engine
    twin: AsyncEngine
    private: str | None = None
    maker: int = field(default_factory=os.getpid)
    _readers: dict[Engine, Engine] = field(default_factory=dict[Engine, Engine])

    @classmethod
    def of(cls, target: str | URL | Engine | AsyncEngine) -> Engines:
        """The engine given and its twin, or two on a URL. Raises UnsupportedDatabase."""
        engines = cls._made(target)
        if engines.private is not None:
            # A database that nobody closes takes its folder with it all the same.
            atexit.register(engines.remove_private)
        for engine in engines.both:
            # An error's text is kept in dead letters and log lines; what its statement was given stays out of them.
            engine.hide_parameters = True
        return engines

    @classmethod
    def _made(cls, target: str | URL | Engine | AsyncEngine) -> Engines:
        url = _url_of(target)
        backend = backend_of(url)
        if isinstance(target, AsyncEngine):
            backend.prepare(target.sync_engine)
            return cls(backend.sync(url), target)
        if isinstance(target, Engine):
            backend.prepare(target)
            return cls(target, backend.twin(url))
        if url.get_backend_name() != "sqlite" or url.database not in (None, "", ":memory:"):
            return cls(backend.sync(url), backend.twin(url))
        # A memory database has one connection, and we need several.
        folder = tempfile.mkdtemp(prefix="earnorm-")
        url = url.set(database=str(Path(folder) / "private.db"))
        return cls(backend.sync(url), backend.twin(url), folder)

    @property
    def in_process(self) -> bool:
        """Whether a worker in this process is the natural one."""
        return backend_of(self.sync.url).in_process

    def new_wakeup(self, store: SQLAlchemyStore | None = None) -> Wakeup:
        """Between this process and others on the same database; a worker that waits by it looks at the store by it."""
        wakeup = backend_of(self.sync.url).wakeup(self.sync)
        if store is not None:
            store.ears = wakeup.ears
        return wakeup

    @property
    def both(self) -> tuple[Engine, Engine]:
        """As sync engines: the async one's inner half works where sync code can await."""
        return self.sync, self.twin.sync_engine

    def acting(self, engine: E, schemas: Schemas | None) -> E:
        """The engine for who it acts for here: one that finds the tenant's own tables."""
        found = schemas_here(schemas)
        return engine if found is None else engine.execution_options(schema_translate_map=found)

    def reading(self, engine: Engine, schemas: Schemas | None) -> Engine:
        """`acting`, for reading alone. Kept: an engine with options takes longer to make than a row to read."""
        acting = engine if schemas is None else self.acting(engine, schemas)
        if acting is not engine:
            return acting.execution_options(**READONLY)
        found = self._readers.get(engine)
        if found is None:
            found = self._readers[engine] = engine.execution_options(**READONLY)
            # It has no listeners of its own, and to join none with the engine's costs at every event.
            vars(found)["dispatch"] = engine.dispatch
        return found

    def remove_private(self) -> None:
        atexit.unregister(self.remove_private)
        if self.private is not None and self.maker == os.getpid():
            shutil.rmtree(self.private, ignore_errors=True)


def schemas_here(schemas: Schemas | None) -> Mapping[str | None, str | None] | None:
    """The `schema_translate_map` for who it acts for here, if there is one."""
    name = current_tenant()
    if schemas is None or name is None:
        return None
    found = schemas(name)
    return {None: found} if isinstance(found, str) else dict(found)


def _url_of(target: str | URL | Engine | AsyncEngine) -> URL:
    """Raises UnsupportedDatabase, without the password."""
    if isinstance(target, (Engine, AsyncEngine)):
        return target.url
    shown = target.render_as_string() if isinstance(target, URL) else str(target)
    try:
        return make_url(target)
    except Exception as error:
        raise UnsupportedDatabase(shown, f"this is no database URL ({error})") from error
