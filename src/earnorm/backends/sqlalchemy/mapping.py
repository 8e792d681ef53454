"""A mapping: what EarnORM knows of one mapped class, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from collections.abc import Mapping as Values
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Mapper, Session, SessionTransactionOrigin
from sqlalchemy.orm.base import NO_VALUE, PASSIVE_NO_RESULT
from sqlalchemy.orm.state import InstanceState
from sqlalchemy.sql import ClauseElement

from earnorm.backends.sqlalchemy.strange import know_ranges, strange_values
from earnorm.bus import EventBus
from earnorm.errors import InvalidBulkPolicy, UnsavedSubject
from earnorm.event import Change
from earnorm.registry import BulkPolicy, ModelInfo

__all__ = [
    "Mapping",
    "bind_of",
    "connection_of",
    "mapping_of",
    "mapping_of_subject",
    "mappings",
    "open_on",
    "refer",
    "register",
    "root_of",
]

Validate = Callable[[Any, Collection[str] | None], None]
Screen = Callable[[Values[str, Any]], bool]


class ValidateValues(Protocol):
    """Checks values that are no record, by attribute, for a row each; with `complete` they are all that it is given.

    Otherwise they update rows, `by_key` the one whose primary key is among them.
    """

    def __call__(self, rows: Sequence[Values[str, Any]], *, complete: bool, by_key: bool = False) -> None: ...


_mappings: dict[type, Mapping] = {}
_by_subject: dict[str, Mapping] = {}


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapped class on a bus. `columns` are the attribute names that are stored; `primary_key` among them.

    What `screen` lets pass of a new record's attributes, `validate` has nothing against.
    """

    cls: type
    info: ModelInfo
    bus: EventBus
    columns: tuple[str, ...]
    stored: frozenset[str]
    primary_key: tuple[str, ...]
    validate: Validate | None
    validate_values: ValidateValues | None = None
    screen: Screen | None = None

    def values(self, state: InstanceState[Any]) -> dict[str, Any]:
        """The record as it is loaded here; columns nobody loaded are left out."""
        loaded = state.dict
        return {name: loaded[name] for name in self.columns if name in loaded}

    def made(self, state: InstanceState[Any]) -> dict[str, Any]:
        """`values` of a record that was just inserted: what nobody has set, and no default has, is NULL in its row."""
        values = self.values(state)
        if len(values) < len(self.columns):
            unread = state.expired_attributes
            return {name: values.get(name) for name in self.columns if name in values or name not in unread}
        return values

    def identity(self, state: InstanceState[Any]) -> tuple[Any, ...]:
        if state.key is not None:
            return tuple(state.key[1])
        return tuple(_plain(state.dict.get(name)) for name in self.primary_key)

    def logged(self, identity: tuple[Any, ...]) -> tuple[Any, ...]:
        """An identity as the log has it."""
        return identity if self.info.strange is None else self.info.strange.logged(identity)

    def native(self, identity: tuple[Any, ...]) -> tuple[Any, ...]:
        """An identity of the log's as the class's attributes have it."""
        return identity if self.info.strange is None else self.info.strange.native(identity)

    def changes(self, state: InstanceState[Any]) -> dict[str, Change]:
        """Columns set to another value since they were loaded or saved."""
        current = state.dict
        found: dict[str, Change] = {}
        for name, loaded in state.committed_state.items():
            if name not in self.stored:
                continue
            new = current.get(name)
            old = None if _is_unknown(loaded) else loaded
            if old is not new and not _same(old, new):
                found[name] = Change(old, new)
        return found

    def recall(self, session: Session, state: InstanceState[Any]) -> None:
        """Fetch old values of columns that were set without having been loaded (expired, deferred)."""
        names = [n for n, old in state.committed_state.items() if n in self.stored and _is_unknown(old)]
        if not names or state.key is None:
            return
        table: Mapper[Any] = inspect(self.cls)
        columns = [table.columns[name] for name in names]
        where = [c == part for c, part in zip(table.primary_key, state.key[1], strict=True)]
        connection = connection_of(session, state)
        row = connection.execute(select(*columns).select_from(table.persist_selectable).where(*where)).one_or_none()
        if row is not None:
            state.committed_state.update(zip(names, row, strict=True))


