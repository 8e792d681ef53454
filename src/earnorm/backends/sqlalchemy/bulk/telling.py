"""Telling: rows that a bulk write has changed, as events of its transaction, and to those who hear them inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from earnorm.backends.sqlalchemy.attention import listening
from earnorm.backends.sqlalchemy.boundary import outbox_of
from earnorm.backends.sqlalchemy.bubbling import bubble_in
from earnorm.backends.sqlalchemy.bulk.shape import Key, Row, Shape, among, in_chunks
from earnorm.backends.sqlalchemy.flag import flagged
from earnorm.backends.sqlalchemy.hooks import attach_session
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox
from earnorm.backends.sqlalchemy.refreshing import refresh
from earnorm.backends.sqlalchemy.scope import scope_of, within
from earnorm.bus import EventBus
from earnorm.errors import StopPropagation
from earnorm.event import NO_CHANGES, Change, Changes
from earnorm.multitude import FEW, Multitude
from earnorm.occurrence import Kind, Occurrence
from earnorm.records import Columns, Listed

__all__ = [
    "CHANGES",
    "Alike",
    "Fact",
    "Facts",
    "Records",
    "differences",
    "fetch",
    "forget",
    "hears",
    "loads",
    "reads",
    "run_before",
    "tell",
    "tell_batch",
    "vetoable",
]

Records = Mapping[Key, Any]
# What the difference between old and new values may turn out to be.
CHANGES: tuple[Kind, ...] = ("updated", "trashed", "restored")


class Fact(NamedTuple):
    """What a bulk write did to one row."""

    kind: Kind
    row: Row
    changes: Changes = NO_CHANGES


class Alike(NamedTuple):
    """What a bulk write did to many rows of one model: the same to each."""

    model: Model
    kind: Kind
    columns: Columns

    def facts(self) -> list[Fact]:
        model, kind, columns = self
        parts = zip(columns.identities, columns.payloads, columns.changes, strict=True)
        return [Fact(kind, Row(model, key, values), changes) for key, values, changes in parts]


Facts = Sequence[Fact] | Alike


def hears(session: Session, models: Iterable[Model], kind: Kind) -> bool:
    """Whether anybody would learn of such a change to a record of these models."""
    return any(
        (model.bus.attentive or model.bus.plans.flow(model.cls, kind).heard)
        and listening(session, model.cls) is not None
        for model in models
    )


def reads(session: Session, model: Model, kind: Kind) -> bool:
    """Whether anybody who learns of it is given values: a hook that takes only `self` asks the record for them."""
    flow = model.bus.plans.flow(model.cls, kind)
    return (model.bus.attentive or not flow.simple_after) and hears(session, [model], kind)


def loads(models: Iterable[Model], kind: Kind) -> bool:
    """Whether somebody is handed the record itself in this process; else the row's values are enough."""
    return any(_loads(model, kind) for model in models)


def _loads(model: Model, kind: Kind) -> bool:
    bus, flow = model.bus, model.bus.plans.flow(model.cls, kind)
    if bus.observed or not flow.heard:
        return bus.observed
    return not bus.connected or not flow.logged


def differences(before: Row, after: Row) -> dict[str, Change]:
    """Fields whose value is another one now."""
    old = before.values
    return {
        name: Change(was, value)
        for name, value in after.values.items()
        if (was := old.get(name, value)) is not value and not (type(was) is type(value) and was == value)
    }


# --- records ---------------------------------------------------------------------------------


def fetch(session: Session, shape: Shape, keys: Iterable[Key]) -> dict[Key, Any]:
    """The records with these keys, in the Session; what it has loaded already is the same object."""
    entity = shape.mapper.class_
    columns = [getattr(entity, shape.mapper.get_property_by_column(c).key) for c in shape.mapper.primary_key]
    found: dict[Key, Any] = {}
    with session.no_autoflush:
        for some in in_chunks(keys):
            for record in session.scalars(select(entity).where(among(columns, some))).unique():
                found[tuple(instance_state(record).key[1])] = record  # type: ignore[index]  # what was loaded has a key
    return found


def _bring_up(record: Any, row: Row) -> None:
    """What the Session had loaded before gets the row's values, but for what is changed and not yet saved."""
    state = instance_state(record)
    current, unsaved = state.dict, state.committed_state
    refresh(state, {name: value for name, value in row.values.items() if name in current and name not in unsaved})


def forget(session: Session, records: Iterable[Any]) -> None:
    """The Session lets go of records whose rows are gone, as after a flush; a rollback brings them back."""
    states = [instance_state(record) for record in records]
    known = set(session.identity_map.all_states()) if states else set[Any]()
    if states := [state for state in states if state in known]:
        session._remove_newly_deleted(states)


# --- before the SQL --------------------------------------------------------------------------


def run_before(session: Session, row: Row, kind: Kind, record: Any, changes: Changes = NO_CHANGES) -> None:
    """Pre hooks of one record that a bulk write is about to write."""
    model, scope = row.mapping, scope_of(session)
    occurrence = _occurrence(Fact(kind, row, changes), record, session)
    with within(scope):
        for hook in model.bus.plans.flow(model.cls, kind).before:
            try:
                model.bus.caller.call(
                    hook, occurrence, scope.dispatcher.wait, "delete" if kind == "deleted" else "save"
                )
            except StopPropagation:
                return
            if occurrence.stopped:
                return


# --- after it --------------------------------------------------------------------------------


@contextmanager
def vetoable(session: Session) -> Iterator[None]:
    """What raises inside takes the transaction along, as an error amid a flush does: the SQL is done already."""
    transaction = session._autobegin_t()._begin()
    try:
        yield
    except BaseException:
        transaction.rollback(_capture_exception=True)
        raise
    # As at the end of a flush: what else is dirty in the Session is not written sooner for this.
    with flagged(session, flushing=True):
        transaction.commit()


