"""Bulk statements: what an ORM-enabled INSERT, UPDATE or DELETE did to each row.

Every verb takes `run`, which executes the statement it is given the way SQLAlchemy would, and returns its result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Alias, Column, Connection, Delete, Insert, Update, event, select
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.cursor import null_dml_result
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import LoaderOption

from earnorm.backends.sqlalchemy.bulk.arrays import looked_up, rising, some_by_keys
from earnorm.backends.sqlalchemy.bulk.classes import require_class
from earnorm.backends.sqlalchemy.bulk.columns import Values, aligned, alike, columns_of, joined, updated_alike
from earnorm.backends.sqlalchemy.bulk.given import Params
from earnorm.backends.sqlalchemy.bulk.rowids import last_given, rises, since
from earnorm.backends.sqlalchemy.bulk.shape import ROWS_A_STATEMENT, Key, Plain, Row, Shape, among, in_chunks
from earnorm.backends.sqlalchemy.bulk.telling import Alike, Fact, Facts, differences, fetch, forget, loads, run_before
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.backends.sqlalchemy.mapping import mapping_of
from earnorm.errors import BulkRefused
from earnorm.occurrence import Kind

__all__ = [
    "Execution",
    "Outcome",
    "changed",
    "columns_matching",
    "deleted",
    "inserted",
    "kept",
    "keys_matching",
    "locks",
    "matching",
    "narrow",
    "require_schema",
    "returning",
    "updated",
]

Run = Callable[..., Result[Any]]

# Rows from which on it pays to ask the database for their new values by a statement more.
_MANY = 100


@dataclass(frozen=True, slots=True)
class Execution:
    """One statement that is about to be executed, and on what. `many` says that it has a list of parameters."""

    session: Session
    connection: Connection
    shape: Shape
    params: Params
    run: Run
    many: bool
    what: str
    options: Mapping[str, Any]

    @property
    def model(self) -> Model:
        """That of the class itself, or of the first below it that is known; there is one of most statements."""
        return mapping_of(self.shape.mapper.class_) or self.shape.known[0]

    def refuse(self, why: str) -> BulkRefused:
        return BulkRefused(self.shape.mapper.class_.__name__, self.what, why)


class Outcome(NamedTuple):
    """What the caller is given, and what happened; of deleted rows the records (`gone`), if somebody is handed them."""

    result: Any
    facts: Facts
    gone: Mapping[Key, Any]


# --- INSERT ----------------------------------------------------------------------------------


def inserted(execution: Execution, statement: Insert) -> Outcome:
    shape, connection = execution.shape, execution.connection
    if any("REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes):
        raise execution.refuse(
            "INSERT OR REPLACE deletes rows that nobody is told of; use on_conflict_do_update(index_elements=[...])"
        )
    if execution.many and rises(connection, shape, statement, execution.params):
        last = last_given(connection, shape.key_columns[0])
        if last is not None:
            execution.run(statement)
            assert shape.plain is not None  # or they would not rise
            values = rising(connection, shape, last, len(execution.params or ()))
            if values is None:
                told = _told("created", shape, since(connection, shape, last))
            else:
                told = alike("created", shape.plain, values)
            return Outcome(_counted(told.columns if isinstance(told, Alike) else told), told, {})
    if not shape.joined:
        result, tuples = returning(execution, statement)
        return Outcome(result, _told("created", shape, tuples), {})
    if not execution.many:
        raise execution.refuse("its table is one of several; pass dictionaries: session.execute(insert(Model), [...])")
    require_returning(execution, execution.connection.dialect.insert_executemany_returning)
    ours = _attributes(execution.model, shape)
    result, tuples = _cut(execution.run(statement.returning(*ours)), len(ours), asked=bool(statement._returning))
    return Outcome(result, _all("created", _joined_rows(execution.model, shape, tuples)), {})


def returning(execution: Execution, statement: Insert, *more: Any) -> tuple[Any, list[Sequence[Any]]]:
    """Execute an INSERT into one table for its caller, and have the rows it has made or changed, and `more` of each."""
    shape, dialect = execution.shape, execution.connection.dialect
    require_returning(execution, dialect.insert_executemany_returning if execution.many else dialect.insert_returning)
    ours = (*shape.columns, *more)
    # What is no column is another object in each statement, and the same in those that are cached.
    places = (*shape.columns, *(each.name for each in more))
    if execution.many and not statement._returning:
        return _gathered(execution, _with_defaults(statement, shape.key_columns, ours), places)
    if statement._returning or statement.select is not None:
        return _cut(execution.run(statement.returning(*ours)), len(ours), asked=bool(statement._returning))
    result = execution.run(_with_defaults(statement, shape.key_columns, ours))
    return result, _beside(result, places)


def _gathered(execution: Execution, statement: Insert, places: Sequence[Any]) -> tuple[Any, list[Sequence[Any]]]:
    """Rows beside each of the statements that dictionaries of unlike keys become, without the ORM's loading."""
    found: list[Sequence[Any]] = []

    def gather(_connection: Any, _statement: Any, _many: Any, _one: Any, _options: Any, result: Any) -> None:
        take = result._tuple_getter(places)
        found.extend(take(row) for row in result.returned_defaults_rows or ())

    event.listen(execution.connection, "after_execute", gather)
    try:
        execution.run(statement)
    finally:
        event.remove(execution.connection, "after_execute", gather)
    return _counted(found), found


