"""A model: the spec's face. A SQLAlchemy 2.1 declarative class whose records save, delete and emit themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from sqlalchemy import ColumnElement, MetaData, inspect, select
from sqlalchemy.exc import DBAPIError, PendingRollbackError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, Session
from sqlalchemy.orm.attributes import instance_state

from earnorm.backends.sqlalchemy import flushing
from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.snapshot import SNAPSHOT
from earnorm.bus import default_bus
from earnorm.emission import Emit
from earnorm.errors import (
    InvalidField,
    InvalidValue,
    NotFound,
    SubjectTaken,
    TransactionFailed,
    UnknownField,
    UnmappedAnnotation,
)
from earnorm.event import Changes, running
from earnorm.handle import Handle
from earnorm.lifecycle import collect_handlers, flattened
from earnorm.names import qualify, validate_name
from earnorm.orm import doors
from earnorm.orm.connected import database_here
from earnorm.orm.copying import twin_of
from earnorm.orm.emits import SQLAlchemyDoor
from earnorm.orm.fields import kind_of
from earnorm.orm.filling import fill, shorten_constructor
from earnorm.orm.reserved import refuse_reserved
from earnorm.orm.shape import complete, stored_names
from earnorm.orm.spec import specs_of
from earnorm.orm.tables import keep_tables_of
from earnorm.orm.validation import Validator, is_secret_looking
from earnorm.orm.values import ValuesValidator, require_kind
from earnorm.portal import refuse_in_coroutine, spawn
from earnorm.registry import BulkPolicy, ModelInfo

__all__ = ["BaseModel", "ModelEvent"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class ModelEvent(str):
    """An event of a model as an object: `Order.event("created")`. It is its name, checked when it is made."""

    __slots__ = ("model",)
    model: type[BaseModel]

    def __new__(cls, model: type[BaseModel], verb: str) -> Self:
        name = super().__new__(cls, validate_name(qualify(verb, model.__event_name__)))
        name.model = model
        return name


class BaseModel(DeclarativeBase):
    """Derive from it, declare fields, decorate methods.

    Without a primary key of its own a model gets `id`, a UUIDv7 made at construction. Its table is the plural of
    its class name in snake_case, its events begin with the class name in snake_case; `__tablename__` and
    `__event_name__` set them otherwise. `class Line(BaseModel, bubbles_to="order")` hands its events up to the
    record in its attribute `order`. `class Order(BaseModel, version=True)` counts the writes of a record in `version`
    and refuses one based on values that somebody else has changed since (StaleRecord). A subclass of a model shares
    its table; a column `kind` tells the rows apart.
    """

    __abstract__ = True
    __earnorm_model__: ClassVar[bool] = True
    __event_name__: ClassVar[str]
    __bulk__: ClassVar[BulkPolicy] = "rows"
    metadata = MetaData()

    if TYPE_CHECKING:
        id: Mapped[Any]

    def __init_subclass__(cls, *, bubbles_to: str | None = None, version: bool = False, **options: Any) -> None:
        if SNAPSHOT in cls.__dict__:
            return
        _refuse_options(cls, options)
        _refuse_unmade(cls)
        refuse_reserved(cls, BaseModel)
        if cls.__dict__.get("__abstract__", False):
            super().__init_subclass__(**options)
            return
        complete(cls, version=version)
        _require_free_subject(cls)
        super().__init_subclass__(**options)
        _register(cls, bubbles_to)

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...
    else:
        __init__ = fill  # itself: every record pays for a function around it

    __earnorm_defaults__: ClassVar[tuple[tuple[str, Callable[[], Any]], ...]] = ()

    def __repr__(self) -> str:
        identity = inspect(self).identity
        return f"<{type(self).__name__} {'/'.join(map(str, identity)) if identity else '(not saved)'}>"

    def __copy__(self) -> Self:
        """Another object of the same row, with what is not saved yet; its primary key, if the record is new, as well.

        Python's own copy would share SQLAlchemy's state with this one, and a save of it would write this one.
        """
        return twin_of(self)

    # --- records -----------------------------------------------------------------------------

    def save(self) -> Self:
        """Write what changed, in the transaction open here or one of its own; returns the record.

        Raises ValidationFailed, what a hook raises, NotConnected, SaveInPreHook, SyncDoorInCoroutine.
        """
        doors.save(self)
        return self

    async def asave(self) -> Self:
        """`save`, awaited; async hooks run."""
        await doors.asave(self)
        return self

    def delete(self) -> None:
        """Delete the row. Raises UnsavedSubject, DeletedSubject, what a hook raises."""
        doors.delete(self)

    async def adelete(self) -> None:
        """`delete`, awaited."""
        await doors.adelete(self)

    def refresh(self) -> Self:
        """Load the row again, over unsaved changes. Raises NotFound."""
        doors.refresh(self)
        return self

    async def arefresh(self) -> Self:
        """`refresh`, awaited."""
        await doors.arefresh(self)
        return self

    @property
    def changes(self) -> Changes:
        """Field to (old, new) of what is not saved yet; inside a handler about this record, of its event."""
        found = mappings.mapping_of(type(self))
        state = instance_state(self)
        pending = found.changes(state) if found is not None and state.key is not None else {}
        now = running()
        if not pending and now is not None and now.event.subject is self:
            return now.event.changes
        return pending

    # --- queries -----------------------------------------------------------------------------

    @classmethod
    def get(cls, key: Any) -> Self:
        """The record with this primary key (a tuple if it is composite). Raises NotFound."""
        refuse_in_coroutine("get")
        return cls._get(key)

    @classmethod
    async def aget(cls, key: Any) -> Self:
        """`get`, awaited."""
        await database_here(f"{cls.__name__}.aget()").aready()
        return await spawn(cls._get, key)

    @classmethod
    def find(cls, *where: ColumnElement[bool], **equals: Any) -> list[Self]:
        """Records that meet all conditions, SQL expressions and `field=value`. Raises UnknownField."""
        refuse_in_coroutine("find")
        return cls._find(where, equals)

    @classmethod
    async def afind(cls, *where: ColumnElement[bool], **equals: Any) -> list[Self]:
        """`find`, awaited."""
        await database_here(f"{cls.__name__}.afind()").aready()
        return await spawn(cls._find, where, equals)

    @classmethod
    def _get(cls, key: Any) -> Self:
        def look(session: Session) -> Any:
            columns, parts = inspect(cls).primary_key, key if isinstance(key, tuple) else (key,)
            for column, part in zip(columns, parts, strict=False):
                require_kind(cls.__name__, "get", column, part)
            # SQLAlchemy warns of a key of nothing but NULL, and finds none.
            return None if parts == (None,) * len(columns) else session.get(cls, key)

        found: Self | None = _read(cls, "get", key, lambda: inspect(cls).primary_key, look)
        if found is None:
            raise NotFound(cls.__name__, key)
        return found

    @classmethod
    def _find(cls, where: tuple[ColumnElement[bool], ...], equals: dict[str, Any]) -> list[Self]:
        for part in where:
            _require_condition(cls, part)
        statement = select(cls).where(*where)
        if equals:
            mapper = inspect(cls)
            for name, value in equals.items():
                if name not in mapper.attrs:
                    raise UnknownField(cls.__name__, name, mapper.attrs.keys())
                require_kind(cls.__name__, "find", mapper.columns.get(name), value)
            statement = statement.filter_by(**equals)
        return _read(cls, "find", equals, lambda: cls._named(equals), lambda session: list(session.scalars(statement)))

    @classmethod
    def _named(cls, equals: dict[str, Any]) -> Iterable[Any]:
        columns = inspect(cls).columns
        return [columns[name] for name in equals if name in columns] or columns

    # --- events ------------------------------------------------------------------------------

    def emit(self, event: Any, options: Emit | None = None, /, **payload: Any) -> Handle:
        """Emit a custom event about this record; returns its handle.

        `event` is a name ("login" is "user.login") or an object declared with @event_type. Handlers of the model
        run here, in the transaction; later ones after its commit. `Emit(key=)` lets it happen once, `Emit(at=)` and
        `Emit(delay=)` later. Raises UnsavedSubject, DeletedSubject, ViewEmitted, PayloadError, MissingPayload,
        ReservedPayloadKey, EventLoopError, InvalidEmit, KeyReused, DelayedInProcess.
        """
        return default_bus.emit(self._qualified(event), self, options, **payload)

    def aemit(self, event: Any, options: Emit | None = None, /, **payload: Any) -> Coroutine[Any, Any, Handle]:
        """`emit`, awaited."""
        return default_bus.aemit(self._qualified(event), self, options, **payload)

    def _qualified(self, event: Any) -> Any:
        return qualify(str(event), type(self).__event_name__) if isinstance(event, str) else event

    @classmethod
    def on(cls, *events: Any, **options: Any) -> Callable[[F], F]:
        """Register a handler for this model's events, names relative to it: `@User.on("password_changed")`."""
        every = flattened("on", events)
        names = [qualify(event, cls.__event_name__) if isinstance(event, str) else event for event in every]
        return default_bus.register("on", names, options, info=default_bus.registry.model_of(cls))

    @classmethod
    def event(cls, verb: str) -> ModelEvent:
        """An event of this model as an object, to register for: `@event_handler(Order.event("created"))`."""
        return ModelEvent(cls, verb)


