"""Strange values: those of columns whose types make of them what no log holds as it is.

A value object by a TypeDecorator of the application's, an address of PostgreSQL's. The log has them as their columns
store them, and who reads them there gets them as the model has them. The dialect that is asked for the stored value is
always the same one, whatever the database, so that a key has one text wherever it is met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Time,
    Uuid,
)
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Mapper
from sqlalchemy.types import PickleType, TypeDecorator, TypeEngine

from earnorm.codec import Stored, is_given_back, register_type
from earnorm.errors import PayloadError
from earnorm.event import Change, Changes

__all__ = ["StrangeValues", "know_ranges", "strange_values"]

# Of these no value is strange. What is pickled enters no log.
_PLAIN = (JSON, Boolean, Date, DateTime, Float, Integer, Interval, LargeBinary, Numeric, PickleType, String, Time, Uuid)
_OURS = "earnorm."

_DIALECT = DefaultDialect()

Columns = Mapping[str, ColumnElement[Any]]


class StrangeValues:
    """Of one model: its strange columns by attribute, and what of its primary key they are."""

    def __init__(self, subject: str, strange: Columns, key: tuple[str, ...]) -> None:
        self._subject = subject
        self._columns = strange
        self._key = key
        self.names: AbstractSet[str] = strange.keys()
        self._has_plain_key = strange.keys().isdisjoint(key)

    def logged(self, identity: tuple[Any, ...]) -> tuple[Any, ...]:
        """An identity as the log has it. Raises PayloadError for a part that has no text of its own."""
        if self._has_plain_key or all(map(is_given_back, identity)):
            return identity
        return tuple(
            part if is_given_back(part) else self._stored_part(name, part)
            for name, part in zip(self._key, identity, strict=True)
        )

    def native(self, identity: tuple[Any, ...]) -> tuple[Any, ...]:
        """An identity of the log's as the model's attributes have it."""
        if self._has_plain_key:
            return identity
        return tuple(
            _native(self._columns[name].type, part.value) if isinstance(part, Stored) else part
            for name, part in zip(self._key, identity, strict=True)
        )

    def logged_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by attribute as the log has them; one that its column cannot store stays, for the codec to omit."""
        return {name: self.logged_value(name, value) for name, value in values.items()}

    def native_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._native(name, value) for name, value in values.items()}

    def logged_changes(self, changes: Changes) -> Changes:
        return {n: Change(self.logged_value(n, old), self.logged_value(n, new)) for n, (old, new) in changes.items()}

    def native_changes(self, changes: Changes) -> Changes:
        return {n: Change(self._native(n, old), self._native(n, new)) for n, (old, new) in changes.items()}

    # --- one value -----------------------------------------------------------------------------

    def logged_value(self, name: str, value: Any) -> Any:
        if name not in self._columns:
            return value
        try:
            return _logged(self._columns[name].type, value)
        except Exception:  # noqa: BLE001  code of the application's; an event of the log never refuses a save
            return value

    def _native(self, name: str, value: Any) -> Any:
        if name not in self._columns or not isinstance(value, (Stored, list)):
            return value
        try:
            return _read(self._columns[name].type, value)
        except Exception:  # noqa: BLE001  a column that has another type by now
            return value.value if isinstance(value, Stored) else value

    def _stored_part(self, name: str, part: Any) -> Stored:
        stored = _bound(self._columns[name].type, part)
        try:
            return Stored(stored if is_given_back(stored) else _text(stored))
        except TypeError as error:
            raise PayloadError(f"{self._subject}.{name}", part, str(error)) from None


def strange_values(subject: str, mapper: Mapper[Any], names: tuple[str, ...]) -> StrangeValues | None:
    """None where every value is plain data by its column's type."""
    # A foreign key's column has no type yet where the table that it refers to is still to come.
    strange = {name: column for name in names if not _is_plain((column := mapper.columns[name]).type)}
    key = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
    return StrangeValues(subject, strange, key) if strange else None


def know_ranges() -> None:
    """Let PostgreSQL's ranges be read from the log as such, if some model may have any."""
    if (module := sys.modules.get("sqlalchemy.dialects.postgresql.ranges")) is not None:
        register_type(module.Range)


# --- by type -----------------------------------------------------------------------------------


def _is_plain(kind: TypeEngine[Any]) -> bool:
    if isinstance(kind, ARRAY):
        return _is_plain(kind.item_type)
    return isinstance(kind, _PLAIN) or type(kind).__module__.startswith(_OURS)


def _comes_back(value: Any) -> bool:
    """Whether the codec gives it back, with all that is in it."""
    if isinstance(value, (list, tuple)):
        return all(map(_comes_back, value))
    if isinstance(value, dict):
        return all(map(_comes_back, value.values()))
    return is_given_back(value)


def _logged(kind: TypeEngine[Any], value: Any) -> Any:
    if _comes_back(value):
        return value
    if isinstance(kind, ARRAY) and isinstance(value, (list, tuple)):
        return [_logged(kind if isinstance(item, (list, tuple)) else kind.item_type, item) for item in value]
    stored = _bound(kind, value)
    return Stored(stored if _comes_back(stored) else _text(stored))


def _read(kind: TypeEngine[Any], value: Any) -> Any:
    if isinstance(value, Stored):
        return _native(kind, value.value)
    if isinstance(kind, ARRAY) and isinstance(value, list):
        return [_read(kind if isinstance(item, list) else kind.item_type, item) for item in value]
    return value


def _bound(kind: TypeEngine[Any], value: Any) -> Any:
    if isinstance(kind, TypeDecorator) and kind._has_bind_processor:
        return kind.process_bind_param(value, _DIALECT)
    bind = kind._cached_bind_processor(_DIALECT)
    return value if bind is None else bind(value)


def _native(kind: TypeEngine[Any], value: Any) -> Any:
    if (parse := _PARSED.get(kind.__visit_name__)) is not None:
        return parse(value)
    if isinstance(kind, TypeDecorator) and kind._has_bind_processor:
        return kind.process_result_value(value, _DIALECT)
    read = kind._cached_result_processor(_DIALECT, None)
    return value if read is None else read(value)


def _text(value: Any) -> str:
    """Raises TypeError where it would be another text in every process."""
    kind: Any = type(value)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        raise TypeError(
            f"{type(value).__name__} has no text of its own, by which the log could name it; give it a __str__, or its "
            "column a TypeDecorator whose process_bind_param returns plain data"
        )
    return str(value)


def _inet(text: str) -> Any:
    # As drivers read it.
    return ip_interface(text) if "/" in text else ip_address(text)


_PARSED: dict[str, Callable[[str], Any]] = {"INET": _inet, "CIDR": ip_network}
