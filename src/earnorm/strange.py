"""Strange values of a model: from what its attributes have to what the log can hold, and back."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from earnorm.event import Changes

__all__ = ["Strange"]


class Strange(Protocol):
    """`names` are the attributes that may have any. What is as it is to be already stays so."""

    @property
    def names(self) -> AbstractSet[str]: ...

    def logged_value(self, name: str, value: Any) -> Any: ...

    def logged(self, identity: tuple[Any, ...]) -> tuple[Any, ...]:
        """An identity. Raises PayloadError for a part by which no log could name the record."""
        ...

    def native(self, identity: tuple[Any, ...]) -> tuple[Any, ...]: ...

    def logged_values(self, values: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def native_values(self, values: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def logged_changes(self, changes: Changes) -> Changes: ...

    def native_changes(self, changes: Changes) -> Changes: ...