def _counted(rows: Sized) -> Any:
    empty = _Written(null_dml_result()._metadata, iter([]))
    empty.rowcount = len(rows)
    empty._soft_close()
    return empty


def require_returning(execution: Execution, able: bool) -> None:  # noqa: FBT001  # what a dialect says of itself
    if not able:
        raise execution.refuse("this database gives no rows back (RETURNING); save the records")


def _with_defaults(statement: Any, keys: Iterable[Any], columns: Iterable[Any]) -> Any:
    """RETURNING beside the caller's result, which stays what it would be: rowcount, inserted_primary_key."""
    return statement.return_defaults(*keys, supplemental_cols=list(columns))


def _beside(result: Any, columns: Sequence[Any]) -> list[Sequence[Any]]:
    """What was returned beside a result, of which SQLAlchemy promises no order; the caller has not asked for rows."""
    take = result._tuple_getter(columns)
    rows = [take(row) for row in result.returned_defaults_rows or ()]
    result.close()
    return rows


def _attributes(model: Model, shape: Shape) -> list[Any]:
    return [getattr(model.cls, name) for name in _names(model, shape)]


def _names(model: Model, shape: Shape) -> list[str]:
    return [name for name in model.columns if isinstance(shape.mapper.columns[name], Column)]


def _joined_rows(model: Model, shape: Shape, tuples: Iterable[Sequence[Any]]) -> Iterable[Row]:
    names = _names(model, shape)
    for values in tuples:
        named = dict(zip(names, values, strict=True))
        yield Row(model, tuple(named[name] for name in model.primary_key), named)


class _Written(IteratorResult[Any]):
    """The result of a statement whose rows only we have asked for: it has none, and says how many were written."""

    rowcount: int


def _cut(result: Result[Any], ours: int, *, asked: bool) -> tuple[Any, list[Sequence[Any]]]:
    """A result with our columns at its end as the caller wants it, and our part of its rows."""
    frozen = result.freeze()
    tuples: list[Sequence[Any]] = [tuple(row)[-ours:] for row in frozen.data]
    if asked:
        return frozen().columns(*range(len(frozen.metadata.keys) - ours)), tuples
    return _counted(tuples), tuples


# --- UPDATE ----------------------------------------------------------------------------------


def updated(execution: Execution, statement: Update, sets: Collection[str]) -> Outcome:
    """Old values by a SELECT that locks, new ones by RETURNING, or by a SELECT where the caller has one of his own."""
    shape, connection = execution.shape, execution.connection
    if shape.mapper.primary_key and set(sets) & set(execution.model.primary_key):
        raise execution.refuse("it sets the primary key, so that no row could be told from another; save the record")
    require_class(execution.model, execution.what, shape.mapper, sets)
    beside = not (statement._returning or shape.joined) and connection.dialect.update_returning
    if beside and shape.plain is not None:
        return _updated_plain(execution, statement, list(sets), shape.plain)
    keys, before = matching(execution, statement)
    narrowed = narrow(execution, statement, keys)
    if not beside:
        result = kept(statement, execution.run(narrowed))
        after = shape.read(connection, before)
    else:
        result = execution.run(_with_defaults(narrowed, shape.key_columns, shape.columns))
        after = {row.key: row for row in shape.rows(_beside(result, shape.columns))}
    return Outcome(result, list(changed(before, after)), {})