def _require_condition(cls: type[BaseModel], part: object) -> None:
    """`User.find(ada.name == "Ada")` compares here and now, and would find every user or none."""
    if isinstance(part, bool):
        expected = (
            f"an SQL expression, such as {cls.__name__}.name == 'x', with the class and not a record before the dot"
        )
        raise InvalidValue(cls.__name__, "find", part, expected)


def _read(
    cls: type[BaseModel], door: str, value: object, columns: Callable[[], Iterable[Any]], work: Callable[[Session], T]
) -> T:
    """Do `work`; say what those columns take, where SQLAlchemy tells of the code that stumbled over a value."""
    try:
        return database_here(f"{cls.__name__}.{door}()").read(work)
    except PendingRollbackError as error:
        raise TransactionFailed(f"{cls.__name__}.{door}()", None) from error
    except StatementError as error:
        if isinstance(error, DBAPIError) or error.orig is None:
            raise
        taken = ", ".join(f"{column.name}: {column.type!r}" for column in columns())
        raise InvalidValue(cls.__name__, door, value, taken) from error


def _refuse_options(cls: type[BaseModel], options: dict[str, Any]) -> None:
    if any("__init_subclass__" in vars(base) for base in cls.__mro__ if base not in _OPTIONLESS):
        return  # a class of the user takes options of its own
    for option, value in options.items():
        why = "no such option of a model; options: bubbles_to, version"
        raise InvalidField(f"class {cls.__name__}", option, value, why)


