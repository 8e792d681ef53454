"""A door: where a bus sends emits that need a transaction. The bus knows no database; who does attaches one."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from earnorm.emission import Emit
from earnorm.handle import Handle

__all__ = ["Door", "Prepared"]


class Prepared(Protocol):
    """Emits of one name about subjects of one class, as far as they are alike."""

    def emit(self, subject: Any, payload: Mapping[str, Any], declared: Any = None, options: Emit = ...) -> Handle:
        """Emit inside the transaction open here, or one of its own."""
        ...

    def aemit(
        self, subject: Any, payload: Mapping[str, Any], declared: Any = None, options: Emit = ...
    ) -> Coroutine[Any, Any, Handle]:
        """`emit`, awaited."""
        ...


class Door(Protocol):
    """Where emits go that need a transaction: those about models, and all of them once a database is connected."""

    @property
    def connected(self) -> bool:
        """Whether durable handlers are delivered from a log, rather than run at once."""
        ...

    def prepare(self, name: str, cls: type, declared: type | None) -> Prepared:
        """What emits of `name` about a `cls`, or of a declared event, have in common until `forget_plans`."""
        ...