def _updated_plain(execution: Execution, statement: Update, sets: Sequence[str], plain: Plain) -> Outcome:
    """The same, of rows of one model: no more than their columns are looked at."""
    shape, connection = execution.shape, execution.connection
    wanted = _wanted(execution, plain, sets)
    before = looked_up(connection, shape, lambda columns: _looked(execution, statement, columns))
    keys = [] if before is None else before[plain.key[0]]
    if before is not None and len(keys) >= _MANY and {*map(type, keys)} == {int}:
        # Each row that a RETURNING gives is an object, which takes longer than to look them up.
        result = kept(statement, execution.run(statement))
        found = some_by_keys(connection, shape, wanted, keys)
        return Outcome(result, _compared(plain, shape, before, wanted, found), {})
    if before is None:
        looked = _looked(execution, statement, shape.columns)
        before = columns_of(looked.partitions(ROWS_A_STATEMENT), len(shape.columns))
    narrowed = narrow(execution, statement, zip(*(before[place] for place in plain.key), strict=True))
    result = execution.run(_with_defaults(narrowed, shape.key_columns, wanted))
    found = columns_of(in_chunks(_beside(result, wanted)), len(wanted))
    return Outcome(result, _compared(plain, shape, before, wanted, found), {})


def _compared(plain: Plain, shape: Shape, before: Values, wanted: Sequence[Any], found: Values) -> Facts:
    """Rows as they were, and those columns of them that may be others now."""
    keys = [before[place] for place in plain.key]
    written = [found[wanted.index(column)] for column in shape.key_columns]
    before, found = aligned(before, joined(keys), found, joined(written))
    new = dict(zip(wanted, found, strict=True))
    after = [new.get(column, old) for column, old in zip(shape.columns, before, strict=True)]
    return updated_alike(plain, before, after)


def _wanted(execution: Execution, plain: Plain, sets: Sequence[str]) -> list[Any]:
    """The columns to be read back: those that may be others than they were, and the key."""
    shape = execution.shape
    # Triggers may set any column of a row before it is written; SQLite's may not.
    if locks(execution) or execution.params:
        return list(shape.columns)
    columns = shape.mapper.columns
    may = {columns[name] for name in plain.names if name in sets}
    return [column for column in shape.columns if column in may or column in shape.key_columns or _works_out(column)]


def _works_out(column: Column[Any]) -> bool:
    """Whether an UPDATE changes it without being told to."""
    return column.onupdate is not None or column.server_onupdate is not None


def kept(statement: Update | Delete, result: Result[Any]) -> Any:
    """A result read to its end: our own statements may follow on the same connection."""
    if statement._returning:
        return result.freeze()()
    # It may have rows all the same, of keys, by which the ORM has found what to synchronize.
    result.close()
    return result


def changed(before: Mapping[Key, Row], after: Mapping[Key, Row]) -> Iterable[Fact]:
    """The rows that are not as they were, in the order they were found."""
    for key, old in before.items():
        new = after.get(key)
        if new is not None and (changes := differences(old, new)):
            yield Fact(new.mapping.info.kind_of(changes), new, changes)


class Matched(NamedTuple):
    """The rows that a statement is about to write: all keys, and the rows of classes that are known here."""

    keys: Collection[Key]
    rows: Mapping[Key, Row]


def matching(execution: Execution, statement: Update | Delete) -> Matched:
    """The rows that the statement is about to write, locked where the database has row locks."""
    shape = execution.shape
    if shape.joined:
        keys = keys_matching(execution, statement)
        return Matched(keys, shape.read(execution.connection, keys))
    found = _looked(execution, statement, shape.columns).all()
    return Matched([*map(shape.take_key, found)], {row.key: row for row in shape.rows(found)})


def keys_matching(execution: Execution, statement: Update | Delete) -> Collection[Key]:
    """Their primary keys alone."""
    found = _looked(execution, statement, execution.shape.mapper.primary_key)
    return dict.fromkeys(tuple(row) for row in found)