def _refuse_unmade(cls: type[BaseModel]) -> None:
    annotations = vars(cls).get("__annotations__", {})
    for name, value in vars(cls).items():
        if (kind := kind_of(value)) is not None:
            raise InvalidField(cls.__name__, name, kind, f"the field is not made yet; write {name} = {kind}()")
        annotation = annotations.get(name)
        if isinstance(value, MappedColumn) and annotation is not None and "Mapped[" not in str(annotation):
            raise UnmappedAnnotation(cls.__name__, name, getattr(annotation, "__name__", str(annotation)))


def _require_free_subject(cls: type[BaseModel]) -> None:
    known = default_bus.registry.models.get(cls.__event_name__)
    if known is None:
        return
    first, second = _place(known.cls), _place(cls)
    if first != second:
        raise SubjectTaken(cls.__event_name__, first, second)


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(cls: type[BaseModel], bubbles_to: str | None) -> None:
    mapper = inspect(cls)
    fields = stored_names(mapper)
    specs = specs_of(mapper)
    sensitive = frozenset(name for name, spec in specs.items() if spec.sensitive)
    _warn_of_secrets(cls, {name for name, spec in specs.items() if not spec.sensitive_given})
    cls.__earnorm_defaults__ = tuple((n, s.make_default) for n, s in specs.items() if s.has_default)
    if bubbles_to is not None and not hasattr(cls, bubbles_to):
        why = "name a relationship or a foreign key field of the model"
        raise InvalidField(cls.__name__, "bubbles_to", bubbles_to, why)
    trash = getattr(cls, "__earnorm_trash__", None)
    info = ModelInfo(cls, cls.__event_name__, fields, sensitive, bubbles_to=bubbles_to, trash=trash)
    info.handlers = collect_handlers(cls, trash=trash is not None)
    validator, check_values = Validator.for_mapper(mapper), ValuesValidator(mapper).check_all
    shorten_constructor(cls)
    flushing.listen()
    mappings.register(
        cls, info, default_bus, fields, validator.check, validate_values=check_values, screen=validator.screen
    )


def _warn_of_secrets(cls: type[BaseModel], names: set[str]) -> None:
    for name in sorted(names):
        if is_secret_looking(name):
            warnings.warn(
                f"{cls.__name__}.{name} looks like a secret; its values will enter the log. "
                f"Mark the field sensitive=True to keep them out, or sensitive=False to say that it is none",
                stacklevel=4,
            )


_OPTIONLESS = frozenset(BaseModel.__mro__)
keep_tables_of(BaseModel)
default_bus.attach_door(SQLAlchemyDoor(default_bus))
