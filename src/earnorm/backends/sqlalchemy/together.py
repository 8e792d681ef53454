"""Together: records of one flush that the log alone hears of, told as one value rather than an event each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol, TypeVar

from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.opening import outbox_in
from earnorm.event import Changes
from earnorm.flow import Flow
from earnorm.multitude import FEW, Multitude
from earnorm.occurrence import CHANGING, Kind

__all__ = ["one_by_one"]


class Written(Protocol):
    """One record that a flush has written; with `values` if its event is kept."""

    mapping: Mapping
    state: InstanceState[Any]
    record: Any
    kind: Kind
    flow: Flow
    changes: Changes
    values: dict[str, Any] | None


W = TypeVar("W", bound=Written)


def one_by_one(session: Session, context: UOWTransaction, written: Sequence[W]) -> Iterator[W]:
    """Those that are told one by one. Between them, in their place, many alike are recorded as one."""
    if len(written) < FEW or session.connection_callable is not None:
        yield from written
        return
    for _, run in groupby(written, _model_and_kind):
        alike = list(run)
        if len(alike) < FEW or not _is_for_the_log(alike[0]):
            yield from alike
        else:
            _record(session, context, alike)


def _model_and_kind(change: Written) -> tuple[Mapping, Kind]:
    return change.mapping, change.kind


def _is_for_the_log(change: Written) -> bool:
    bus = change.mapping.bus
    return change.values is not None and change.flow.logged and bus.connected and not bus.observed


def _record(session: Session, context: UOWTransaction, alike: Sequence[Written]) -> None:
    first = alike[0]
    mapping = first.mapping
    many = Multitude(
        first.flow.name,
        first.kind,
        mapping.info,
        [mapping.identity(change.state) for change in alike],
        [change.values or {} for change in alike],
        changes=[change.changes for change in alike] if first.kind in CHANGING else (),
        subjects=[change.record for change in alike],
    )
    outbox_in(session, context, first.state, mapping).record_many(many)
