"""The SQL store's verbs on subscriptions: who is recorded, what each hears, and which cursor it follows.

Whoever changes who follows which cursor locks the group's row first, and reads only then; a settle shares that row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from earnorm.backends.identity import identities
from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import to_cursor, to_follower, to_groups
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.instants import microseconds
from earnorm.slots import LAST_SLOT
from earnorm.store import SHARED, Cursor, Follower, Group, Registration, Since

__all__ = ["SubscriptionVerbs"]


class SubscriptionVerbs(Verbs):
    """Recording, pausing, parting and joining again."""

    __slots__ = ()

    # --- recording ---

    def subscribe(self, registrations: Sequence[Registration]) -> dict[str, str]:
        aliases, known = self._aliases(), self._known()
        names = identities(registrations, aliases, known)
        self._record_aliases(aliases)
        new = [given for given in registrations if _differs(given, known.get(names[given.name]))]
        if new:
            self._record_all(new, names)
        now = microseconds(self.now())
        seen = sorted(name for name in names.values() if name in known and microseconds(known[name].seen) < now)
        if seen:
            self._statements.note_seen.many(self._connection, ({"called": name, "at": now} for name in seen))
        return names

    def _aliases(self) -> dict[str, str]:
        return {other: name for other, name in self._statements.aliases(self._connection)}  # noqa: C416  rows are no pairs to a type checker

    def _known(self) -> dict[str, Follower]:
        return {follower.name: follower for follower in self.followers()}

    def _record_aliases(self, aliases: Mapping[str, str]) -> None:
        before = self._aliases() if aliases else {}
        rows = [(other, name) for other, name in aliases.items() if before.get(other) != name]
        if rows:
            self._dialect.insert_missing(self._connection, tables.alias, rows)

    def _record_all(self, new: Sequence[Registration], names: Mapping[str, str]) -> None:
        known = self._known()
        groups = {given.group for given in new} | {known[n].group for given in new if (n := names[given.name]) in known}
        self._lock(groups)
        # Read again, now that nobody else changes it.
        known, horizon = self._known(), self.horizon()
        for given in new:
            follower = known.get(names[given.name])
            if follower is None:
                known[names[given.name]] = self._record(names[given.name], given, horizon)
            elif follower.group != given.group:
                known[follower.name] = self._move(follower, given.group, horizon)

    def _lock(self, groups: Iterable[str]) -> None:
        """Make the groups that are new, and change them all, in an order in which nobody waits in a circle."""
        known = self.groups()
        for name in sorted(groups):
            if name not in known:
                self._dialect.insert_missing(self._connection, tables.group, [(name, 0, False)])
            self._change(name)

    def _change(self, group: str) -> None:
        self._statements.lock_group(self._connection, called=group)
        self._statements.change_group(self._connection, called=group)

    def _record(self, name: str, given: Registration, horizon: int) -> Follower:
        start = self._start(given.since, horizon)
        apart = any(cursor.position > start for cursor in self._shared(given.group, start))
        now = self.now()
        row = (name, given.group, start, apart, False, microseconds(now), 0)
        self._dialect.insert_missing(self._connection, tables.subscription, [row])
        if apart:
            self._put([Cursor(group=given.group, name=name, position=start)])
        return Follower(name=name, group=given.group, start=start, apart=apart, seen=now)

    def _start(self, since: Since | None, horizon: int) -> int:
        match since:
            case None:
                return horizon
            case "beginning":
                return 0
            case datetime():
                row = self._statements.first_since(self._connection, since=microseconds(since)).fetchone()
                return horizon if row is None else min(row[0] - 1, horizon)
            case _:
                return min(max(since - 1, 0), horizon)

    def _shared(self, group: str, start: int) -> list[Cursor]:
        """The rows of a group's shared cursor; of a new group, one where its first subscription starts."""
        rows = self._rows(group, SHARED)
        if not rows:
            rows = [Cursor(group=group, last=LAST_SLOT, position=start)]
            self._put(rows)
        return rows

    def _move(self, known: Follower, group: str, horizon: int) -> Follower:
        """To another group, with a cursor of its own."""
        if not known.apart:
            self._part(known)
        self._shared(group, horizon)
        words = {"of_group": known.group, "called": known.name, "to_group": group}
        self._statements.regroup(self._connection, **words)
        self._statements.join_group(self._connection, called=known.name, to_group=group)
        return replace(known, group=group, apart=True)

    # --- looking ---

    def followers(self) -> list[Follower]:
        return [to_follower(row) for row in self._statements.followers(self._connection)]

    def groups(self) -> dict[str, Group]:
        return to_groups(self._statements.groups(self._connection))

    def _rows(self, group: str, name: str) -> list[Cursor]:
        rows = self._statements.rows(self._connection, of_group=group, called=name)
        return [to_cursor(row) for row in rows]

    def _put(self, cursors: Sequence[Cursor]) -> None:
        rows = [(c.group, c.name, c.first, c.last, c.position, c.worker, c.fence, c.deaths) for c in cursors]
        self._dialect.insert_missing(self._connection, tables.cursor, rows)

    def _locked(self, name: str) -> Follower | None:
        """A subscription, by any of its names, with its group locked."""
        follower = self._known().get(self._aliases().get(name, name))
        if follower is None:
            return None
        self._statements.lock_group(self._connection, called=follower.group)
        # Read again, now that nobody else changes it.
        return self._known().get(follower.name)

    # --- changing ---

    def pause(self, name: str, *, paused: bool) -> bool:
        follower = self._locked(name)
        if follower is None:
            return False
        self._statements.pause(self._connection, called=follower.name, is_paused=paused)
        self._statements.change_group(self._connection, called=follower.group)
        return True

    def pause_group(self, name: str, *, paused: bool) -> bool:
        self._statements.lock_group(self._connection, called=name)
        result = self._statements.pause_group(self._connection, called=name, is_paused=paused)
        return bool(result.rowcount)

    def part(self, group: str, names: Sequence[str]) -> None:
        self._statements.lock_group(self._connection, called=group)
        known = self._known()
        found = [known[name] for name in dict.fromkeys(names) if name in known]
        parted = [follower for follower in found if follower.group == group and not follower.apart]
        for follower in parted:
            self._part(follower)
        if parted:
            self._statements.change_group(self._connection, called=group)

    def _part(self, follower: Follower) -> None:
        name, group = follower.name, follower.group
        self._put(
            [
                Cursor(group=group, name=name, first=c.first, last=c.last, position=max(c.position, follower.start))
                for c in self._rows(group, SHARED)
            ]
        )
        self._statements.follow(self._connection, called=name, is_apart=True, from_position=follower.start)

    def rejoin(self, name: str) -> bool:
        follower = self._locked(name)
        if follower is None or not follower.apart:
            return False
        own = self._rows(follower.group, follower.name)
        stands = max(row.position for row in own)
        shared = self._rows(follower.group, SHARED)
        if any(row.position != stands for row in own) or any(row.position > stands for row in shared):
            return False
        self._statements.drop_rows(self._connection, of_group=follower.group, called=follower.name)
        self._statements.follow(self._connection, called=follower.name, is_apart=False, from_position=stands)
        self._statements.change_group(self._connection, called=follower.group)
        return True

    def retire(self, name: str) -> int | None:
        follower = self._locked(name)
        if follower is None:
            return None
        name = follower.name
        # Deliveries before cursors, as in a settle.
        self._statements.drop_open_attempts(self._connection, called=name)
        dropped = self._statements.drop_open(self._connection, called=name).rowcount
        self._statements.drop_rows(self._connection, of_group=follower.group, called=name)
        self._statements.forget(self._connection, called=name)
        self._statements.forget_aliases(self._connection, called=name)
        self._statements.forget_interests(self._connection, name=name)
        self._statements.change_group(self._connection, called=follower.group)
        return dropped

    # --- what they hear ---

    def hear(self, heard: Mapping[str, Collection[str]]) -> None:
        """Write down what these subscriptions hear, in place of what they heard before."""
        known = self.interests()
        changed = [name for name, patterns in heard.items() if known.get(name, set()) != set(patterns)]
        for name in changed:
            self._statements.forget_interests(self._connection, name=name)
        rows = [(name, pattern) for name in changed for pattern in sorted(heard[name])]
        if rows:
            self._dialect.insert_missing(self._connection, tables.interest, rows)

    def interests(self) -> dict[str, set[str]]:
        """What every recorded subscription hears, whichever process has its handler."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, pattern in self._statements.interests(self._connection):
            found[name].add(pattern)
        return found


def _differs(given: Registration, known: Follower | None) -> bool:
    return known is None or known.group != given.group
