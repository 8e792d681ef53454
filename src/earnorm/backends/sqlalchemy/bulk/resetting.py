"""Resetting: bulk writes that set values which foreign keys refer to, and who follows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Insert, Table, Update
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy.bulk.followers import Changed, Followers, changed_columns, concerned
from earnorm.backends.sqlalchemy.bulk.given import attribute_of
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, Shape
from earnorm.backends.sqlalchemy.bulk.statements import Execution, keys_matching, narrow, require_schema
from earnorm.backends.sqlalchemy.bulk.telling import Alike, Fact, Facts
from earnorm.backends.sqlalchemy.bulk.upserts import targets
from earnorm.event import NO_CHANGES, Changes

__all__ = ["by_key", "of_statement", "require_unfollowed", "tell_followers"]


def of_statement(execution: Execution, statement: Update, sets: Collection[str]) -> tuple[Followers | None, Update]:
    """Who follows what an UPDATE sets, and the statement for the rows that were looked at alone."""
    session, shape = execution.session, execution.shape
    columns = _set_columns(shape, shape.table, sets)
    if not concerned(session, shape.table, columns):
        return None, statement
    if not set(sets).isdisjoint(shape.key):
        raise execution.refuse(_KEY)
    require_schema(execution, statement)
    rows = keys_matching(execution, statement)
    followers = Followers(session)
    followers.look(execution.connection, shape.table, [Changed(key, columns) for key in rows])
    return followers, narrow(execution, statement, rows)


_KEY = (
    "it sets the primary key, and the database changes rows of others that refer to it (ON UPDATE), of which "
    "none could be told; save the record"
)


def by_key(
    session: Session, connection: Connection, shape: Shape, values: Iterable[Mapping[str, Any]]
) -> Followers | None:
    """Who follows what is set to the rows whose primary keys are among the values."""
    found: dict[Table, dict[Key, set[str]]] = {}
    # Most rows of thousands are given the same: what of that others follow is looked up where they differ.
    followed: dict[tuple[str, ...], list[tuple[Table, set[str]]]] = {}
    for given in values:
        names = tuple(given)
        if (some := followed.get(names)) is None:
            some = followed[names] = _followed(session, shape, names)
        if some and None not in (key := tuple(given.get(name) for name in shape.key)):
            for table, columns in some:
                found.setdefault(table, {}).setdefault(key, set()).update(columns)
    followers: Followers | None = None
    for table, rows in found.items():
        followers = followers or Followers(session)
        followers.look(connection, table, [Changed(key, columns) for key, columns in rows.items()])
    return followers


def require_unfollowed(execution: Execution, statement: Insert, sets: Collection[str]) -> None:
    """Raises BulkRefused of an upsert that would set what others follow; by what it meets its rows, it sets nothing."""
    session, shape = execution.session, execution.shape
    if not concerned(session, shape.table, _set_columns(shape, shape.table, sets)):
        return
    met = {attribute_of(column, shape.mapper) for column in targets(execution, statement)}
    columns = _set_columns(shape, shape.table, set(sets) - met)
    if concerned(session, shape.table, columns):
        names = ", ".join(sorted(columns))
        raise execution.refuse(
            f"its DO UPDATE sets {names}, and the database changes rows of others that refer to it (ON UPDATE), which "
            f"nobody could tell; leave that out of set_, and save the record or execute an UPDATE"
        )


def _followed(session: Session, shape: Shape, names: Iterable[str]) -> list[tuple[Table, set[str]]]:
    """What of these attributes others follow, by table."""
    sets = set(names) - set(shape.key)
    tables = [table for table in shape.mapper.tables if isinstance(table, Table)]
    columns = [(table, _set_columns(shape, table, sets)) for table in tables]
    return [(table, some) for table, some in columns if some and concerned(session, table, some)]


def _set_columns(shape: Shape, table: Table, sets: Collection[str]) -> set[str]:
    return changed_columns(table, lambda column: attribute_of(column, shape.mapper) in sets)


def tell_followers(followers: Followers | None, facts: Facts = ()) -> None:
    """Tell of them, but for what was told of the written rows themselves."""
    if followers is None:
        return
    told = {(fact.row.mapping.cls, fact.row.key): fact.changes for fact in _listed(facts)}

    def told_of(row: Row) -> Changes:
        return told.get((row.mapping.cls, row.key), NO_CHANGES)

    followers.tell(told_of)


def _listed(facts: Facts) -> Iterator[Fact]:
    yield from facts.facts() if isinstance(facts, Alike) else facts
