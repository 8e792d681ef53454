"""Attaching: the same hooks and events on models that do not derive from BaseModel, whoever maps them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, event, inspect
from sqlalchemy.orm import Mapper, registry
from sqlalchemy.orm.instrumentation import opt_manager_of_class

from earnorm.backends.sqlalchemy import flushing
from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.bus import default_bus
from earnorm.errors import (
    AttachedOtherwise,
    InvalidField,
    InvalidSetting,
    NoPrimaryKey,
    NotAttachable,
    SubjectTaken,
    UnmappedModel,
)
from earnorm.lifecycle import collect_handlers
from earnorm.names import snake_case, validate_name
from earnorm.orm.log import Kept
from earnorm.orm.model import BaseModel
from earnorm.orm.shape import stored_names
from earnorm.orm.spec import spec_of
from earnorm.orm.validation import Validator, is_secret_looking
from earnorm.orm.values import ValuesValidator
from earnorm.registry import ModelInfo

__all__ = ["SENSITIVE", "attach"]

SENSITIVE = "earnorm_sensitive"
"""In a column's `info`: whether its values are to stay out of the log."""

Target = type[Any] | registry


@dataclass(frozen=True, slots=True)
class _Attachment:
    log: Kept
    trash: str | None

    def __str__(self) -> str:
        return f"log={self.log!r}" + (f", trash={self.trash!r}" if self.trash is not None else "")


_attachments: dict[Target, _Attachment] = {}


def attach(target: Target, *, log: Kept = "subscribed", trash: str | None = None) -> None:
    """Give hooks and events to models that do not derive from BaseModel: those there are and those to come.

    `target` is a declarative base, a mapped class (and its subclasses), or a `registry` with all that it maps. The
    one closest to a class counts. Events begin with the class name in snake_case or the class's own `__event_name__`.
    `log="subscribed"` keeps an event only if a subscription hears it, `"all"` keeps every one. Columns with
    `info={"earnorm_sensitive": True}` stay out of the log. A change of the field `trash`, in models that have it, is
    `trashed` where it becomes true or a time, `restored` where it no longer is. The models' tables are left to you.
    Raises NotAttachable, UnmappedModel, SubjectTaken, AttachedOtherwise, and what is wrong with a hook.
    """
    if log not in ("all", "subscribed"):
        raise InvalidSetting("attach", "log", log, "'all' or 'subscribed'")
    found = list(_mappers_of(target))
    attachment = _Attachment(log, trash)
    known = _attachments.get(target)
    if known == attachment:
        return
    if known is not None:
        raise AttachedOtherwise(_named(target), str(known), str(attachment))
    _attachments[target] = attachment
    try:
        _learn([mapper for mapper in found if _attachment_of(mapper) is attachment])
    except BaseException:
        del _attachments[target]
        raise


# --- which models ----------------------------------------------------------------------------


def _mappers_of(target: Any) -> Iterable[Mapper[Any]]:
    """The models there are. Raises NotAttachable, UnmappedModel."""
    if isinstance(target, registry):
        if target is BaseModel.registry:
            raise NotAttachable(target, "models that derive from BaseModel have their hooks already")
        return _mapped_by(target)
    if not isinstance(target, type):
        kind = type(target).__name__
        remedy = f"an instance has no hooks of its own; attach its class: attach({kind})"
        raise NotAttachable(target, remedy if _mapper_of(type(target)) else "expected a class or a registry")
    if issubclass(target, BaseModel):
        raise NotAttachable(target, "models that derive from BaseModel have their hooks already")
    mapper = _mapper_of(target)
    found = mapper.registry if mapper is not None else _registry_of(target)
    if found is None:
        raise UnmappedModel(target.__name__)
    return [mapper for mapper in _mapped_by(found) if issubclass(mapper.class_, target)]


def _mapped_by(found: registry) -> list[Mapper[Any]]:
    """Without the classes whose mapping is put off (AbstractConcreteBase, DeferredReflection): they are yet to come."""
    return [manager.mapper for manager in found._managers if manager.is_mapped]


def _registry_of(base: type[Any]) -> registry | None:
    """What maps the subclasses of a declarative base, whatever it calls the attribute."""
    candidates = (getattr(base, name, None) for name in ("registry", "_sa_registry"))
    return next((found for found in candidates if isinstance(found, registry)), None)


def _mapper_of(cls: type[Any]) -> Mapper[Any] | None:
    found = inspect(cls, raiseerr=False)
    return found if isinstance(found, Mapper) else None


def _attachment_of(mapper: Mapper[Any]) -> _Attachment | None:
    return _attachment(mapper.class_, mapper.registry)


