"""Upserts: which rows of an INSERT … ON CONFLICT DO UPDATE were there before, and what they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Insert, Integer, Table, UniqueConstraint, column, literal_column, select, tuple_
from sqlalchemy.exc import DBAPIError

from earnorm.backends.sqlalchemy.bulk.given import attribute_of, inserted_values, is_sql
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, among, in_chunks
from earnorm.backends.sqlalchemy.bulk.statements import Execution, Outcome, changed, locks, returning
from earnorm.backends.sqlalchemy.bulk.telling import Fact

__all__ = ["conflicts", "is_upsert", "set_values", "targets", "upserted"]


_LOOKS = 5

# "cannot retrieve a system column in this context", as PostgreSQL says it.
_NOT_SUPPORTED = "0A000"


def conflicts(statement: Insert) -> list[Any]:
    """The ON CONFLICT clauses of an INSERT; SQLite takes several."""
    clause: Any = getattr(statement, "_post_values_clause", None)
    if clause is None:
        return []
    return list(clause.clauses) if hasattr(clause, "clauses") else [clause]


def is_upsert(statement: Insert) -> bool:
    """Whether rows that were there before may be updated."""
    return any(hasattr(clause, "update_values_to_set") for clause in conflicts(statement))


def set_values(statement: Insert) -> dict[Any, Any]:
    """What DO UPDATE sets, by column or its name."""
    found: dict[Any, Any] = {}
    for clause in conflicts(statement):
        found.update(getattr(clause, "update_values_to_set", {}))
    return found


def upserted(execution: Execution, statement: Insert) -> Outcome:
    if not locks(execution):
        outcome = _upserted(execution, statement)
        assert outcome is not None
        return outcome
    # A row that another transaction has made between our look and our INSERT is met all the same: look again.
    for _ in range(_LOOKS):
        try:
            with execution.connection.begin_nested() as savepoint:
                outcome = _upserted(execution, statement)
                if outcome is not None:
                    return outcome
                savepoint.rollback()
        except DBAPIError as error:
            if execution.shape.is_partitioned or getattr(error.orig, "sqlstate", None) != _NOT_SUPPORTED:
                raise
            execution.shape.is_partitioned = True
    raise execution.refuse(f"others made and deleted the rows it meets, {_LOOKS} times in a row; do it again")


def _upserted(execution: Execution, statement: Insert) -> Outcome | None:
    """What was done; None if a row was updated that was not there when we looked."""
    shape, before = execution.shape, _there(execution, statement)
    # Of PostgreSQL, and of what speaks like it: a row that was updated rather than inserted has an xmax.
    met = [_met(shape.table)] if locks(execution) and not shape.is_partitioned else []
    result, tuples = returning(execution, statement, *met)
    after = {row.key: row for row in shape.rows(tuples)}
    if locks(execution):
        updated = sum(values[-1] for values in tuples) if met else _count_met(execution, after)
        if updated != len(before.keys() & after.keys()):
            return None
    created = [Fact("created", row) for key, row in after.items() if key not in before]
    return Outcome(result, [*created, *changed(before, after)], {})


def _met(table: Table) -> ColumnElement[bool]:
    # A column of the table, so that its name is quoted where it must be: a table may well be called "order" or "User".
    xmax: Any = column("xmax", Integer)
    xmax.table = table
    met: ColumnElement[bool] = (xmax != literal_column("0")).label("earnorm_met")
    return met


def _count_met(execution: Execution, keys: Iterable[Key]) -> int:
    """Of rows of a partitioned table, whose INSERT returns no xmax; a SELECT does."""
    shape, connection = execution.shape, execution.connection
    found = 0
    for some in in_chunks(keys):
        which = among(shape.key_columns, some, connection.dialect.name)
        looked = select(_met(shape.table)).select_from(shape.table).where(which)
        found += sum(connection.scalars(looked))
    return found


def _there(execution: Execution, statement: Insert) -> dict[Key, Row]:
    """The rows that the new ones would meet, locked where the database has row locks."""
    shape, mapper = execution.shape, execution.shape.mapper
    values = inserted_values(statement, execution.params, mapper)
    if values is None:
        raise execution.refuse("INSERT … SELECT … DO UPDATE does not say whom it would meet; upsert dictionaries")
    _refuse_key(execution, statement)
    found: dict[Key, Row] = {}
    for clause in conflicts(statement):
        if not hasattr(clause, "update_values_to_set"):
            continue
        columns = _target(execution, clause)
        names = [attribute_of(column, mapper) for column in columns]
        parts = list(zip(columns, names, strict=True))
        alone = len(columns) == 1
        wanted = [tuple(_value(execution, given, *part, alone=alone) for part in parts) for given in values]
        for some in in_chunks(dict.fromkeys(key for key in wanted if None not in key)):
            met = columns[0].in_([key[0] for key in some]) if len(columns) == 1 else tuple_(*columns).in_(some)
            looked = select(*shape.columns).where(met).with_for_update()
            found.update((row.key, row) for row in shape.rows(execution.connection.execute(looked).all()))
    _refuse_others(execution, found.values())
    return found


def _refuse_others(execution: Execution, rows: Iterable[Row]) -> None:
    """Raises BulkRefused if a row that is met belongs to another class of the hierarchy."""
    for row in rows:
        if row.mapping not in execution.shape.known:
            name, key = row.mapping.info.name, ", ".join(map(str, row.key))
            raise execution.refuse(f"it meets {name} {key}, a record of another class; upsert {name}, or what both are")


def _refuse_key(execution: Execution, statement: Insert) -> None:
    """Raises BulkRefused if a row that is met would get another primary key: nobody could tell it from a new one."""
    keys = execution.shape.key_columns
    for clause in conflicts(statement):
        met = _target(execution, clause) if hasattr(clause, "update_values_to_set") else keys
        for given in dict(getattr(clause, "update_values_to_set", ())):
            name = getattr(given, "key", given)
            key = next((key for key in keys if name in (key.name, key.key)), None)
            if key is not None and key not in met:
                raise execution.refuse(f"its DO UPDATE sets the primary key {key.name!r}; leave that out of set_")


def targets(execution: Execution, statement: Insert) -> list[Any]:
    """The columns by which its DO UPDATE meets rows: those it has in any of its clauses."""
    clauses = (clause for clause in conflicts(statement) if hasattr(clause, "update_values_to_set"))
    return [column for clause in clauses for column in _target(execution, clause)]


def _value(execution: Execution, given: Mapping[str, Any], column: Any, name: str | None, *, alone: bool) -> Any:
    """What a new row has in a column that must not meet; None if that meets nobody."""
    if name is None or name not in given:
        return _default(execution, column, alone=alone)
    value = given[name]
    if is_sql(value):
        raise execution.refuse(
            f"the database works {name} out, by which it looks for a row that is there; give a value"
        )
    return value


def _default(execution: Execution, column: Any, *, alone: bool) -> Any:
    default = column.default
    if default is not None and default.is_scalar:
        return default.arg
    # A key that is made for each new row is that of none that is there.
    if (default is None and column.server_default is None) or (alone and column.primary_key):
        return None
    raise execution.refuse(
        f"{column.name} gets its default only as the row is inserted, and by it the database looks for one that is "
        f"there; give a value"
    )


def _target(execution: Execution, clause: Any) -> list[Any]:
    """The columns whose values must not meet."""
    table: Table = execution.shape.table
    elements = clause.inferred_target_elements
    if elements is None and (name := getattr(clause, "constraint_target", None)) is not None:
        elements = _of_constraint(table, name)
    if elements is None:
        raise execution.refuse("ON CONFLICT names no columns; give index_elements=[...]")
    columns = [table.c.get(element) if isinstance(element, str) else table.c.get(element.name) for element in elements]
    if any(column is None for column in columns):
        raise execution.refuse("its conflict is about an expression; give index_elements=[...] of columns")
    return columns


def _of_constraint(table: Table, name: str) -> list[Any] | None:
    if name == table.primary_key.name:
        return list(table.primary_key.columns)
    every: list[Any] = [*(c for c in table.constraints if isinstance(c, UniqueConstraint)), *table.indexes]
    return next((list(each.columns) for each in every if each.name == name), None)
