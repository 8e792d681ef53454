"""Together: records of one flush that the log alone hears of, told as one value rather than an event each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from sqlalchemy.orm import Session, UOWTransaction

from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.opening import outbox_in
from earnorm.backends.sqlalchemy.written import Written
from earnorm.event import NO_CHANGES
from earnorm.multitude import FEW, Multitude
from earnorm.occurrence import CHANGING, Kind
from earnorm.records import Listed

__all__ = ["one_by_one"]


def one_by_one(session: Session, context: UOWTransaction, written: Sequence[Written]) -> Iterable[Written]:
    """Those that are told one by one. Between them, in their place, many alike are recorded as one."""
    if len(written) < FEW or session.connection_callable is not None:
        return written
    return _others(session, context, written)


def _others(session: Session, context: UOWTransaction, written: Sequence[Written]) -> Iterator[Written]:
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
    records = Listed(
        [mapping.identity(change.state) for change in alike],
        [change.values or {} for change in alike],
        [change.changes if first.kind in CHANGING else NO_CHANGES for change in alike],
        [change.record for change in alike],
    )
    many = Multitude(first.flow.name, first.kind, mapping.info, records)
    outbox_in(session, context, first.state, mapping).record_many(many)
