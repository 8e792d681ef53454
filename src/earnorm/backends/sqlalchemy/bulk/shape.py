"""The shape of a model's rows: which columns a bulk write reads back, and whose record each row is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from operator import itemgetter
from sqlite3 import sqlite_version_info
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ARRAY,
    Column,
    Connection,
    CursorResult,
    Dialect,
    Integer,
    Select,
    Table,
    Text,
    TypeDecorator,
    any_,
    func,
    inspect,
    literal,
    select,
    tuple_,
)
from sqlalchemy.orm import Mapper, Session, undefer, with_polymorphic
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.sql import ColumnElement

from earnorm.backends.sqlalchemy.mapping import Mapping, mapping_of

__all__ = ["HAS_JSON", "ROWS_A_STATEMENT", "Key", "Plain", "Row", "Shape", "among", "in_chunks", "is_among", "shape_of"]

ROWS_A_STATEMENT = 1000
"""Rows that one statement of ours reads or tells: far below the parameters any database takes."""

# Before, it was an option that few builds had left out.
HAS_JSON = sqlite_version_info >= (3, 38)

# An array takes as many as one likes; but each statement has its price.
_KEYS_A_VALUE = 10 * ROWS_A_STATEMENT

# Keys that it pays to look at before they are sent.
_MANY = 100

Key = tuple[Any, ...]
T = TypeVar("T")


class Row(NamedTuple):
    """One row as a record of its model: the primary key, and its values by attribute."""

    mapping: Mapping
    key: Key
    values: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether it is there in each table of its class: of `delete(Subclass)` the rows of the bases are left."""
        mapper: Mapper[Any] = inspect(self.mapping.cls)
        if len(mapper.tables) == 1:
            return True
        keys = (column for table in mapper.tables for column in table.primary_key)
        return all(self.values.get(mapper.get_property_by_column(key).key, key) is not None for key in keys)


class Plain(NamedTuple):
    """Where each value stands in a row, and the primary key's, of a shape whose rows are all of one class."""

    model: Mapping
    names: tuple[str, ...]
    places: tuple[int, ...]
    key: tuple[int, ...]


class _Reader(NamedTuple):
    """How a row's columns become the values of one class."""

    mapping: Mapping
    names: tuple[str, ...]
    take: Callable[[Sequence[Any]], tuple[Any, ...]]
    take_key: Callable[[Sequence[Any]], Key]

    def row(self, values: Sequence[Any]) -> Row:
        mapping, names, take, take_key = self
        return Row(mapping, take_key(values), dict(zip(names, take(values))))  # noqa: B905  as many, and strict costs


