"""Strays: records written in another schema than the one in which their handlers will look for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, inspect

from earnorm.multitude import Happening, Multitude
from earnorm.orm.engines import Schemas, schemas_here
from earnorm.tenant import acting_for

__all__ = ["TRANSLATED", "Strays"]

_log = logging.getLogger("earnorm.log")

TRANSLATED = "schema_translate_map"
"""The option of a connection that moves tables into other schemas."""


class Strays:
    """Says once of a model that some are written. It is no error: a view may show them where they are looked for.

    `engine` and `schemas` are those that handlers' records are loaded by.
    """

    def __init__(self, engine: Engine, schemas: Schemas | None) -> None:
        self._engine = engine
        self._schemas = schemas
        self._told = WeakSet[type[Any]]()

    def notice(
        self, connection: Connection, happenings: Iterable[Happening], heard: Callable[[Happening], bool]
    ) -> None:
        """Look at what is about to be committed on a connection that translates schemas."""
        seen: dict[tuple[type[Any], str | None], Mapping[Any, Any]] = {}
        for one in happenings:
            if one.info is None or one.info.cls in self._told or not _is_loaded(one) or not heard(one):
                continue
            cls = one.info.cls
            if (cls, one.tenant) not in seen:
                seen[cls, one.tenant] = self._read_from(one.tenant)
                self._compare(connection, cls, seen[cls, one.tenant])

    def _read_from(self, tenant: str | None) -> Mapping[Any, Any]:
        with acting_for(tenant):
            found = schemas_here(self._schemas)
        return self._engine.get_execution_options().get(TRANSLATED) or {} if found is None else found

    def _compare(self, connection: Connection, cls: type[Any], read: Mapping[Any, Any]) -> None:
        written, default = connection.get_execution_options()[TRANSLATED], connection.dialect.default_schema_name
        for table in inspect(cls).tables:
            schema = getattr(table, "schema", None)
            into, outof = (translated.get(schema, schema) or default for translated in (written, read))
            if into != outof:
                self._told.add(cls)
                _log.warning(_TEXT, cls.__name__, table.name, into, TRANSLATED, outof)
                return


_TEXT = (
    "%s is written to %s in schema %r, by the %s of its engine, and its handlers' records are loaded from schema %r: "
    "those that are not there too are skipped as missing; name the schema in the model's __table_args__, or give "
    "connect() schemas= with that of each tenant"
)


def _is_loaded(happening: Happening) -> bool:
    """Whether it is about a record, of which more is to be found than what the event says."""
    return happening.kind != "deleted" and (isinstance(happening, Multitude) or happening.key != "")
