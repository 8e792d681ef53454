"""The log of a database, as the boundary of its transactions knows it. What it is: `earnorm.orm.log`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy.appending import Appending
from earnorm.bus import EventBus
from earnorm.clock import Clock
from earnorm.handle import Waiter
from earnorm.multitude import Happening
from earnorm.occurrence import Occurrence
from earnorm.registry import ModelInfo
from earnorm.store import Transaction

__all__ = ["Log"]


class Log(Protocol):
    """The database an engine belongs to: where its events are kept."""

    name: str
    bus: EventBus
    clock: Clock

    @property
    def waiter(self) -> Waiter:
        """Who waits for the outcomes of its events."""
        ...

    def join(self, connection: Connection) -> Transaction:
        """The verbs of its store, in the transaction of `connection`."""
        ...

    def append(
        self, connection: Connection, told: Sequence[Happening], muted: set[str], *, with_commit: bool
    ) -> Appending:
        """Write the events into the log, in the transaction of `connection`; maybe only together with its COMMIT."""
        ...

    def keeps_of(self, info: ModelInfo) -> bool:
        """Whether it would keep any save or deletion of the model, as far as it knows who is subscribed."""
        ...

    def look(self, connection: Connection) -> None:
        """See in the database who is subscribed by now."""
        ...

    def appended(self, appending: Appending) -> None:
        """They are committed: wake whoever waits for them."""
        ...

    def refresh(self, occurrence: Occurrence) -> Occurrence | None:
        """The occurrence with its subject loaded anew, for a handler after the commit; None if the row is gone."""
        ...
