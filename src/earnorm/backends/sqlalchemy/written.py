"""What a flush writes of one record, and what hooks and the log learn of it."""

from __future__ import annotations

from collections.abc import Mapping as Values
from threading import get_ident
from typing import Any

from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.scope import Lender
from earnorm.event import NO_CHANGES, NO_PAYLOAD, Changes, Event
from earnorm.flow import Flow
from earnorm.occurrence import Kind, Occurrence

__all__ = ["Written", "flow_of", "occurrence_of", "place_of"]


class Written(Lender):
    """One record that a flush writes. It can say its event, for a hook that has taken only `self` and then asks.

    `values` are there once it is written, if its event is kept.
    """

    __slots__ = ("changes", "flow", "kind", "mapping", "occurrence", "record", "state", "values")

    def __init__(
        self, mapping: Mapping, state: InstanceState[Any], kind: Kind, flow: Flow, changes: Changes = NO_CHANGES
    ) -> None:
        self.session = self._lent = None
        self._thread = get_ident()
        self.values: dict[str, Any] | None = None
        self.occurrence: Occurrence | None = None
        self.mapping = mapping
        self.state = state
        held = state.obj
        # Held: a Session lets go of what it has written, and nobody else may have it.
        self.record: Any = held()
        self.kind: Kind = kind
        self.flow = flow
        self.changes = changes

    @property
    def is_kept(self) -> bool:
        """Whether more than hooks in the transaction that take only `self` will learn of it."""
        return not self.flow.simple_after or self.mapping.bus.attentive

    @property
    def event(self) -> Event:
        if self.occurrence is None:
            self.occurrence = occurrence_of(self, NO_PAYLOAD)
            # It is asked for inside its own hook, which is not what caused it.
            self.occurrence.link = None
        return self.occurrence.event


def flow_of(mapping: Mapping, kind: Kind) -> Flow:
    return mapping.bus.plans.flow(mapping.cls, kind)


def occurrence_of(written: Written, values: Values[str, Any]) -> Occurrence:
    mapping = written.mapping
    return Occurrence(
        written.flow.name,
        written.record,
        values,
        kind=written.kind,
        changes=written.changes,
        info=mapping.info,
        identity=mapping.identity(written.state),
    )


_RANK: dict[Kind, int] = {"created": 0, "updated": 1, "trashed": 1, "restored": 1, "deleted": 2, "event": 3}


def place_of(written: Written) -> tuple[int, int, str, str]:
    """New records in the order they were added, then updates and deletions by record: the same on every run."""
    if written.kind == "created":
        return 0, written.state.insert_order or 0, "", ""
    mapping = written.mapping
    return _RANK[written.kind], 0, mapping.info.subject, str(mapping.identity(written.state))
