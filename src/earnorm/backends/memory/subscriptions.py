"""The subscriptions of a memory store: who is recorded, and which cursor each follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from earnorm.backends.memory.state import HasState, change_follower, change_group, drop, of_cursor, put
from earnorm.errors import NameTakenTwice
from earnorm.store import SHARED, Cursor, Follower, Group, Registration, Since

__all__ = ["SubscriptionVerbs"]


class SubscriptionVerbs(HasState):
    """Recording, pausing, parting and joining again."""

    def subscribe(self, registrations: Sequence[Registration]) -> dict[str, str]:
        names = {given.name: self._identify(given) for given in registrations}
        for given in registrations:
            name = names[given.name]
            known = self.state.followers.get(name)
            if known is None:
                self._record(name, given)
            elif known.group != given.group:
                self._move(known, given.group)
            change_follower(self.state, name, seen=self.clock.now())
        return names

    def _identify(self, given: Registration) -> str:
        """The recorded name of a handler, be it a former one."""
        name = self.state.aliases.get(given.name, given.name)
        for former in given.formerly:
            recorded = self.state.aliases.get(former, former)
            if recorded == name:
                continue
            if recorded in self.state.followers and name in self.state.followers:
                raise NameTakenTwice(given.name, former)
            if recorded in self.state.followers:
                self.state.aliases = {**self.state.aliases, name: recorded}
                name = recorded
            else:
                self.state.aliases = {**self.state.aliases, former: name}
        return name

    def _record(self, name: str, given: Registration) -> None:
        start = self._start(given.since)
        shared = self._shared(given.group, start)
        apart = any(cursor.position > start for cursor in shared)
        follower = Follower(name=name, group=given.group, start=start, apart=apart, seen=self.clock.now())
        self.state.followers = {**self.state.followers, name: follower}
        if apart:
            put(self.state, Cursor(group=given.group, name=name, position=start))
        change_group(self.state, given.group)

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
        if group not in self.state.groups:
            self.state.groups = {**self.state.groups, group: Group(group)}
            put(self.state, Cursor(group=group, position=start))
        return of_cursor(self.state, group, SHARED)

    def _move(self, known: Follower, group: str) -> None:
        """To another group, with a cursor of its own."""
        if not known.apart:
            self.part(known.group, [known.name])
        rows = of_cursor(self.state, known.group, known.name)
        self._shared(group, self.state.last_position)
        drop(self.state, *rows)
        put(self.state, *(replace(row, group=group, worker="", fence=row.fence + 1) for row in rows))
        change_follower(self.state, known.name, group=group)
        change_group(self.state, known.group)
        change_group(self.state, group)

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
            for row in of_cursor(self.state, group, SHARED):
                position = max(row.position, follower.start)
                put(
                    self.state,
                    Cursor(group=group, name=follower.name, first=row.first, last=row.last, position=position),
                )
            change_follower(self.state, follower.name, apart=True)
        if parted:
            change_group(self.state, group)

    def rejoin(self, name: str) -> bool:
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
        dropped = [row.id for row in rows.values() if row.subscription == name and row.state == "open"]
        self.state.deliveries = {id_: row for id_, row in rows.items() if id_ not in dropped}
        change_group(self.state, follower.group)
        return len(dropped)
