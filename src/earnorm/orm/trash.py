"""The trash: models whose records are put away first, and deleted only if somebody says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, get_args

from sqlalchemy import ColumnElement

from earnorm.errors import InvalidValue, NotFound
from earnorm.orm import doors
from earnorm.orm.fields import DateTimeField
from earnorm.orm.model import BaseModel
from earnorm.orm.reserved import refuse_reserved

__all__ = ["SoftDelete", "Trashed"]

Trashed = Literal["without", "with", "only"]
"""Which records a query looks at: those outside the trash, all, or those in it."""


class SoftDelete(BaseModel):
    """Derive from it instead of BaseModel: `delete()` puts a record into the trash, from which `restore()` takes it.

    The field `trashed_at` says since when it is there. `find` and `get` leave it out unless asked; sessions and
    `select` of your own see it. Its events are `trashed` and `restored`, whoever sets the field; `delete(force=True)`
    deletes the row.
    """

    __abstract__ = True
    __earnorm_trash__: ClassVar[str] = "trashed_at"

    trashed_at = DateTimeField(required=False, index=True)

    def __init_subclass__(cls, **options: Any) -> None:
        refuse_reserved(cls, SoftDelete)
        super().__init_subclass__(**options)

    @property
    def trashed(self) -> bool:
        """Whether the record is in the trash."""
        return self.trashed_at is not None

    # --- records -----------------------------------------------------------------------------

    def trash(self) -> Self:
        """Put the record into the trash, with its unsaved changes; nothing happens if it is there.

        Raises UnsavedSubject, DeletedSubject, ValidationFailed, what a hook raises.
        """
        doors.trash(self)
        return self

    async def atrash(self) -> Self:
        """`trash`, awaited; async hooks run."""
        await doors.atrash(self)
        return self

    def restore(self) -> Self:
        """Take the record out of the trash, with its unsaved changes; nothing happens if it is not there.

        Raises UnsavedSubject, DeletedSubject, ValidationFailed, what a hook raises.
        """
        doors.restore(self)
        return self

    async def arestore(self) -> Self:
        """`restore`, awaited; async hooks run."""
        await doors.arestore(self)
        return self

    def delete(self, *, force: bool = False) -> None:
        """`trash`; with `force=True` delete the row, in the trash or not."""
        if force:
            super().delete()
        else:
            doors.trash(self)

    async def adelete(self, *, force: bool = False) -> None:
        """`delete`, awaited."""
        if force:
            await super().adelete()
        else:
            await doors.atrash(self)

    # --- queries -----------------------------------------------------------------------------

    @classmethod
    def get(cls, key: Any, *, trashed: Trashed = "without") -> Self:
        """The record with this primary key; in the trash only if asked. Raises NotFound."""
        return cls._wanted(super().get(key), key, trashed, "get")

    @classmethod
    async def aget(cls, key: Any, *, trashed: Trashed = "without") -> Self:
        """`get`, awaited."""
        return cls._wanted(await super().aget(key), key, trashed, "aget")

    @classmethod
    def find(  # pyright: ignore[reportIncompatibleMethodOverride]  # a list of Self is one of the base's to a caller
        cls, *where: ColumnElement[bool], trashed: Trashed = "without", **equals: Any
    ) -> list[Self]:
        """Records that meet all conditions; in the trash only if asked. Raises UnknownField."""
        return super().find(*where, *cls._conditions(trashed, "find"), **equals)

    @classmethod
    async def afind(  # pyright: ignore[reportIncompatibleMethodOverride]  # as find
        cls, *where: ColumnElement[bool], trashed: Trashed = "without", **equals: Any
    ) -> list[Self]:
        """`find`, awaited."""
        return await super().afind(*where, *cls._conditions(trashed, "afind"), **equals)

    @classmethod
    def _conditions(cls, trashed: Trashed, door: str) -> Sequence[ColumnElement[bool]]:
        cls._require_word(trashed, door)
        if trashed == "with":
            return ()
        return [cls.trashed_at.is_(None) if trashed == "without" else cls.trashed_at.is_not(None)]

    @classmethod
    def _wanted(cls, record: Self, key: Any, trashed: Trashed, door: str) -> Self:
        cls._require_word(trashed, door)
        if trashed != "with" and record.trashed != (trashed == "only"):
            raise NotFound(cls.__name__, key)
        return record

    @classmethod
    def _require_word(cls, trashed: object, door: str) -> None:
        if trashed not in get_args(Trashed):
            raise InvalidValue(cls.__name__, door, trashed, "trashed='without', 'with' or 'only'")