def columns_matching(execution: Execution, statement: Delete) -> list[dict[str, Any]]:
    """What stands in them by column, whoever maps it."""
    columns = list(execution.shape.table.c)
    names = [column.name for column in columns]
    return [dict(zip(names, row, strict=True)) for row in _looked(execution, statement, columns)]


def _looked(execution: Execution, statement: Update | Delete, wanted: Iterable[Any]) -> Result[Any]:
    shape, session = execution.shape, execution.session
    require_readable(execution, statement)
    # How records are to be loaded is asked of the caller's own RETURNING.
    options = [option for option in statement._with_options if not isinstance(option, LoaderOption)]
    looked: Any = select(*wanted).select_from(shape.mapper).options(*options)
    looked._where_criteria = statement._where_criteria
    looked = looked.with_for_update(of=shape.table) if locks(execution) else looked
    return session.execute(looked, execution.params, execution_options={"autoflush": False})


def require_schema(execution: Execution, statement: Insert | Update | Delete) -> None:
    """Raises BulkRefused of a statement that writes in another schema than the one its rows are read from."""
    name = "schema_translate_map"
    given = execution.options.get(name) or statement._execution_options.get(name)
    if given and given != execution.connection.get_execution_options().get(name):
        raise execution.refuse(
            f"its {name} is not that of its connection; give it with session.connection(execution_options=...)"
        )


def require_readable(execution: Execution, statement: Update | Delete) -> None:
    """Raises BulkRefused of a statement that no SELECT with its criteria finds the rows of."""
    if isinstance(statement.table, Alias):
        raise execution.refuse("it writes an alias of its table; name the model itself")
    if not isinstance(execution.params, Mapping) and execution.params:
        raise execution.refuse("it has criteria of its own for each set of parameters; execute it once for each")


def locks(execution: Execution) -> bool:
    # SQLite's one writer has the whole file.
    return execution.connection.dialect.name != "sqlite"


def narrow(execution: Execution, statement: Any, keys: Iterable[Key]) -> Any:
    """The statement for these rows alone, so that none committed since they were locked is written unseen."""
    if not locks(execution):
        return statement
    columns = execution.shape.own_key_columns
    return statement.where(among(columns, list(keys), execution.connection.dialect.name))


# --- DELETE ----------------------------------------------------------------------------------


def deleted(execution: Execution, statement: Delete) -> Outcome:
    """One statement by RETURNING; a SELECT before it where records are handed out, or pre hooks may veto."""
    shape, session = execution.shape, execution.session
    pre = any(model.bus.plans.flow(model.cls, "deleted").before for model in shape.known)
    handed = pre or loads(shape.known, "deleted")
    if statement._returning or shape.joined or handed or not execution.connection.dialect.delete_returning:
        keys, rows = matching(execution, statement)
        records = fetch(session, shape, rows) if handed else {}
        if pre:
            for key, row in rows.items():
                if row.is_whole:
                    run_before(session, row, "deleted", records.get(key))
        result = kept(statement, execution.run(narrow(execution, statement, keys)))
        forget(session, records.values())
        # What is left of one that was deleted before has been told then.
        return Outcome(result, _all("deleted", (row for row in rows.values() if row.is_whole)), records)
    require_readable(execution, statement)
    result = execution.run(_with_defaults(statement, shape.key_columns, shape.columns))
    return Outcome(result, _told("deleted", shape, _beside(result, shape.columns)), {})


def _told(kind: Kind, shape: Shape, tuples: Iterable[Sequence[Any]]) -> Facts:
    if shape.plain is None:
        return _all(kind, shape.rows(tuples))
    return alike(kind, shape.plain, columns_of(_lots(tuples), len(shape.columns)))


def _lots(tuples: Iterable[Sequence[Any]]) -> Iterable[Sequence[Sequence[Any]]]:
    # A result gives a thousand rows in a tenth of the functions that it takes for each.
    return tuples.partitions(ROWS_A_STATEMENT) if isinstance(tuples, Result) else in_chunks(tuples)


def _all(kind: Kind, rows: Iterable[Row]) -> list[Fact]:
    return [Fact(kind, row) for row in rows]
