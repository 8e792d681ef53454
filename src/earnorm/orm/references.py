"""References: foreign keys that name a model, which may be defined later than the field."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import Column, ForeignKey, MetaData, Table, event, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Mapper
from sqlalchemy.schema import SchemaItem

from earnorm.errors import InvalidField
from earnorm.orm.spec import spec_of

__all__ = ["OnDelete", "Reference", "check_reference", "check_type", "key_of", "refer", "referring"]

OnDelete = Literal["cascade", "restrict", "set null"]


class Reference(NamedTuple):
    """What a foreign key points at, by the name of a model."""

    model: str
    on_delete: OnDelete | None


class _Waiting(NamedTuple):
    column: Column[Any]
    reference: Reference


# By metadata, which is what a declarative base and its tables share.
_models: WeakKeyDictionary[MetaData, dict[str, list[ReferenceType[type[Any]]]]] = WeakKeyDictionary()
_waiting: WeakKeyDictionary[MetaData, list[_Waiting]] = WeakKeyDictionary()


def key_of(target: type[Any]) -> Column[Any]:
    """The primary key of a mapped class."""
    mapper: Mapper[Any] | None = inspect(target, raiseerr=False)
    if not isinstance(mapper, Mapper) or not isinstance(mapper.local_table, Table):
        raise _invalid(target, "is no mapped model; pass a model class, 'ModelName' or 'table.column'")
    keys = list(mapper.local_table.primary_key.columns)
    if len(keys) != 1:
        raise _invalid(target, f"has {len(keys)} primary key columns; name one of them: 'table.column'")
    return keys[0]


def refer(target: Column[Any] | str, on_delete: OnDelete | None) -> ForeignKey:
    return ForeignKey(target, ondelete=on_delete.upper() if on_delete else None)


def referring(column: Column[Any], reference: Reference) -> None:
    """Give a column its foreign key as soon as both its table and the model it names exist."""

    def attached(column: Column[Any], table: SchemaItem) -> None:
        # A copy made by `Table.to_metadata` gets its constraints from the table it copies.
        if isinstance(table, Table) and not column.foreign_keys:
            _attach(column, table.metadata, reference)

    # With `propagate` the copies that mixins and abstract bases hand down listen as well.
    event.listen(column, "after_parent_attach", attached, propagate=True)


def _attach(column: Column[Any], metadata: MetaData, reference: Reference) -> None:
    if (target := _model(metadata, reference.model)) is None:
        _waiting.setdefault(metadata, []).append(_Waiting(column, reference))
        return
    key = key_of(target)
    column.type = key.type
    _point(column, key, reference)


def _point(column: Column[Any], key: Column[Any], reference: Reference) -> None:
    check_type(column, key, reference.model)
    column.append_foreign_key(refer(key, reference.on_delete))


def _model(metadata: MetaData, name: str) -> type[Any] | None:
    found = [model for each in _models.get(metadata, {}).get(name, ()) if (model := each()) is not None]
    if len(found) > 1:
        modules = " and ".join(model.__module__ for model in found)
        raise _invalid(name, f"is the name of models in {modules}; pass the class or 'table.column'")
    return found[0] if found else None


@event.listens_for(Mapper, "after_mapper_constructed")
def _model_defined(mapper: Mapper[Any], model: type[Any]) -> None:
    if not isinstance(mapper.local_table, Table):
        return
    metadata = mapper.local_table.metadata
    _models.setdefault(metadata, {}).setdefault(model.__name__, []).append(ref(model))
    waiting = _waiting.get(metadata, [])
    ready = [each for each in waiting if each.reference.model == model.__name__]
    waiting[:] = [each for each in waiting if each.reference.model != model.__name__]
    for column, reference in ready:
        _point(column, key_of(model), reference)


@event.listens_for(Mapper, "mapper_configured")
def _mapper_configured(mapper: Mapper[Any], _model: type[Any]) -> None:
    for table in mapper.tables:
        if isinstance(table, Table):
            _refuse_loose_ends(table)


@event.listens_for(Table, "before_create")
def _before_create(table: Table, _connection: Connection, **_options: object) -> None:
    """A table made without its foreign keys would never get them."""
    _refuse_loose_ends(table)


def _refuse_loose_ends(table: Table) -> None:
    for column, reference in _waiting.get(table.metadata, ()):
        if column.table is table:
            known = ", ".join(sorted(_models.get(table.metadata, {}))) or "none"
            raise _invalid(
                reference.model, f"is no model that {table.name}.{column.name} could point at; known: {known}"
            )


def check_type(column: Column[Any], target: Column[Any], name: object) -> None:
    """A key of another type would be stored, and never match."""
    spec, found = spec_of(column), _python_type(target)
    if spec is not None and found is not None and not issubclass(found, spec.python_type):
        raise _invalid(name, f"has a primary key of type {found.__name__}; pass type_={found.__name__}")


def check_reference(target: Any, type_: Any, on_delete: Any, *, required: bool) -> None:
    if not isinstance(target, (type, str)) or not target:
        raise _invalid(target, "expected a model class, 'ModelName' or 'table.column'")
    if type_ not in {UUID, int, str}:
        raise InvalidField("ForeignKeyField", "type_", type_, "expected UUID, int or str")
    if on_delete is not None and on_delete not in get_args(OnDelete):
        raise InvalidField("ForeignKeyField", "on_delete", on_delete, "expected 'cascade', 'restrict' or 'set null'")
    if on_delete == "set null" and required:
        raise InvalidField("ForeignKeyField", "on_delete", on_delete, "the field is required; add required=False")


def _python_type(column: Column[Any]) -> type[Any] | None:
    spec = spec_of(column)
    try:
        return spec.python_type if spec is not None else column.type.python_type
    except NotImplementedError:
        return None


def _invalid(target: object, why: str) -> InvalidField:
    shown = target.__name__ if isinstance(target, type) else target
    return InvalidField("ForeignKeyField", "target", shown, why)
