"""Followers: rows whose foreign keys the database changes when a key that they refer to is changed.

`ON UPDATE CASCADE`, `SET NULL` and `SET DEFAULT` run inside the database, where no hook is. So the rows are looked up
before the SQL, down to the last table, and looked at again after it: those that are not as they were are told. One
whose own primary key follows is found by what its parent's became.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, ForeignKeyConstraint, Table, select
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy.bulk.cascades import (
    cached_on_table,
    key_of_row,
    listened_to,
    refers_to,
    shapes_of,
    tell_facts,
)
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, Shape, among, in_chunks
from earnorm.backends.sqlalchemy.bulk.telling import Fact, differences
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.backends.sqlalchemy.mapping import root_of
from earnorm.errors import BulkRefused
from earnorm.event import Changes

__all__ = ["Changed", "Followers", "Following", "changed_columns", "concerned", "following"]

_FOLLOWING = "earnorm_following"
_CASCADE = "CASCADE"
_SET_DEFAULT = "SET DEFAULT"
_ACTIONS = (_CASCADE, "SET NULL", _SET_DEFAULT)

Told = Callable[[Row], Changes]
"""What of a row has been told already, since more than the database has written it."""


# --- which tables ----------------------------------------------------------------------------


class Following(NamedTuple):
    """A table whose foreign key, the columns `own`, follows the columns `referred` of another; by name."""

    table: Table
    constraint: ForeignKeyConstraint
    own: tuple[str, ...]
    referred: tuple[str, ...]
    action: str


def following(table: Table) -> list[Following]:
    """What follows rows of this table."""
    found: list[Following] = cached_on_table(table, _FOLLOWING, _look_for_following)
    return found


def _look_for_following(table: Table) -> Iterator[Following]:
    for other in table.metadata.tables.values():
        for constraint in sorted(other.foreign_key_constraints, key=lambda found: list(found.column_keys)):
            action = (constraint.onupdate or "").upper()
            if action in _ACTIONS and refers_to(constraint, table):
                own = tuple(element.parent.name for element in constraint.elements)
                referred = tuple(element.column.name for element in constraint.elements)
                yield Following(other, constraint, own, referred, action)


def changed_columns(table: Table, is_changed: Callable[[Column[Any]], bool]) -> set[str]:
    """Those of a table's columns that others follow and that are about to be changed."""
    referred = {element.column: None for each in following(table) for element in each.constraint.elements}
    return {column.name for column in referred if is_changed(column)}


def concerned(session: Session, table: Table, columns: Collection[str]) -> bool:
    """Whether rows of models that somebody listens to follow when these columns of the table are changed."""
    return any(_is_heard(session, each) for each in _reached(table, columns))


def _reached(table: Table, columns: Collection[str]) -> Iterator[Following]:
    seen: set[ForeignKeyConstraint] = set()
    ahead: list[tuple[Table, Collection[str]]] = [(table, columns)]
    while ahead:
        above, changed = ahead.pop()
        for each in following(above):
            if each.constraint not in seen and not set(each.referred).isdisjoint(changed):
                seen.add(each.constraint)
                ahead.append((each.table, each.own))
                yield each


def _is_heard(session: Session, following: Following) -> bool:
    return any(listened_to(session, shape, emptied=True) for shape in shapes_of(following.table))


# --- rows ------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Place:
    """A row, by column: as it was, whom it follows, and what has become of it (nothing, if it cannot be found).

    `expected` is the key under which it is afterwards, where that is known from the beginning.
    """

    table: Table
    key: Key
    old: Mapping[str, Any]
    expected: Callable[[], Key] | None = None
    moving: set[str] = field(default_factory=set[str])
    above: list[tuple[Following, _Place]] = field(default_factory=list[tuple[Following, "_Place"]])
    new: Mapping[str, Any] | None = None

    def new_key(self) -> Key:
        if self.expected is not None:
            return self.expected()
        values = dict(self.old)
        for each, parent in self.above:
            if each.action == _CASCADE and parent.new:
                values.update((own, parent.new[name]) for own, name in zip(each.own, each.referred, strict=True))
        return key_of_row(self.table, values)