def _attachment(cls: type[Any], mapped_by: registry | None) -> _Attachment | None:
    """The attachment closest to the class: its own, that of a base class, that of its registry."""
    if issubclass(cls, BaseModel):
        return None
    closest = next((base for base in cls.__mro__ if base in _attachments), None)
    if closest is not None:
        return _attachments[closest]
    return None if mapped_by is None else _attachments.get(mapped_by)


def _named(target: Target) -> str:
    return target.__name__ if isinstance(target, type) else "the registry"


# --- learning them ---------------------------------------------------------------------------


def _learn(found: list[Mapper[Any]]) -> None:
    """Make models known: all of them, or none if something is wrong with one."""
    infos = [(mapper, _info(mapper)) for mapper in found]
    _require_free_subjects([info for _, info in infos])
    for _, info in infos:
        for handler in info.handlers:
            default_bus.registry.binding(handler, info)
    if infos:
        flushing.listen()
    for mapper, info in infos:
        validator = Validator.for_mapper(mapper) if any(map(spec_of, mapper.columns)) else None
        check, screen = (validator.check, validator.screen) if validator is not None else (None, None)
        check_values = ValuesValidator(mapper).check_all if validator is not None else None
        mappings.register(
            mapper.class_, info, default_bus, info.fields, check, validate_values=check_values, screen=screen
        )


def _info(mapper: Mapper[Any]) -> ModelInfo:
    cls, attachment = mapper.class_, _attachment_of(mapper)
    assert attachment is not None
    subject = validate_name(vars(cls).get("__event_name__") or snake_case(cls.__name__))
    fields = stored_names(mapper)
    trash = attachment.trash if attachment.trash in fields else None
    info = ModelInfo(cls, subject, fields, _sensitive(mapper), log=attachment.log, trash=trash)
    info.handlers = collect_handlers(cls, trash=trash is not None)
    return info


def _require_free_subjects(infos: list[ModelInfo]) -> None:
    known = dict(default_bus.registry.models)
    for info in infos:
        other = known.setdefault(info.subject, info)
        first, second = (f"{cls.__module__}.{cls.__qualname__}" for cls in (other.cls, info.cls))
        if other.cls is not info.cls and (first != second or other in infos):
            raise SubjectTaken(info.subject, first, second)


def _sensitive(mapper: Mapper[Any]) -> frozenset[str]:
    marks = {name: _mark(column) for name, column in mapper.columns.items()}
    for name, mark in marks.items():
        if mark and mapper.columns[name] in mapper.primary_key:
            why = "a primary key names its record in every event; use another key"
            raise InvalidField(mapper.class_.__name__, SENSITIVE, name, why)
        if mark is None and is_secret_looking(name):
            warnings.warn(
                f"{mapper.class_.__name__}.{name} looks like a secret; its values will enter the log. Give its column "
                f"info={{'{SENSITIVE}': True}} to keep them out, or False to say that it is none",
                stacklevel=5,
            )
    return frozenset(name for name, mark in marks.items() if mark)


def _mark(column: ColumnElement[Any]) -> bool | None:
    """Whether a column is marked as a secret or as none; None if nothing is said."""
    spec = spec_of(column)
    if spec is not None:
        return spec.sensitive if spec.sensitive_given else None
    mark: bool | None = getattr(column, "info", {}).get(SENSITIVE)
    return mark


# --- those to come ---------------------------------------------------------------------------


@event.listens_for(Mapper, "instrument_class")
def _to_be_mapped(mapper: Mapper[Any], cls: type[Any]) -> None:
    """The last point before SQLAlchemy looks for a primary key, and says in its own words that there is none."""
    if mapper.inherits is not None or mapper._primary_key_argument or mapper.persist_selectable.primary_key:
        return
    manager = opt_manager_of_class(cls)
    mapped_by = None if manager is None else manager.registry
    if issubclass(cls, BaseModel) or _attachment(cls, mapped_by) is not None:
        raise NoPrimaryKey(cls.__name__, str(mapper.persist_selectable))


@event.listens_for(Mapper, "after_mapper_constructed")
def _mapped(mapper: Mapper[Any], _cls: type[Any]) -> None:
    if _attachments and _attachment_of(mapper) is not None:
        _learn([mapper])


@event.listens_for(Mapper, "mapper_configured")
def _configured(mapper: Mapper[Any], cls: type[Any]) -> None:
    """Columns given to a class after its body are fields as well."""
    found = mappings.mapping_of(cls) if _attachments else None
    if found is not None and _attachment_of(mapper) is not None and found.columns != stored_names(mapper):
        _learn([mapper])
