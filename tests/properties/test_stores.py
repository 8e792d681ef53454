"""The SQL store does what the memory store does, whatever is done to both in whatever order."""

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from earnorm.backends.memory import MemoryStore
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import VirtualClock
from earnorm.errors import LeaseLost
from earnorm.store import Advance, Lease, Settlement
from earnorm.testing._store_verbs import NOON, entry, set_aside

NAMES = st.sampled_from(["mail", "audit", "search"])
KEYS = st.sampled_from(["user:1", "user:2", "order:1"])
EVENTS = st.sampled_from(["user.created", "user.updated", "user.deleted"])
WORKERS = st.sampled_from(["ada", "bob"])
SECONDS = st.sampled_from([0, 0.5, 1, 5, 10])
STATES = st.sampled_from(["open", "open", "dead"])
ENTRIES = st.builds(entry, EVENTS, KEYS)
ASIDE = st.builds(
    lambda name, key, seconds, ordered, state: (name, key, seconds, ordered, state),
    NAMES,
    KEYS,
    SECONDS,
    st.booleans(),
    STATES,
)


class Undone(Exception):
    pass


class TwoStores(RuleBasedStateMachine):
    """Every step is done to both stores, and what each gives back must be the same."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = VirtualClock(NOON)
        # Durable to a crash it need not be here, and every example makes a file.
        self.engine = sqlite_engine(f"sqlite:///{Path(self.folder.name)}/log.db?synchronous=OFF&journal_mode=memory")
        with self.engine.begin() as connection:
            upgrade(connection)
        self.memory, self.sql = MemoryStore(self.clock), SQLAlchemyStore(self.engine, clock=self.clock)
        self.leases = [Lease("nobody", 0, NOON)]

    def teardown(self):
        self.engine.dispose()
        self.folder.cleanup()

    def both(self, do, *, undo=False):
        """Run `do` in a transaction of each store; the outcome they agree on."""
        outcomes = []
        for store in (self.memory, self.sql):
            outcome = None
            with suppress(Undone), store.begin() as t:
                try:
                    outcome = do(t)
                except LeaseLost as lost:
                    outcome = ("lost", lost.worker, lost.fence)
                if undo:
                    raise Undone
            outcomes.append(outcome)
        expected, actual = outcomes
        assert expected == actual
        return expected

    @rule(entries=st.lists(ENTRIES, max_size=5), undo=st.booleans())
    def append(self, entries, undo):
        self.both(lambda t: t.append(entries), undo=undo)

    @rule(names=st.lists(NAMES, max_size=3), entries=st.lists(ENTRIES, max_size=2), undo=st.booleans())
    def append_and_subscribe(self, names, entries, undo):
        self.both(lambda t: (t.append(entries), t.subscribe(names)), undo=undo)

    @rule(worker=WORKERS, seconds=SECONDS, undo=st.booleans())
    def claim(self, worker, seconds, undo):
        lease = self.both(lambda t: t.claim(worker, seconds), undo=undo)
        if lease:
            self.leases.append(lease)

    @rule(data=st.data(), undo=st.booleans())
    def release(self, data, undo):
        lease = self.any_lease(data)
        self.both(lambda t: t.release(lease), undo=undo)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule(data=st.data(), aside=st.lists(ASIDE, max_size=5), undo=st.booleans())
    def settle(self, data, aside, undo):
        lease = self.any_lease(data)
        settlement = Settlement(
            advances=self.some_advances(data),
            set_aside=[self.delivery(*words) for words in aside],
            rescheduled=self.some_rescheduled(data),
            finished=data.draw(st.lists(st.integers(0, 20), max_size=3), label="finished"),
        )
        self.both(lambda t: t.settle(lease, settlement), undo=undo)

    def any_lease(self, data):
        """Mostly the newest; any other is stale."""
        back = data.draw(st.sampled_from([1, 1, 1, 2, 3]), label="which lease from the end")
        return self.leases[-min(back, len(self.leases))]

    def some_advances(self, data):
        with self.memory.begin() as t:
            cursors = t.cursors()
        names = data.draw(st.lists(NAMES, unique=True), label="advanced")
        by, wrong = data.draw(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 0, 1])), label="by, off by")
        return {name: Advance(cursors.get(name, 0) + wrong, cursors.get(name, 0) + by) for name in names}

    def some_rescheduled(self, data):
        with self.memory.begin() as t:
            known = t.deliveries()
        if not known:
            return []
        picked = data.draw(st.lists(st.sampled_from(range(len(known))), max_size=3, unique=True), label="rescheduled")
        return [
            replace(
                known[place],
                attempt=known[place].attempt + 1,
                due=self.clock.now() + timedelta(seconds=data.draw(SECONDS)),
                state=data.draw(STATES),
                error="again",
            )
            for place in picked
        ]

    def delivery(self, name, key, seconds, ordered, state):
        return set_aside(name, key, self.clock.now() + timedelta(seconds=seconds), ordered=ordered, state=state)

    @rule(after=st.integers(-1, 30), upto=st.integers(-1, 30), limit=st.integers(0, 5))
    def read(self, after, upto, limit):
        self.both(lambda t: t.read(after, upto, limit))

    @rule(key=KEYS, name=EVENTS, after=st.integers(0, 30))
    def find(self, key, name, after):
        self.both(lambda t: t.find(key, name, after))

    @rule(limit=st.integers(0, 5))
    def due(self, limit):
        self.both(lambda t: t.due(limit))

    @rule(pairs=st.lists(st.tuples(NAMES, KEYS), max_size=9))
    def blocked(self, pairs):
        self.both(lambda t: t.blocked(pairs))

    @invariant()
    def they_hold_the_same(self):
        self.both(lambda t: (t.horizon(), t.read(0, 1_000, 1_000), t.cursors(), t.deliveries(), t.due(100), t.open()))


TwoStores.TestCase.settings = settings(stateful_step_count=30)
TestTwoStores = TwoStores.TestCase