class Followers:
    """The rows that follow what one write is about to change."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connections: dict[Table, Connection] = {}
        self._places: dict[tuple[Table, Key], _Place] = {}
        self._before: dict[Shape, dict[Key, Row]] = {}

    # --- before the SQL ----------------------------------------------------------------------

    def look(self, connection: Connection, table: Table, changed: Iterable[Changed]) -> None:
        """Find those that follow these rows of the table. Raises BulkRefused if one of them cannot be told."""
        by_key = {each.key: each for each in changed}
        fresh: list[_Place] = []
        for key, row in _read_each(connection, table, by_key).items():
            place = self._place(connection, table, row)
            place.moving.update(by_key[key].columns)
            place.expected = by_key[key].afterwards
            fresh.append(place)
        self._follow(connection, fresh)

    def _place(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> _Place:
        self._connections[table] = connection
        key = key_of_row(table, row)
        return self._places.setdefault((table, key), _Place(table, key, row))

    def _follow(self, connection: Connection, ahead: list[_Place]) -> None:
        while ahead:
            moved: dict[ForeignKeyConstraint, tuple[Following, list[_Place]]] = {}
            for place in ahead:
                for each in following(place.table):
                    if not place.moving.isdisjoint(each.referred):
                        moved.setdefault(each.constraint, (each, []))[1].append(place)
            ahead = []
            for each, places in moved.values():
                if _is_heard(self._session, each) or concerned(self._session, each.table, each.own):
                    below = self._below(connection, each, places)
                    self._remember(connection, each, below)
                    ahead += below

    def _below(self, connection: Connection, each: Following, places: Iterable[_Place]) -> list[_Place]:
        by_value = {tuple(place.old[name] for name in each.referred): place for place in places}
        columns = [each.table.c[element.parent.key] for element in each.constraint.elements]
        found: list[_Place] = []
        for some in in_chunks(value for value in by_value if None not in value):
            for row in _select(connection, each.table, columns, some):
                place = self._place(connection, each.table, row)
                # What the database holds for equal need not be so here, as with collations.
                parent = by_value.get(tuple(row[name] for name in each.own))
                if not place.moving.issuperset(each.own) or (parent and (each, parent) not in place.above):
                    place.above += [(each, parent)] if parent else []
                    place.moving.update(each.own)
                    found.append(place)
        return found

    def _remember(self, connection: Connection, each: Following, below: Iterable[_Place]) -> None:
        """What those of them were that somebody hears of."""
        keys = [place.key for place in below]
        for shape in shapes_of(each.table) if keys else ():
            if listened_to(self._session, shape, emptied=True):
                known = self._before.setdefault(shape, {})
                rows = shape.read(connection, [key for key in keys if key not in known])
                for model in {row.mapping.info.subject: row.mapping for row in rows.values()}.values():
                    _require_told(model, each)
                known.update(rows)

    # --- after it ----------------------------------------------------------------------------

    def tell(self, told: Told) -> None:
        """What the database has really done to them: without foreign keys switched on it was nothing."""
        self._find_again()
        known: set[tuple[object, Key]] = set()
        for shape, before in self._before.items():
            connection = self._connections[shape.table]
            places = [place for key in before if (place := self._places.get((shape.table, key))) is not None]
            moved = {key_of_row(place.table, place.new): before[place.key] for place in places if place.new}
            there = shape.read(connection, moved)
            base = root_of(shape.mapper)
            facts = [
                Fact(row.mapping.info.kind_of(changes), row, changes)
                for key, row in there.items()
                if (base, key) not in known and (changes := _untold(differences(moved[key], row), told(row)))
            ]
            # A row of joined tables is found by each of them.
            known.update((base, fact.row.key) for fact in facts)
            tell_facts(self._session, connection, shape, facts, {})

    def _find_again(self) -> None:
        """From the first ones down, since the key of one may be what that of its parent has become."""
        waiting = list(self._places.values())
        while waiting:
            ready = [p for p in waiting if all(above.new is not None or above is p for _, above in p.above)]
            # Those of a circle wait for each other.
            by_table: dict[Table, list[_Place]] = {}
            for place in ready or waiting:
                by_table.setdefault(place.table, []).append(place)
            for table, places in by_table.items():
                _find_again(self._connections[table], table, places)
            waiting = [place for place in waiting if place.new is None]


class Changed(NamedTuple):
    """A row that is about to be changed by whoever asks: its key, the columns, and its key once it is."""

    key: Key
    columns: Collection[str]
    afterwards: Callable[[], Key] | None = None


def _find_again(connection: Connection, table: Table, places: Iterable[_Place]) -> None:
    expected = {place: place.new_key() for place in places}
    wanted = dict.fromkeys([*expected.values(), *(place.key for place in expected)])
    there = _read_each(connection, table, wanted) if table.primary_key else {}
    taken = set(expected.values())
    for place, key in expected.items():
        stayed = key != place.key and place.key in there and place.key not in taken
        place.new = there.get(place.key if stayed else key, {})


def _read_each(connection: Connection, table: Table, keys: Iterable[Key]) -> dict[Key, Mapping[str, Any]]:
    """Rows by the keys that were asked for; locked, where the database has row locks."""
    columns, found = list(table.primary_key), dict[Key, Mapping[str, Any]]()
    for some in in_chunks(keys):
        rows = list(_select(connection, table, columns, some))
        found.update((key_of_row(table, row), row) for row in rows)
        unmatched = [key for key in some if key not in found]
        # What a key is in the database need not be what it was here, such as "7" for 7.
        if unmatched and len(rows) > len(some) - len(unmatched):
            for key in unmatched:
                found.update((key, row) for row in _select(connection, table, columns, [key]))
    return found


def _select(connection: Connection, table: Table, columns: list[Any], keys: list[Key]) -> Iterator[Mapping[str, Any]]:
    looked = select(*table.c).where(among(columns, keys)).with_for_update()
    names = [column.name for column in table.c]
    for row in connection.execute(looked).all():
        yield dict(zip(names, row, strict=True))


def _untold(changes: Changes, told: Changes) -> Changes:
    return {name: change for name, change in changes.items() if name not in told or told[name].new != change.new}


# --- what cannot be told ---------------------------------------------------------------------


def _require_told(model: Model, each: Following) -> None:
    what = f"a foreign key changed by the database (ON UPDATE {each.action})"
    if model.info.bulk == "refuse":
        why = "its __bulk__ is 'refuse'; let the ORM change its records (relationship(passive_updates=False))"
        raise BulkRefused(model.info.name, what, why)
    keys = {column.name for column in each.table.primary_key}
    if each.action == _SET_DEFAULT and not keys.isdisjoint(each.own):
        why = "it is part of the primary key, and what the default is nobody here can tell; say ON UPDATE CASCADE"
        raise BulkRefused(model.info.name, what, why)
