"""What a statement is given: the values of its rows, by attribute, as far as they are known before the SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Insert, Update
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import ClauseElement

__all__ = ["Params", "attribute_named", "attribute_of", "inserted_values", "is_sql", "listed", "updated_values"]

Params = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def inserted_values(statement: Insert, params: Params, mapper: Mapper[Any]) -> Sequence[Mapping[str, Any]] | None:
    """The rows of an INSERT, SQL expressions as they are; None if the database makes them (INSERT … SELECT)."""
    if statement.select is not None:
        return None
    if statement._multi_values:
        return [_named(row, {}, mapper) for rows in statement._multi_values for row in rows]
    every = listed(params) or [{}]
    common: Any = statement._values
    if not common:
        return every
    return [{**_by_attribute(given, mapper), **_named(common, given, mapper)} for given in every]


def updated_values(statement: Update, params: Params, mapper: Mapper[Any]) -> list[dict[str, Any]]:
    """What an UPDATE sets, once for each set of parameters."""
    every = listed(params) or [{}]
    return [_named(statement._values or {}, given, mapper) for given in every]


def _by_attribute(given: Mapping[str, Any], mapper: Mapper[Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in mapper.columns}


def _named(values: Any, params: Mapping[str, Any], mapper: Mapper[Any]) -> dict[str, Any]:
    """Values by column as values by attribute; those of columns that are no attribute are left out."""
    found: dict[str, Any] = {}
    for column, value in dict(values).items():
        name = column if isinstance(column, str) else attribute_of(column, mapper)
        if name is not None:
            found[name] = _plain(value, params)
    return found


def attribute_of(column: Any, mapper: Mapper[Any]) -> str | None:
    try:
        return mapper.get_property_by_column(column).key
    except UnmappedColumnError:
        return None


def attribute_named(column: Any, mapper: Mapper[Any]) -> str | None:
    """`attribute_of` a column or a column's name."""
    found = mapper.local_table.c.get(column) if isinstance(column, str) else column
    return None if found is None else attribute_of(found, mapper)


def listed(params: Params) -> Sequence[Mapping[str, Any]]:
    """Each set of parameters."""
    return [params] if isinstance(params, Mapping) else list(params or ())


def _plain(value: Any, params: Mapping[str, Any]) -> Any:
    if isinstance(value, BindParameter):
        return params.get(value.key, value.effective_value)
    return value


def is_sql(value: object) -> bool:
    """Whether the database works the value out."""
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
