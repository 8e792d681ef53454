"""The subscriptions of a memory store: who is recorded, and which cursor each follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from earnorm.backends.identity import identities
from earnorm.backends.memory.state import HasState, change_follower, change_group, drop, forget, of_cursor, put
from earnorm.store import SHARED, Cursor, Follower, Group, Registration, Since

__all__ = ["SubscriptionVerbs"]


class SubscriptionVerbs(HasState):
    """Recording, pausing, parting and joining again."""

    def subscribe(self, registrations: Sequence[Registration]) -> dict[str, str]:
        aliases, known = dict(self.state.aliases), self.state.followers
        names = identities(registrations, aliases, known)
        self.state.aliases = aliases
        new = [g for g in registrations if names[g.name] not in known or known[names[g.name]].group != g.group]
        self._change_all({g.group for g in new} | {known[n].group for g in new if (n := names[g.name]) in known})
        for given in new:
            follower = self.state.followers.get(names[given.name])
            if follower is None:
                self._record(names[given.name], given)
            elif follower.group != given.group:
                self._move(follower, given.group)
        for name in names.values():
            change_follower(self.state, name, seen=self.clock.now())
        return names

    def _change_all(self, groups: set[str]) -> None:
        self.state.groups = {**{name: Group(name) for name in groups}, **self.state.groups}
        for name in groups:
            change_group(self.state, name)

    def _record(self, name: str, given: Registration) -> None:
        start = self._start(given.since)
        shared = self._shared(given.group, start)
        apart = any(cursor.position > start for cursor in shared)
        follower = Follower(name=name, group=given.group, start=start, apart=apart, seen=self.clock.now())
        self.state.followers = {**self.state.followers, name: follower}
        if apart:
            put(self.state, Cursor(group=given.group, name=name, position=start))

    def _start(self, since: Since | None) -> int:
        horizon = self.state.last_position
        match since:
            case None:
                return horizon
            case "beginning":
                return 0
            case datetime():
                found = next((entry.position - 1 for entry in self.state.log if entry.at >= since), horizon)
                return min(found, horizon)
            case _:
                return min(max(since - 1, 0), horizon)

    def _shared(self, group: str, start: int) -> list[Cursor]:
        """The rows of a group's shared cursor; of a new group, one where its first subscription starts."""
        if not of_cursor(self.state, group, SHARED):
            put(self.state, Cursor(group=group, position=start))
        return of_cursor(self.state, group, SHARED)

    def _move(self, known: Follower, group: str) -> None:
        """To another group, with a cursor of its own."""
        if not known.apart:
            self._part(known)
        rows = of_cursor(self.state, known.group, known.name)
        self._shared(group, self.state.last_position)
        drop(self.state, *rows)
        put(self.state, *(replace(row, group=group, worker="", fence=row.fence + 1) for row in rows))
        change_follower(self.state, known.name, group=group)

    def followers(self) -> list[Follower]:
        return [self.state.followers[name] for name in sorted(self.state.followers)]

    def groups(self) -> dict[str, Group]:
        return {name: self.state.groups[name] for name in sorted(self.state.groups)}

    def pause(self, name: str, *, paused: bool) -> bool:
        name = self.state.aliases.get(name, name)
        if name not in self.state.followers:
            return False
        change_follower(self.state, name, paused=paused)
        change_group(self.state, self.state.followers[name].group)
        return True

    def pause_group(self, name: str, *, paused: bool) -> bool:
        if name not in self.state.groups:
            return False
        change_group(self.state, name, paused=paused)
        return True

    def part(self, group: str, names: Sequence[str]) -> None:
        parted = [
            follower
            for name in dict.fromkeys(names)
            if (follower := self.state.followers.get(name)) and follower.group == group and not follower.apart
        ]
        for follower in parted:
            self._part(follower)
        if parted:
            change_group(self.state, group)

    def _part(self, follower: Follower) -> None:
        name, group = follower.name, follower.group
        for row in of_cursor(self.state, group, SHARED):
            position = max(row.position, follower.start)
            put(self.state, Cursor(group=group, name=name, first=row.first, last=row.last, position=position))
        change_follower(self.state, name, apart=True)

    def rejoin(self, name: str) -> bool:
        name = self.state.aliases.get(name, name)
        follower = self.state.followers.get(name)
        if follower is None or not follower.apart:
            return False
        own = of_cursor(self.state, follower.group, name)
        stands = max(row.position for row in own)
        shared = of_cursor(self.state, follower.group, SHARED)
        if any(row.position != stands for row in own) or any(row.position > stands for row in shared):
            return False
        drop(self.state, *own)
        change_follower(self.state, name, apart=False, start=stands)
        change_group(self.state, follower.group)
        return True

    def retire(self, name: str) -> int | None:
        name = self.state.aliases.get(name, name)
        follower = self.state.followers.get(name)
        if follower is None:
            return None
        self.state.followers = {n: f for n, f in self.state.followers.items() if n != name}
        self.state.aliases = {alias: of for alias, of in self.state.aliases.items() if of != name}
        drop(self.state, *of_cursor(self.state, follower.group, name))
        rows = self.state.deliveries
        dropped = {id_: row for id_, row in rows.items() if row.subscription == name and row.state == "open"}
        self.state.deliveries = {id_: row for id_, row in rows.items() if id_ not in dropped}
        forget(self.state, dropped.values())
        change_group(self.state, follower.group)
        return len(dropped)