def tell(session: Session, connection: Connection, shape: Shape, facts: Facts, gone: Records) -> None:
    """Record the events of rows that were written, and run who hears them in the transaction.

    `gone` are the records of deleted rows, loaded before; the others are loaded here if somebody is handed them.
    """
    if isinstance(facts, Alike):
        if len(facts.columns) >= FEW and _is_for_the_log(session, facts):
            model, kind, columns = facts
            _outbox(session, connection, model).record_many(_multitude(model, kind, columns))
            return
        facts = facts.facts()
    kinds: set[Kind] = {fact.kind for fact in facts}
    ears = {(model.cls, kind): _ears(session, model, kind) for model in shape.known for kind in kinds}
    if all(ear.heard for ear in ears.values()):
        heard = facts
    else:
        heard = [fact for fact in facts if ears[fact.row.mapping.cls, fact.kind].heard]
    if not heard:
        return
    bus = heard[0].row.mapping.bus
    outbox = _outbox(session, connection, heard[0].row.mapping)
    loaded = [fact for fact in heard if fact.kind != "deleted" and ears[fact.row.mapping.cls, fact.kind].loads]
    records: dict[Key, Any] = {**gone, **fetch(session, shape, [fact.row.key for fact in loaded])}
    for fact in loaded:
        if (record := records.get(fact.row.key)) is not None:
            _bring_up(record, fact.row)
    if bus.observed or any(ear.loads for ear in ears.values()):
        happened = [
            o for fact in heard if (o := _happened(session, fact, records.get(fact.row.key), outbox)) is not None
        ]
        _dispatch(session, bus, outbox, happened)
    else:
        _record_for_log(outbox, heard)


def _outbox(session: Session, connection: Connection, model: Model) -> ConnectionOutbox:
    outbox = outbox_of(connection, model.bus, f"a bulk write of {model.info.name}")
    outbox.serve(session)
    return outbox


def _is_for_the_log(session: Session, alike: Alike) -> bool:
    ears = _ears(session, alike.model, alike.kind)
    return ears.heard and not ears.loads and not alike.model.bus.observed


def _multitude(model: Model, kind: Kind, records: Columns | Listed) -> Multitude:
    return Multitude(model.bus.plans.flow(model.cls, kind).name, kind, model.info, records)


def _record_for_log(outbox: ConnectionOutbox, facts: Sequence[Fact]) -> None:
    """The log alone hears of them: nobody in this process is handed anything."""
    for (model, kind), alike in groupby(facts, _model_and_kind):
        some = list(alike)
        if len(some) < FEW:
            for fact in some:
                outbox.record(_bare(fact))
            continue
        rows = [fact.row for fact in some]
        changes = [fact.changes for fact in some]
        listed = Listed([row.key for row in rows], [row.values for row in rows], changes, [None] * len(rows))
        outbox.record_many(_multitude(model, kind, listed))


def _model_and_kind(fact: Fact) -> tuple[Model, Kind]:
    return fact.row.mapping, fact.kind


class _Ears(NamedTuple):
    """Whether anybody hears of one kind of change to a model, and whether somebody is handed its record here."""

    heard: bool
    loads: bool


def _ears(session: Session, model: Model, kind: Kind) -> _Ears:
    return _Ears(hears(session, [model], kind), _loads(model, kind))


def _happened(session: Session, fact: Fact, record: Any, outbox: ConnectionOutbox) -> Occurrence | None:
    model = fact.row.mapping
    bus = model.bus
    occurrence = _occurrence(fact, record, session)
    if bus.observed and bus.watch.silences(occurrence):
        outbox.muted.add(occurrence.key)
        return None
    occurrence.handlers = bus.plans.now(model.cls, fact.kind, fact.changes)
    if model.info.bubbles_to is not None:
        occurrence.bubble = bubble_in(session, model)
    return occurrence


def _occurrence(fact: Fact, record: Any, session: Session) -> Occurrence:
    occurrence = _bare(fact, record)
    attach_session(occurrence, session)
    return occurrence


def _bare(fact: Fact, record: Any = None) -> Occurrence:
    (model, key, values), kind = fact.row, fact.kind
    name = model.bus.plans.flow(model.cls, kind).name
    return Occurrence(name, record, values, kind=kind, changes=fact.changes, info=model.info, identity=key)


def _dispatch(session: Session, bus: EventBus, outbox: ConnectionOutbox, happened: Sequence[Occurrence]) -> None:
    for occurrence in happened:
        outbox.record(occurrence)
    if not any(occurrence.handlers or occurrence.bubble for occurrence in happened):
        return
    scope = scope_of(session)
    with within(scope):
        for occurrence in happened:
            scope.dispatcher.enqueue(bus.caller, occurrence, outbox)
        scope.dispatcher.run()


def tell_batch(session: Session, connection: Connection, model: Model, kind: Kind, payload: Mapping[str, Any]) -> None:
    """One event for a whole statement: `order.bulk_updated`, about no record."""
    bus, name = model.bus, f"{model.info.subject}.bulk_{kind}"
    handlers = bus.plans.custom(name, model.cls)
    if not handlers and not bus.attentive:
        return
    occurrence = Occurrence(name, None, payload, info=model.info, handlers=handlers)
    attach_session(occurrence, session)
    if bus.observed and bus.watch.silences(occurrence):
        return
    bus.in_transaction(occurrence)
    _dispatch(session, bus, _outbox(session, connection, model), [occurrence])