class Shape:
    """How the rows of one mapper are read.

    Those of one table come as plain tuples of `columns`; those of joined tables are loaded as records, since a row may
    belong to any class below.
    """

    def __init__(self, mapper: Mapper[Any]) -> None:
        self.mapper = mapper
        self.known = _known(mapper)
        self.table: Table = mapper.local_table  # type: ignore[assignment]  # a mapping to anything else has no bulk writes
        self.joined = any(len(each.tables) > 1 for each in mapper.base_mapper.self_and_descendants)
        mapped = {column for each in mapper.self_and_descendants for column in each.columns}
        self.columns: tuple[Column[Any], ...] = tuple(column for column in self.table.c if column in mapped)
        self.key_columns = tuple(mapper.primary_key)
        self.key = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        self._place: dict[Any, int] = {column: number for number, column in enumerate(self.columns)}
        kind: Any = mapper.polymorphic_on
        if not self.joined and kind is not None and kind not in self._place:
            # An expression tells the classes apart: it is read as if it were a column.
            self._place[kind] = len(self.columns)
            self.columns += (kind.label(_KIND),)
        self._kind = self._place.get(kind) if kind is not None else None
        self.own_key_columns = tuple(self.table.primary_key) if self.joined else self.key_columns
        if not self.joined:
            self.take_key = _taking(tuple(self._place[column] for column in self.key_columns))
        self._readers: dict[Any, _Reader | None] = {}
        # Found out by the first upsert.
        self.is_partitioned = False

    # --- rows of this shape --------------------------------------------------------------------

    def rows(self, found: Iterable[Sequence[Any]]) -> Iterator[Row]:
        """Tuples of `columns` as rows of their models; those of classes unknown here are passed over."""
        if self._kind is not None:
            for values in found:
                if (reader := self._reader(values[self._kind])) is not None:
                    yield reader.row(values)
        elif (reader := self._reader(None)) is not None:
            yield from map(reader.row, found)

    def _reader(self, kind: Any) -> _Reader | None:
        if kind not in self._readers:
            self._readers[kind] = self._read_as(self.mapper.polymorphic_map.get(kind, self.mapper))
        return self._readers[kind]

    def _read_as(self, mapper: Mapper[Any]) -> _Reader | None:
        places = self._places(mapper)
        return places and _Reader(places.model, places.names, _taking(places.places), _taking(places.key))

    def _places(self, mapper: Mapper[Any]) -> Plain | None:
        mapping = mapping_of(mapper.class_)
        if mapping is None:
            return None
        places = {
            name: self._place[column] for name in mapping.columns if (column := mapper.columns[name]) in self._place
        }
        keys = tuple(self._place[column] for column in self.key_columns)
        return Plain(mapping, tuple(places), tuple(places.values()), keys)

    @cached_property
    def plain(self) -> Plain | None:
        """How its rows are read; None where they may be of several classes."""
        return None if self.joined or self._kind is not None else self._places(self.mapper)

    # --- reading -----------------------------------------------------------------------------

    def read(self, connection: Connection, keys: Iterable[Key], *, lock: bool = False) -> dict[Key, Row]:
        """The rows with these primary keys, 1,000 a statement; `lock` them where the database has row locks."""
        found: dict[Key, Row] = {}
        for some in in_chunks(keys):
            found.update((row.key, row) for row in self._read_some(connection, some, lock=lock))
        return found

    def _read_some(self, connection: Connection, keys: Sequence[Key], *, lock: bool) -> Iterator[Row]:
        if not self.joined:
            which = among(self.key_columns, keys, connection.dialect.name)
            return self.rows(self._find(connection, which, lock=lock).all())
        return self._load(connection, keys, lock=lock)

    def lots(
        self, connection: Connection, keys: Sequence[Sequence[Any]], *, lock: bool = False
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """The rows with these keys, by the column, as they come, some at a time; of no joined shape."""
        database = connection.dialect.name
        size = ROWS_A_STATEMENT if _are_listed(self.key_columns, database) else _KEYS_A_VALUE
        for start in range(0, len(keys[0]), size):
            some = [column[start : start + size] for column in keys]
            if len(some) == 1:
                which = is_among(self.key_columns[0], some[0], database)
            else:
                which = among(self.key_columns, list(zip(*some, strict=True)), database)
            yield from self._find(connection, which, lock=lock).partitions(ROWS_A_STATEMENT)

    def _find(self, connection: Connection, which: ColumnElement[bool], *, lock: bool) -> CursorResult[Any]:
        return connection.execute(_locking(select(*self.columns).where(which), lock=lock))

    def _load(self, connection: Connection, keys: Sequence[Key], *, lock: bool) -> Iterator[Row]:
        if lock:
            columns = self.mapper.base_mapper.primary_key
            connection.execute(_locking(select(*columns).where(among(columns, keys)), lock=True)).all()
        # A Session of its own: what is only looked at stays out of the caller's.
        with Session(connection, autoflush=False) as session:
            entity = with_polymorphic(self.mapper.base_mapper.class_, "*")
            key = [
                getattr(entity, self.mapper.get_property_by_column(c).key) for c in self.mapper.base_mapper.primary_key
            ]
            for record in session.scalars(select(entity).options(undefer("*")).where(among(key, keys))).unique():
                state = instance_state(record)
                mapping = mapping_of(type(record))
                if mapping is not None and state.mapper.isa(self.mapper):
                    yield Row(mapping, mapping.identity(state), mapping.values(state))


def _taking(places: tuple[int, ...]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        only = places[0]
        return lambda values: (values[only],)
    if not places:
        return lambda _: ()
    return itemgetter(*places)


def _locking(statement: Select[Any], *, lock: bool) -> Select[Any]:
    return statement.with_for_update() if lock else statement


def among(columns: Sequence[Any], keys: Sequence[Key], database: str = "") -> ColumnElement[bool]:
    """Whether a row's key is one of these, of which there may be any number where the `database` has arrays."""
    if len(columns) > 1:
        return tuple_(*columns).in_(keys)
    return is_among(columns[0], [key[0] for key in keys], database)


def is_among(column: Any, some: Sequence[Any], database: str) -> ColumnElement[bool]:
    """`among` of a key that is one column."""
    if len(some) >= _MANY and isinstance(column.type, Integer) and _follow_each_other(some):
        return column.between(min(some), max(some))  # type: ignore[no-any-return]  # SQLAlchemy's own condition
    if _are_listed([column], database):
        return column.in_(some)  # type: ignore[no-any-return]  # as above
    if database == "postgresql":
        # One parameter: 10,000 of them take longer than the statement.
        return column == any_(literal(some, _Listed(column.type)))  # type: ignore[no-any-return]  # as above
    if {*map(type, some)} != {int}:
        return column.in_(some)  # type: ignore[no-any-return]  # as above
    # As above; SQLite's arrays are JSON.
    found = func.json_each(literal(f"[{','.join(map(str, some))}]", Text)).table_valued("value")
    return column.in_(select(found.c.value))  # type: ignore[no-any-return]  # as above


def _follow_each_other(some: Sequence[Any]) -> bool:
    """Whether they are all the whole numbers from the lowest to the highest: those are met in half the time."""
    if {*map(type, some)} != {int} or max(some) - min(some) != len(some) - 1:
        return False
    return len({*some}) == len(some)


class _Listed(TypeDecorator[Sequence[Any]]):
    """An array; psycopg is given whole numbers as the text that it would make of them one by one, in Python."""

    impl = ARRAY
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        given = super().bind_processor(dialect)
        if dialect.driver != "psycopg":
            return given

        def process(value: Any) -> Any:
            if {*map(type, value)} == {int}:
                return f"{{{','.join(map(str, value))}}}"
            return value if given is None else given(value)

        return process


def _are_listed(columns: Sequence[Any], database: str) -> bool:
    """Whether each key is a parameter of its own; else they are one value."""
    if len(columns) > 1:
        return True
    return database != "postgresql" and not (database == "sqlite" and HAS_JSON and isinstance(columns[0].type, Integer))


def in_chunks(values: Iterable[T], size: int = ROWS_A_STATEMENT) -> Iterator[list[T]]:
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


_SHAPE = "earnorm_shape"
_KIND = "earnorm_kind"


def shape_of(mapper: Mapper[Any]) -> Shape:
    """The one shape of a mapper. A class mapped below it since makes it anew."""
    # On the mapper itself: a table of ours would keep both alive for ever.
    found: Shape | None = vars(mapper).get(_SHAPE)
    if found is None or found.known != _known(mapper):
        found = vars(mapper)[_SHAPE] = Shape(mapper)
    return found


def _known(mapper: Mapper[Any]) -> tuple[Mapping, ...]:
    """The models whose records rows of this mapper may be."""
    found = (mapping_of(each.class_) for each in mapper.self_and_descendants)
    return tuple(mapping for mapping in found if mapping is not None)
