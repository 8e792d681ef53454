"""Everything that a memory store remembers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from earnorm.clock import Clock
from earnorm.delivery import Attempt, Delivery
from earnorm.emission import IdempotencyKey
from earnorm.event import Entry
from earnorm.store import Cursor, Follower, Group, Presence

__all__ = ["HasState", "Place", "State"]

Place = tuple[str, str, int]


@dataclass(slots=True)
class State:
    """Its parts are never changed in place, so that a copy is a savepoint."""

    log: tuple[Entry, ...] = ()
    last_position: int = 0
    groups: dict[str, Group] = field(default_factory=dict[str, Group])
    followers: dict[str, Follower] = field(default_factory=dict[str, Follower])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    cursors: dict[Place, Cursor] = field(default_factory=dict[Place, Cursor])
    workers: dict[str, Presence] = field(default_factory=dict[str, Presence])
    deliveries: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    last_delivery: int = 0
    attempts: tuple[Attempt, ...] = ()
    keys: dict[tuple[str, str, str], IdempotencyKey] = field(default_factory=dict[tuple[str, str, str], IdempotencyKey])


class HasState:
    """What the parts of a memory transaction have in common."""

    state: State
    clock: Clock


def forget(state: State, dropped: Iterable[Delivery]) -> None:
    """The attempts of deliveries that are gone."""
    gone = {(row.subscription, row.entry.id) for row in dropped}
    state.attempts = tuple(made for made in state.attempts if (made.subscription, made.event) not in gone)


def put(state: State, *cursors: Cursor) -> None:
    """Write cursors down, in place of those that stand there."""
    state.cursors = {**state.cursors, **{cursor.place: cursor for cursor in cursors}}


def drop(state: State, *cursors: Cursor) -> None:
    gone = {cursor.place for cursor in cursors}
    state.cursors = {place: cursor for place, cursor in state.cursors.items() if place not in gone}


def of_cursor(state: State, group: str, name: str) -> list[Cursor]:
    """The rows of one cursor, by their first slot."""
    return [state.cursors[place] for place in sorted(state.cursors) if place[:2] == (group, name)]


def change_follower(state: State, name: str, **changes: Any) -> None:
    state.followers = {**state.followers, name: replace(state.followers[name], **changes)}


def change_group(state: State, name: str, **changes: Any) -> None:
    """Change a group, and let everybody see that it was changed."""
    group = state.groups[name]
    state.groups = {**state.groups, name: replace(group, generation=group.generation + 1, **changes)}
