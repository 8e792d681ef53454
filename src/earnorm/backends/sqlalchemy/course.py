"""A course: what a new record meets whose flush writes nothing else, worked out once for its class.

Most flushes are of this kind. If nobody learns of the record but hooks in the transaction that take only `self`, it
goes the short way, which asks no question whose answer is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Mapper
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy import mapping as mappings
from earnorm.backends.sqlalchemy.relations import LETTING_GO, associations_of, letting_go
from earnorm.backends.sqlalchemy.written import flow_of
from earnorm.flow import Flow
from earnorm.occurrence import Kind
from earnorm.telemetry import stepping

__all__ = ["SETTLED", "SIMPLE", "VANISHED", "Course", "Done", "course_of", "is_no_concern"]

Done = dict[InstanceState[Any], Kind]
"""The records that had the pre hooks of a kind of change."""

# In a flush's `attributes`: the one record that it writes, if there is nothing to take down of it; what its hooks are
# run with afterwards.
SETTLED = "earnorm_settled"
SIMPLE = "earnorm_simple"
# And, if somebody hears of what it deletes: by base mapper and key, whether its row was gone already, if that is known.
VANISHED = "earnorm_vanished"


@dataclass(frozen=True, slots=True)
class Course:
    """What a new record of a class meets, until its bus forgets its plans.

    short    it may go the short way, as hooks that take only `self` are all that learns of it
    kept     it may go that way, as a log is all that learns of it
    flow     its hooks
    silent   it has none
    screen   whether its values pass as they are; if not, the mapping's `validate` says what is wrong, if anything
    """

    short: bool
    kept: bool
    flow: Flow
    silent: bool
    screen: Callable[[Mapping[str, Any]], bool] | None


def course_of(mapping: mappings.Mapping, mapper: Mapper[Any]) -> Course:
    """The course of a class that is known, worked out now."""
    # The table first: what a thread works out from what was registered until now goes into the old one.
    table, bus = mapping.bus.courses, mapping.bus
    flow = flow_of(mapping, "created")
    alone = mapper.inherits is None and not letting_go(mapper) and not associations_of(mapper)
    # What `logging` is to tell is asked each time: nobody says when that changes.
    short = alone and flow.simple and not bus._attentive
    kept = alone and bus.connected and not flow.before and flow.logged and not (bus.watch.active or stepping())
    found = table[mapping.cls] = Course(short, kept, flow, flow.silent, mapping.screen)
    return found


def is_no_concern(mapper: Mapper[Any]) -> bool:
    """Whether records of a class that is not known are no orphans, and make none, that may be known."""
    return mapper.inherits is None and not (mapper._delete_orphans or vars(mapper).get(LETTING_GO, True))
