"""A course: what a new record meets whose flush writes nothing else, worked out once for its class.

Most flushes are of this kind. If nobody learns of the record but hooks in the transaction that take only `self`, it
goes the short way, which asks no question whose answer is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import DEBUG
from typing import Any

from sqlalchemy.orm import Mapper, Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.opening import EXPECTED
from earnorm.backends.sqlalchemy.relations import LETTING_GO, associations_of, letting_go
from earnorm.backends.sqlalchemy.scope import _scope
from earnorm.backends.sqlalchemy.written import Written, flow_of
from earnorm.event import _running
from earnorm.flow import Flow
from earnorm.occurrence import Kind
from earnorm.telemetry import remembered, verbose

__all__ = ["SETTLED", "SIMPLE", "Done", "go_short"]

Done = dict[InstanceState[Any], Kind]
"""The records that had the pre hooks of a kind of change."""

# In a flush's `attributes`: the one record that it writes, if there is nothing to take down of it; what its hooks are
# run with afterwards.
SETTLED = "earnorm_settled"
SIMPLE = "earnorm_simple"

_known = mappings._mappings


@dataclass(frozen=True, slots=True)
class Course:
    """What a new record of a class meets, until its bus forgets its plans.

    short    it may go the short way; the rest is said of these alone
    flow     its hooks
    silent   it has none
    screen   whether its values pass as they are; if not, the mapping's `validate` says what is wrong, if anything
    """

    short: bool
    flow: Flow
    silent: bool
    screen: Callable[[Mapping[str, Any]], bool] | None


def go_short(session: Session, context: UOWTransaction, done: Done) -> bool:  # noqa: C901  see below
    """Do what there is to do before the SQL, if this flush may go the short way; whether that was all."""
    # In one piece, since a save of SQLAlchemy's calls some five hundred functions once each, so that none of them is in
    # any cache, and what a save pays for here is their number.
    new = session._new
    if len(new) != 1 or session.identity_map._modified or session._deleted or EXPECTED in session.__dict__:
        return False
    (state,) = new
    manager = state.manager
    mapping = _known.get(manager.class_)
    if mapping is None:
        return _pass_over(context, state)
    course = mapping.bus.courses.get(manager.class_) or _course_of(mapping, manager.mapper)
    if not course.short or manager.mapper._delete_orphans or (remembered.get(DEBUG) is not False and verbose()):
        return False
    record, written = state.obj(), None
    if not course.silent:
        if _scope.get() is not None or _running.get() is not None:
            return False
        flow = course.flow
        written = Written(mapping, state, "created", flow)
        if flow.before:
            done[state] = "created"
            written.call(flow.before, record, session, before=True)
            if len(new) != 1 or state not in new or session.identity_map._modified or session._deleted:
                return False
        if not flow.heard:
            written = None
    if mapping.validate is not None and (course.screen is None or not course.screen(record.__dict__)):
        mapping.validate(record, None)
    attributes = context.attributes
    attributes[SETTLED] = state
    if written is not None:
        attributes[SIMPLE] = written
    return True


def _pass_over(context: UOWTransaction, state: InstanceState[Any]) -> bool:
    """A record of a class that is not known: it concerns us if records that are known may be deleted along with it."""
    mapper = state.manager.mapper
    if mapper._delete_orphans or mapper.inherits is not None or vars(mapper).get(LETTING_GO, True):
        return False
    context.attributes[SETTLED] = state
    return True


def _course_of(mapping: mappings.Mapping, mapper: Mapper[Any]) -> Course:
    # The table first: what a thread works out from what was registered until now goes into the old one.
    table, bus = mapping.bus.courses, mapping.bus
    flow = flow_of(mapping, "created")
    alone = mapper.inherits is None and not letting_go(mapper) and not associations_of(mapper)
    # What `logging` is to tell is asked each time: nobody says when that changes.
    short = alone and flow.simple and not bus._attentive
    found = table[mapping.cls] = Course(short, flow, flow.silent, mapping.screen)
    return found
