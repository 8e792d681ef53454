"""The following: who follows which cursor, and who of them one worker can run. No I/O.

It is asked at every turn and changes rarely, so what is made of it is made once, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from earnorm.store import Follower, Group

__all__ = ["Following"]


@dataclass(frozen=True)
class Following:
    """As one look showed it to a worker that `knows` some of the followers.

    The `solitary` never follow a shared cursor: their handlers' effects commit with a mark of their own.
    """

    groups: Mapping[str, Group]
    followers: Sequence[Follower]
    knows: frozenset[str]
    solitary: frozenset[str]

    @cached_property
    def workable(self) -> Mapping[str, Follower]:
        """Those that may be run now, by name."""
        paused = {group.name for group in self.groups.values() if group.paused}
        found = (f for f in self.followers if f.name in self.knows and not f.paused and f.group not in paused)
        return {follower.name: follower for follower in found}

    @cached_property
    def together(self) -> Mapping[str, Follower]:
        """Those of them that are run side by side, in one window."""
        return {name: follower for name, follower in self.workable.items() if name not in self.solitary}

    @cached_property
    def alone(self) -> Sequence[Follower]:
        """Those of them that are run by themselves, each by a cursor of its own."""
        return [follower for name, follower in self.workable.items() if name in self.solitary and follower.apart]

    @cached_property
    def followed(self) -> frozenset[tuple[str, str]]:
        """The cursors, by group and name, that somebody workable follows."""
        return frozenset((follower.group, follower.cursor) for follower in self.workable.values())

    @cached_property
    def passing(self) -> frozenset[tuple[str, str]]:
        """The cursors that would pass somebody by who cannot be run, or only by itself."""
        return frozenset((f.group, f.cursor) for f in self.followers if f.name not in self.together)

    @cached_property
    def sharing(self) -> Mapping[str, frozenset[str]]:
        """Who follows the shared cursor, by group."""
        found: dict[str, set[str]] = {name: set() for name in self.groups}
        for follower in self.followers:
            if not follower.apart:
                found[follower.group].add(follower.name)
        return {group: frozenset(names) for group, names in found.items()}
