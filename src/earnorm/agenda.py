"""The agenda: what there is to do now, from the log and from what is set aside. Looks, and runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial

from earnorm.delivery import Delivery
from earnorm.event import Entry
from earnorm.fleet import by_name
from earnorm.following import Following
from earnorm.front import Front
from earnorm.glance import Glance, Glances, glance_at
from earnorm.later import in_lanes
from earnorm.pace import Pace
from earnorm.reach import Reach
from earnorm.room import ROOM
from earnorm.runner import Runner
from earnorm.shares import View
from earnorm.store import SHARED, Follower, Group, Plan, Store, Transaction, Waiting
from earnorm.subscription import Audience
from earnorm.suspects import alone
from earnorm.tenure import Tenure
from earnorm.window import Window, plan

__all__ = ["Agenda"]

# The view may have changed while a window was planned, and then is looked at again.
_TRIES = 4


class Agenda:
    """That of one worker: for the handlers of this process, those of `groups` alone if any are named."""

    def __init__(
        self,
        store: Store,
        audience: Audience,
        runner: Runner,
        tenure: Tenure,
        pace: Pace,
        *,
        groups: frozenset[str] | None = None,
    ) -> None:
        # Seconds from the last look until a delivery set aside is due.
        self.next_due: float | None = None
        # Whether the last read of the log stopped before its end.
        self.left_more = False
        self._store = store
        self._glance = store.glance if isinstance(store, Glances) else partial(glance_at, store)
        self._audience = audience
        self._runner = runner
        self._tenure = tenure
        self._pace = pace
        self._groups = groups
        self._names: frozenset[str] = frozenset()
        self._recorded: frozenset[str] = frozenset()
        self._knows: frozenset[str] = frozenset()
        self._solitary: frozenset[str] = frozenset()
        self._following: Following | None = None
        self._reach: Reach | None = None
        self._seen: Glance | None = None
        self._quiet: tuple[int, Mapping[str, Group]] | None = None
        self._number = 0

    def forget(self) -> None:
        """What was seen is worth nothing any more."""
        self._seen = self._quiet = None
        self._following = self._reach = None

    def refresh(self) -> None:
        """Record handlers defined since as subscriptions. Costs nothing if there are none."""
        names = self._audience.names
        if names is self._names:
            return
        if names - self._recorded:
            self._record(names)
        self._names = names
        self._solitary = frozenset(filter(self._runner.is_transactional, self._knows))
        self._following = None

    def _record(self, names: frozenset[str]) -> None:
        registrations = self._audience.registrations()
        with self._store.begin() as transaction:
            recorded = transaction.subscribe(registrations)
        self._audience.record(recorded)
        self._runner.record(recorded)
        self._recorded = names
        groups = self._groups
        self._knows = frozenset(recorded[r.name] for r in registrations if groups is None or r.group in groups)
        self._quiet = None
        self._tenure.stale()

    # --- is there anything? ------------------------------------------------------------------

    def contends(self) -> bool:
        """Whether there is anything to do for our handlers, whoever may be doing it."""
        glance = self._glance(None) if self._knows else None
        if glance is None or self._is_pending(glance, is_quiet=self._is_quiet(glance)):
            return glance is not None
        # Each look sees what was committed by then: a settle between them may have appended what was emitted.
        return self._glance(None).horizon != glance.horizon

    def seems_to_contend(self) -> bool:
        """`contends`, by one look: who goes by it looks again."""
        glance = self._glance(None) if self._knows else None
        return glance is not None and self._is_pending(glance, is_quiet=self._is_quiet(glance))

    def still_contends(self) -> bool:
        """The same by the look that the last window was made of."""
        glance = self._seen
        if glance is None:
            return False
        return self._is_pending(glance, is_quiet=self._is_quiet(glance) or self._has_passed(glance))

    def _is_pending(self, glance: Glance, *, is_quiet: bool) -> bool:
        groups, waiting = glance.groups, glance.waiting
        if is_quiet and not waiting:
            self.next_due = None
            return False
        with self._store.begin(readonly=True) as transaction:
            if not is_quiet:
                if self._is_behind(transaction, groups):
                    return True
                # After the cursors: a settle in between moves them past what it sets aside.
                waiting = transaction.waiting()
            return self._any_due(transaction, waiting, groups)

    def _is_quiet(self, glance: Glance) -> bool:
        return (glance.horizon, glance.groups) == self._quiet

    def _has_passed(self, glance: Glance) -> bool:
        """Whether all that our handlers follow is held here, and stands at the horizon."""
        view = self._tenure.view
        if view is None or view.groups != glance.groups:
            return False
        followed = self._of(view.groups, view.followers).followed
        rows = [cursor for cursor in view.cursors if (cursor.group, cursor.name) in followed]
        return all(row.worker == self._tenure.worker and row.position >= glance.horizon for row in rows)

    def _is_behind(self, transaction: Transaction, groups: Mapping[str, Group]) -> bool:
        followed = self._followed(transaction, groups).followed
        cursors = transaction.cursors()
        # After the cursors: a settle in between moves them and appends what its handlers emitted.
        horizon = transaction.horizon()
        if any(c.position < horizon and (c.group, c.name) in followed for c in cursors):
            return True
        self._quiet = horizon, groups
        return False

    def _followed(self, transaction: Transaction, groups: Mapping[str, Group]) -> Following:
        """Who follows, as of these groups, which the transaction has just read."""
        return self._of(groups, self._tenure.followers(transaction, groups))

    def _of(self, groups: Mapping[str, Group], followers: Sequence[Follower]) -> Following:
        found = self._following
        if found is None or found.groups != groups or found.followers is not followers:
            found = self._following = Following(groups, followers, self._knows, self._solitary)
        return found

    def _any_due(self, transaction: Transaction, waiting: Mapping[str, Waiting], groups: Mapping[str, Group]) -> bool:
        """Whether a delivery set aside is due, or runs; if not, when the next one will be."""
        ours: Collection[str] = self._followed(transaction, groups).workable if waiting else ()
        waits = [wait for name, wait in waiting.items() if name in ours]
        dues = [wait.due for wait in waits if wait.due is not None]
        self.next_due = (min(dues) - transaction.now()).total_seconds() if dues else None
        return any(wait.running for wait in waits) or (self.next_due is not None and self.next_due <= 0)

    # --- the next window ---------------------------------------------------------------------

    def window(self, *, active: bool) -> Window:
        """What is to be run next; the leases are looked after before, if it is time. Takes none unless `active`."""
        for _ in range(_TRIES):
            if not self._tenure.is_fresh:
                self._tenure.look(self._knows, active=active, solitary=self._solitary)
            view = self._tenure.view
            assert view is not None
            reach = self._reach_of(view, self._pace.size)
            glance = self._seen = self._glance(reach.span)
            if glance.groups == view.groups:
                return self._read(reach, glance)
            self._tenure.stale()
        return Window()

    def look_ahead(self) -> bool:
        """See what the others do while nothing waits for it; whether that changed what is held here."""
        if self._tenure.is_recent:
            return False
        before = self._tenure.held
        self._tenure.look(self._knows, solitary=self._solitary)
        return before != self._tenure.held

    def _reach_of(self, view: View, limit: int) -> Reach:
        """What can be read next, made anew if anything has changed since: mostly when nothing waits for it."""
        following, found = self._of(view.groups, view.followers), self._reach
        if found is None or found.view is not view or found.following is not following or found.limit != limit:
            cursors = [c for c in self._tenure.held if (c.group, c.name) not in following.passing]
            found = self._reach = Reach(view, following, limit, cursors)
        return found

    def _read(self, reach: Reach, glance: Glance) -> Window:
        """What there is to do by the cursors held here: from the log, and set aside and due."""
        horizon, waiting, limit = glance.horizon, glance.waiting, reach.limit
        # Each turn another front, so that one that catches up does not keep those waiting that are up to date.
        self._number += 1
        front = reach.front(horizon, self._number)
        entries = glance.entries if front.cursors else []
        if entries is not None and not waiting:
            return self._planned(entries, front, horizon, limit, ROOM)
        with self._store.begin(readonly=True) as transaction:
            if entries is None:
                entries, waiting = _read_up_to(transaction, front, horizon, limit, ROOM), transaction.waiting()
            window = self._planned(entries, front, horizon, limit, ROOM)
            return self._with_set_aside(transaction, window, waiting, front, limit=limit, room=ROOM)

    def _planned(self, entries: Sequence[Entry], front: Front, horizon: int, limit: int, room: int) -> Window:
        is_all = len(entries) < limit and sum(len(entry.data) for entry in entries) < room
        self.left_more = not is_all
        end = horizon if is_all else entries[-1].position
        return plan(entries, end, front, self._audience)

    def _with_set_aside(
        self,
        transaction: Transaction,
        window: Window,
        waiting: Mapping[str, Waiting],
        front: Front,
        *,
        limit: int,
        room: int,
    ) -> Window:
        if not waiting:
            return window
        window = window.hold_back(transaction.blocked(window.pairs))
        due = self._due(transaction, waiting, front, limit, room)
        suspects = [delivery for delivery in due if delivery.suspect]
        # One of them and everything else in turns.
        if suspects and (self._number % 2 or (window.is_empty and len(suspects) == len(due))):
            return alone(window, suspects[0])
        return window.redeliver(in_lanes((d for d in due if not d.suspect), self._runner.is_ordered))

    def own_windows(self, busy: Collection[str], size: Callable[[str], int]) -> list[tuple[str, Window]]:
        """What is to be run by itself, by subscription, but of the `busy` ones; `size` is how many entries to read."""
        view = self._tenure.view
        fronts = {} if view is None or not self._solitary else self._own_fronts(view, busy)
        if not fronts:
            return []
        assert view is not None
        with self._store.begin(readonly=True) as transaction:
            horizon = transaction.horizon()
            if transaction.groups() != view.groups:
                self._tenure.stale()
                return []
            look = cache(transaction.waiting)
            # Those that are busy have their share of it in hand.
            room = ROOM // len(self._solitary)

            def own(name: str, front: Front) -> Window:
                limit = size(name)
                entries = _read_up_to(transaction, front, horizon, limit, room)
                window = self._planned(entries, front, horizon, limit, room)
                return self._with_set_aside(transaction, window, look(), front, limit=limit, room=room)

            windows = [(name, own(name, front)) for name, front in fronts.items()]
        first = self._number % len(windows)
        return [(name, window) for name, window in (*windows[first:], *windows[:first]) if not window.is_empty]

    def _own_fronts(self, view: View, busy: Collection[str]) -> dict[str, Front]:
        own = by_name(self._tenure.held)
        free = [f for f in self._of(view.groups, view.followers).alone if f.name not in busy]
        return {f.name: Front(cursors, {f.name: f}) for f in free if (cursors := own.get((f.group, f.name)))}

    def _due(
        self, transaction: Transaction, waiting: Mapping[str, Waiting], front: Front, limit: int, room: int
    ) -> list[Delivery]:
        now = transaction.now()
        names = [name for name, wait in waiting.items() if wait.due is not None and wait.due <= now]
        found: list[Delivery] = []
        # Each turn another one is first, so that none has to wait for all that another has.
        first = self._number % len(names) if names else 0
        for name in (*names[first:], *names[:first]):
            if len(found) < limit and room > 0 and (slots := front.slots_of(name)):
                due = transaction.due(name, slots, limit - len(found), room)
                found += due
                room -= sum(len(delivery.entry.data) for delivery in due)
        return found

    def plans(self) -> dict[str, Plan]:
        """Who is given what the shared cursors pass, as of the last look."""
        view = self._tenure.view
        assert view is not None
        sharing = self._of(view.groups, view.followers).sharing
        shared = dict.fromkeys(cursor.group for cursor in self._tenure.held if cursor.name == SHARED)
        return {name: Plan(view.groups[name].generation, sharing[name]) for name in shared}


def _read_up_to(transaction: Transaction, front: Front, horizon: int, limit: int, room: int) -> Sequence[Entry]:
    is_any = front.cursors and front.start < horizon
    return transaction.read(front.start, horizon, limit, front.slots, room) if is_any else []
