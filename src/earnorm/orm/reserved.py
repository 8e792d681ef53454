"""Reserved names: attributes of every model, ours and SQLAlchemy's, that a field would hide."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column
from sqlalchemy.orm import MappedColumn, MapperProperty, declared_attr

from earnorm.errors import ReservedFieldName

__all__ = ["refuse_reserved"]

_MAPPED = (MappedColumn, MapperProperty, Column, declared_attr)


def refuse_reserved(cls: type, base: type) -> None:
    """Refuse what the class, or a mixin of it, maps under the name of an attribute of `base`, fields of that aside.

    Methods may be overridden. Raises ReservedFieldName.
    """
    words = {name for name in dir(base) if not name.startswith("__")}.difference(_mapped_names(base))
    ours = frozenset(base.__mro__)
    for each in cls.__mro__:
        for name in _mapped_names(each) if each not in ours else ():
            if name in words or name.startswith("__earnorm"):
                raise ReservedFieldName(cls.__name__, name)


def _mapped_names(cls: type) -> Iterator[str]:
    yield from (name for name, value in vars(cls).items() if isinstance(value, _MAPPED))
    annotations = vars(cls).get("__annotations__", {})
    yield from (name for name, annotation in annotations.items() if "Mapped[" in str(annotation))
