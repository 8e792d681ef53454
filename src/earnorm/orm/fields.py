"""Fields: what the attributes of a model hold. A field is a SQLAlchemy column that knows its rules.

Fields are required; `required=False` makes one `T | None`. A default is a value, or a callable that makes a new one for
each record. `sensitive=True` keeps a field's values out of the log. `column` names its column where that is called
otherwise. `validators` are functions of the value that raise ValueError, or return False, to refuse it.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar, Unpack, overload
from uuid import UUID

from sqlalchemy import JSON, Boolean, Date, Float, Integer, LargeBinary, String, Text, Time, Uuid, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import MappedColumn, Mapper
from sqlalchemy.types import TypeEngine

from earnorm.errors import InvalidField
from earnorm.orm.definition import Kind, define
from earnorm.orm.options import (
    BooleanOptions,
    BytesOptions,
    DecimalOptions,
    EnumOptions,
    IntegerOptions,
    JsonOptions,
    Options,
    RangeOptions,
    TextOptions,
    known,
)
from earnorm.orm.references import OnDelete, Reference, check_reference, check_type, key_of, refer, referring
from earnorm.orm.spec import FieldSpec, spec_of
from earnorm.orm.types import Duration, EnumMember, ExactDecimal, UtcDateTime, WideInteger
from earnorm.orm.validation import is_secret_looking

__all__ = [
    "BigIntegerField",
    "BooleanField",
    "BytesField",
    "DateField",
    "DateTimeField",
    "DecimalField",
    "EmailField",
    "EnumField",
    "FieldSpec",
    "FloatField",
    "ForeignKeyField",
    "IntegerField",
    "IntervalField",
    "JSONField",
    "SlugField",
    "StringField",
    "TextField",
    "TimeField",
    "URLField",
    "UUIDField",
    "is_secret_looking",
    "kind_of",
]

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
K = TypeVar("K", UUID, int, str)


# --- kinds ----------------------------------------------------------------------------------


class _Field(Generic[T]):
    def __init__(
        self, name: str, python_type: type[T], column_type: TypeEngine[Any], options: type[Any] = Options
    ) -> None:
        self._kind = Kind(name=name, python_type=python_type, column_type=lambda _: column_type, options=known(options))

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[Options[T]]) -> MappedColumn[T]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[Options[T]]) -> MappedColumn[T | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _RangeField(Generic[T]):
    def __init__(self, name: str, python_type: type[T], column_type: TypeEngine[Any]) -> None:
        self._kind = Kind(
            name=name, python_type=python_type, column_type=lambda _: column_type, options=known(RangeOptions)
        )

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[RangeOptions[T]]) -> MappedColumn[T]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[RangeOptions[T]]) -> MappedColumn[T | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _IntegerField:
    def __init__(self, name: str, column_type: TypeEngine[Any]) -> None:
        self._kind = Kind(name=name, python_type=int, column_type=lambda _: column_type, options=known(IntegerOptions))

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[IntegerOptions]) -> MappedColumn[int]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[IntegerOptions]) -> MappedColumn[int | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _TextField:
    def __init__(self, name: str, column_type: type[String | Text], **given: Any) -> None:
        self._kind = Kind(
            name=name,
            python_type=str,
            column_type=lambda spec: column_type() if column_type is Text else column_type(spec.max_length),
            options=known(TextOptions),
            given=given,
        )

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[TextOptions]) -> MappedColumn[str]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[TextOptions]) -> MappedColumn[str | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _DecimalField:
    _kind = Kind(
        name="DecimalField",
        python_type=Decimal,
        column_type=lambda spec: ExactDecimal(spec.precision or 0, spec.scale or 0),
        options=known(DecimalOptions),
        given={"precision": 15, "scale": 2},
    )

    @overload
    def __call__(
        self, *, required: Literal[True] = True, **options: Unpack[DecimalOptions]
    ) -> MappedColumn[Decimal]: ...
    @overload
    def __call__(
        self, *, required: Literal[False], **options: Unpack[DecimalOptions]
    ) -> MappedColumn[Decimal | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _BooleanField:
    _kind = Kind(name="BooleanField", python_type=bool, column_type=lambda _: Boolean(), options=known(BooleanOptions))

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[BooleanOptions]) -> MappedColumn[bool]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[BooleanOptions]) -> MappedColumn[bool | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _BytesField:
    _kind = Kind(name="BytesField", python_type=bytes, column_type=lambda _: LargeBinary(), options=known(BytesOptions))

    @overload
    def __call__(self, *, required: Literal[True] = True, **options: Unpack[BytesOptions]) -> MappedColumn[bytes]: ...
    @overload
    def __call__(self, *, required: Literal[False], **options: Unpack[BytesOptions]) -> MappedColumn[bytes | None]: ...
    def __call__(self, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _JSONField:
    _kind = Kind(
        name="JSONField",
        python_type=object,
        column_type=lambda _: JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"),
        options=known(JsonOptions),
    )

    def __call__(self, *, required: bool = True, **options: Unpack[JsonOptions]) -> MappedColumn[Any]:
        return define(self._kind, required, options)


class _EnumField:
    @overload
    def __call__(
        self, enum_class: type[E], /, *, required: Literal[True] = True, **options: Unpack[EnumOptions[E]]
    ) -> MappedColumn[E]: ...
    @overload
    def __call__(
        self, enum_class: type[E], /, *, required: Literal[False], **options: Unpack[EnumOptions[E]]
    ) -> MappedColumn[E | None]: ...
    def __call__(self, enum_class: Any, /, *, required: bool = True, **options: Any) -> MappedColumn[Any]:
        if not isinstance(enum_class, type) or not issubclass(enum_class, Enum) or not len(enum_class):
            raise InvalidField("EnumField", "enum_class", enum_class, "expected an Enum class with members")
        kind = Kind(
            name="EnumField",
            python_type=enum_class,
            column_type=lambda _: EnumMember(enum_class),
            options=known(EnumOptions),
        )
        return define(kind, required, options)


_KEY_TYPES: dict[type[Any], TypeEngine[Any]] = {UUID: Uuid(), int: WideInteger, str: String()}


class _ForeignKeyField:
    @overload
    def __call__(
        self,
        target: type[Any] | str,
        /,
        *,
        required: Literal[True] = True,
        on_delete: OnDelete | None = None,
        **options: Unpack[Options[UUID]],
    ) -> MappedColumn[UUID]: ...
    @overload
    def __call__(
        self,
        target: type[Any] | str,
        /,
        *,
        required: Literal[False],
        on_delete: OnDelete | None = None,
        **options: Unpack[Options[UUID]],
    ) -> MappedColumn[UUID | None]: ...
    @overload
    def __call__(
        self,
        target: type[Any] | str,
        /,
        *,
        type_: type[K],
        required: Literal[True] = True,
        on_delete: OnDelete | None = None,
        **options: Unpack[Options[K]],
    ) -> MappedColumn[K]: ...
    @overload
    def __call__(
        self,
        target: type[Any] | str,
        /,
        *,
        type_: type[K],
        required: Literal[False],
        on_delete: OnDelete | None = None,
        **options: Unpack[Options[K]],
    ) -> MappedColumn[K | None]: ...
    def __call__(
        self,
        target: type[Any] | str,
        /,
        *,
        type_: type[Any] = UUID,
        required: bool = True,
        on_delete: OnDelete | None = None,
        **options: Any,
    ) -> MappedColumn[Any]:
        check_reference(target, type_, on_delete, required=required)
        if isinstance(target, type):
            return _refer_to_class(target, type_, on_delete, required, options)
        kind = _foreign_key(type_, _KEY_TYPES[type_])
        if "." in target:
            return define(kind, required, options, refer(target, on_delete))
        field = define(kind, required, options)
        referring(field.column, Reference(target, on_delete))
        return field


def kind_of(value: object) -> str | None:
    """The name of a field that nobody has called, as in `name = StringField`; None for anything else."""
    return next((name for name, made in globals().items() if name.endswith("Field") and made is value), None)


def _foreign_key(type_: type[Any], column_type: TypeEngine[Any]) -> Kind:
    # Indexed unless told otherwise: without one, each delete of the target reads this whole table.
    return Kind(
        name="ForeignKeyField",
        python_type=type_,
        column_type=lambda _: column_type,
        options=known(Options),
        given={"index": True},
    )


def _refer_to_class(
    target: type[Any],
    type_: type[Any],
    on_delete: OnDelete | None,
    required: bool,  # noqa: FBT001  passed on
    options: dict[str, Any],
) -> MappedColumn[Any]:
    key = key_of(target)
    field = define(_foreign_key(type_, key.type), required, options, refer(key, on_delete))
    check_type(field.column, key, target)
    return field


@event.listens_for(Mapper, "after_mapper_constructed")
def _share_a_table(mapper: Mapper[Any], _model: type[Any]) -> None:
    """In single-table inheritance the rows of other classes have nothing in a subclass's columns."""
    if mapper.single and mapper.inherits is not None:
        for column in set(mapper.columns) - set(mapper.inherits.columns):
            if spec_of(column) is not None:
                column.nullable = True


# --- the fields -----------------------------------------------------------------------------

StringField: Final = _TextField("StringField", String)
TextField: Final = _TextField("TextField", Text)
EmailField: Final = _TextField("EmailField", String, max_length=254)
URLField: Final = _TextField("URLField", String, max_length=2048)
SlugField: Final = _TextField("SlugField", String, max_length=100)
IntegerField: Final = _IntegerField("IntegerField", Integer())
BigIntegerField: Final = _IntegerField("BigIntegerField", WideInteger)
FloatField: Final = _RangeField("FloatField", float, Float(53))
DecimalField: Final = _DecimalField()
BooleanField: Final = _BooleanField()
DateField: Final = _RangeField("DateField", date, Date())
DateTimeField: Final = _RangeField("DateTimeField", datetime, UtcDateTime())
TimeField: Final = _RangeField("TimeField", time, Time())
IntervalField: Final = _RangeField("IntervalField", timedelta, Duration())
UUIDField: Final = _Field("UUIDField", UUID, Uuid())
JSONField: Final = _JSONField()
EnumField: Final = _EnumField()
BytesField: Final = _BytesField()
ForeignKeyField: Final = _ForeignKeyField()