def connection_of(session: Session, state: InstanceState[Any]) -> Connection:
    """The connection that a flush writes the record on: that of its hierarchy; a sharded Session chooses by record."""
    mapper: Mapper[Any] = state.mapper.base_mapper
    if session.connection_callable is not None:
        return session.connection_callable(mapper, state.obj())
    found = open_on(session, session.get_bind(mapper))
    return session.connection(bind_arguments={"mapper": mapper}) if found is None else found


def open_on(session: Session, bind: Engine | Connection) -> Connection | None:
    """The connection that the Session has open on it, if it has: as `session.connection` says, and much sooner."""
    transaction = session._transaction
    while transaction is not None and transaction.origin is SessionTransactionOrigin.SUBTRANSACTION:
        transaction = transaction.parent
    found = None if transaction is None else transaction._connections.get(bind)
    return None if found is None else found[0]


def bind_of(session: Session, state: InstanceState[Any]) -> Engine | Connection | None:
    """What that connection is opened on; None if a sharded Session has yet to choose."""
    return None if session.connection_callable is not None else session.get_bind(state.mapper.base_mapper)


def _is_unknown(loaded: Any) -> bool:
    return loaded is NO_VALUE or loaded is PASSIVE_NO_RESULT


def _plain(value: Any) -> Any:
    """A key that the database is to work out is none yet."""
    return None if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__") else value


def _same(old: Any, new: Any) -> bool:
    # What is changed in place has a class of its own, that was read from the database to compare it has none.
    alike = type(old) is type(new) or (isinstance(new, MutableBase) and isinstance(new, type(old)))
    # As SQLAlchemy asks it: there are values (arrays) whose comparison is neither true nor false.
    return alike and (old == new) is True


def register(
    cls: type,
    info: ModelInfo,
    bus: EventBus,
    columns: tuple[str, ...],
    validate: Validate | None = None,
    *,
    validate_values: ValidateValues | None = None,
    screen: Screen | None = None,
) -> Mapping:
    """Make a mapped class known; its own handlers are checked and listed on the bus. Raises InvalidBulkPolicy."""
    info.bulk = _bulk_policy(cls)
    mapper: Mapper[Any] = inspect(cls)
    info.strange = strange_values(info.subject, mapper, columns)
    know_ranges()
    keys = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
    found = Mapping(cls, info, bus, columns, frozenset(columns), keys, validate, validate_values, screen)
    _mappings[cls] = found
    _by_subject.setdefault(info.subject, found)
    bus.registry.add_model(info)
    return found


def _bulk_policy(cls: type) -> BulkPolicy:
    policy: Any = getattr(cls, "__bulk__", "rows")
    if policy not in get_args(BulkPolicy):
        raise InvalidBulkPolicy(cls.__name__, policy)
    return policy  # type: ignore[no-any-return]  # one of the three, as was just asked


def mapping_of(cls: type) -> Mapping | None:
    return _mappings.get(cls)


def mappings() -> list[Mapping]:
    """Every mapped class that is known here."""
    return list(_mappings.values())


def mapping_of_subject(subject: str) -> Mapping | None:
    return _by_subject.get(subject)


def root_of(mapper: Mapper[Any]) -> Mapper[Any]:
    """The topmost class whose records share their keys with this one's; a concrete one has keys of its own."""
    while mapper.inherits is not None and not mapper.concrete:
        mapper = mapper.inherits
    return mapper


def refer(value: object) -> tuple[str, list[Any]] | None:
    """A model in a payload, by reference: subject and primary key; None for anything else. Raises UnsavedSubject."""
    found = _mappings.get(type(value))
    if found is None:
        return None
    state: InstanceState[Any] = inspect(value)
    if state.transient:
        raise UnsavedSubject("payload", repr(value))
    return found.info.subject, list(found.logged(found.identity(state)))
