"""A glance: all that a worker asks before a handler can start, in one go where the database takes it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from earnorm.event import Entry
from earnorm.store import Group, Range, Store, Transaction, Waiting

__all__ = ["Glance", "Glances", "Span", "glance_at", "glance_in"]


@dataclass(frozen=True, slots=True)
class Span:
    """Entries past a position, of these slots, as `Transaction.read` takes them."""

    after: int
    limit: int
    slots: Sequence[Range]
    room: int


@dataclass(frozen=True, slots=True)
class Glance:
    """What was there, each part as of no earlier than the one before it.

    The entries are those of the span up to the horizon; None if they are to be read by themselves.
    """

    horizon: int
    groups: Mapping[str, Group]
    entries: Sequence[Entry] | None
    waiting: Mapping[str, Waiting]


@runtime_checkable
class Glances(Protocol):
    """A store that has a quicker way than verb by verb."""

    def glance(self, span: Span | None) -> Glance: ...


def glance_at(store: Store, span: Span | None) -> Glance:
    """Verb by verb, as every store can."""
    with store.begin(readonly=True) as transaction:
        return glance_in(transaction, span)


def glance_in(transaction: Transaction, span: Span | None) -> Glance:
    # The horizon first: who subscribes after it was read starts at or past it. And the entries after it, since only
    # then all of them are there. What is set aside last: before what was read, or seen to wait.
    horizon, groups = transaction.horizon(), transaction.groups()
    entries: Sequence[Entry] | None = None
    if span is not None:
        is_any = span.after < horizon
        entries = transaction.read(span.after, horizon, span.limit, span.slots, span.room) if is_any else []
    return Glance(horizon, groups, entries, transaction.waiting())
