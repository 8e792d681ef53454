"""The SQL stores do what the memory store does, whatever is done to both in whatever order."""

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec import structs

from earnorm.backends.memory import MemoryStore
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore, SQLAlchemyTransaction
from earnorm.backends.sqlalchemy.tables import SHARED_COLUMNS
from earnorm.clock import VirtualClock
from earnorm.delivery import Delivery
from earnorm.emission import IdempotencyKey
from earnorm.errors import LeaseLost, NameTakenTwice, SubscriptionShared
from earnorm.event import Entries
from earnorm.store import Advance, Cursor, Plan, Presence, Registration, Settlement
from earnorm.testing._store_verbs import NOON, attempt, entry, set_aside
from earnorm.upkeep import ALL, Selection

NAMES = st.sampled_from(["mail", "audit", "search", "old"])
KEYS = st.sampled_from(["user:1", "user:2", "order:1"])
EVENTS = st.sampled_from(["user.created", "user.updated", "user.deleted"])
WORKERS = st.sampled_from(["ada", "bob"])
SECONDS = st.sampled_from([0, 0.5, 1, 5, 10])
STATES = st.sampled_from(["open", "open", "dead"])
ENTRIES = st.builds(lambda name, key, due: entry(name, key, due=due), EVENTS, KEYS, st.sampled_from([None, NOON]))
PLACES = st.tuples(st.sampled_from(["", "acme"]), EVENTS, st.sampled_from(["r1", "r2"]))
RUNNERS = st.sampled_from(["", "", "", "ada", "bob"])
ASIDE = st.tuples(NAMES, KEYS, SECONDS, st.booleans(), STATES, RUNNERS)
GROUPS = st.sampled_from(["default", "default", "slow"])
SINCE = st.sampled_from([None, None, "beginning", NOON, 0, 2, 5])
REGISTRATIONS = st.builds(
    lambda name, group, since, formerly: Registration(name=name, group=group, since=since, formerly=formerly),
    NAMES,
    GROUPS,
    SINCE,
    st.sampled_from([(), (), ("old",), ("mail",)]),
)
SEVERAL = st.lists(REGISTRATIONS, max_size=3, unique_by=lambda given: given.name)
RANGES = st.sampled_from([[], [(0, 63)], [(0, 31)], [(5, 20), (40, 63)]])
ROOMS = st.sampled_from([None, 1, 4, 10])


class Undone(Exception):
    pass


class TwoStores(RuleBasedStateMachine):
    """Every step is done to both stores, and what each gives back must be the same."""

    # Whether numbers given out in a transaction that is undone are given out again.
    undoes_numbers = True
    # Whether a transaction's own entries are below its horizon.
    sees_its_own = True

    def __init__(self):
        super().__init__()
        self.clock = VirtualClock(NOON)
        self.engine = self.open()
        self.memory, self.sql = MemoryStore(self.clock), SQLAlchemyStore(self.engine, clock=self.clock)
        self.leases = [Cursor(group="default", worker="nobody")]
        # What the SQL store calls a delivery, by what the memory store calls it.
        self.ids = {}

    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        # Durable to a crash it need not be here, and every example makes a file.
        engine = sqlite_engine(f"sqlite:///{Path(self.folder.name)}/log.db?synchronous=OFF&journal_mode=memory")
        with engine.begin() as connection:
            upgrade(connection)
        return engine

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
                    outcome = ("lost", lost.worker)
                except NameTakenTwice as taken:
                    outcome = ("taken", taken.name, taken.former)
                except SubscriptionShared as shared:
                    outcome = ("shared", shared.name, shared.first, shared.second)
                if undo:
                    raise Undone
            outcomes.append(outcome)
        self.learn_ids()
        expected, actual = outcomes
        assert expected == self.in_memory_s_words(actual)
        return expected

    def learn_ids(self):
        with self.memory.begin() as one, self.sql.begin(readonly=True) as other:
            self.ids |= {mine.id: its.id for mine, its in zip(one.deliveries(), other.deliveries(), strict=True)}

    def in_memory_s_words(self, outcome):
        if isinstance(outcome, Delivery):
            return structs.replace(outcome, id={its: mine for mine, its in self.ids.items()}[outcome.id])
        if isinstance(outcome, (list, tuple)):
            return type(outcome)(self.in_memory_s_words(part) for part in outcome)
        return outcome

    def in_words_of(self, t, settlement):
        if isinstance(t, SQLAlchemyTransaction):
            return replace(
                settlement,
                rescheduled=[structs.replace(d, id=self.ids[d.id]) for d in settlement.rescheduled],
                finished=[self.ids.get(number, number) for number in settlement.finished],
                running=[self.ids.get(number, number) for number in settlement.running],
            )
        return settlement

    @rule(entries=st.lists(ENTRIES, max_size=5), undo=st.booleans())
    def append(self, entries, undo):
        self.both(lambda t: t.append(entries), undo=undo and self.undoes_numbers)

    @rule(entries=st.lists(ENTRIES, min_size=1, max_size=5), undo=st.booleans())
    def append_many(self, entries, undo):
        first = entries[0]
        shared = {name: getattr(first, name) for name in SHARED_COLUMNS}
        columns = {"ids": [e.id.bytes for e in entries], "keys": [e.key for e in entries]}
        alike = Entries(**columns, data=[e.data for e in entries], **shared)
        self.both(lambda t: t.append_many(alike), undo=undo and self.undoes_numbers)

    @rule(places=st.lists(PLACES, max_size=5), undo=st.booleans())
    def reserve(self, places, undo):
        words = {"digest": b"", "at": self.clock.now()}
        keys = [IdempotencyKey(tenant=t, name=n, text=x, event=uuid4(), **words) for t, n, x in places]
        self.both(lambda t: t.reserve(keys), undo=undo)

    @rule(seconds=SECONDS, undo=st.booleans())
    def forget_keys(self, seconds, undo):
        self.both(lambda t: t.forget_keys(self.clock.now() - timedelta(seconds=seconds), 100), undo=undo)

    @rule(place=PLACES)
    def reserved(self, place):
        self.both(lambda t: t.reserved(*place))

    @rule(
        given=SEVERAL,
        entries=st.lists(ENTRIES, max_size=2),
        undo=st.booleans(),
    )
    def append_and_subscribe(self, given, entries, undo):
        undo = undo and self.undoes_numbers
        if self.sees_its_own:
            self.both(lambda t: (t.append(entries), t.subscribe(given))[1], undo=undo)
        else:
            self.both(lambda t: t.append(entries), undo=undo)
            self.both(lambda t: t.subscribe(given), undo=undo)

    @rule(name=NAMES, group=GROUPS, paused=st.booleans(), undo=st.booleans())
    def pause(self, name, group, paused, undo):
        self.both(lambda t: (t.pause(name, paused=paused), t.pause_group(group, paused=not paused)), undo=undo)

    @rule(group=GROUPS, names=st.lists(NAMES, max_size=3), undo=st.booleans())
    def part(self, group, names, undo):
        self.both(lambda t: t.part(group, names), undo=undo)

    @rule(name=NAMES, undo=st.booleans())
    def rejoin(self, name, undo):
        self.both(lambda t: t.rejoin(name), undo=undo)

    @rule(name=NAMES, undo=st.booleans())
    def retire(self, name, undo):
        self.both(lambda t: t.retire(name), undo=undo)

    @rule(worker=WORKERS, seconds=SECONDS, knows=st.frozensets(NAMES), idle=st.booleans(), undo=st.booleans())
    def enter(self, worker, seconds, knows, idle, undo):
        expires = self.clock.now() + timedelta(seconds=seconds)
        presence = Presence(worker=worker, expires=expires, knows=knows, idle=idle)
        self.both(lambda t: t.enter(presence), undo=undo)

    @rule(worker=WORKERS, seconds=SECONDS, undo=st.booleans())
    def beat(self, worker, seconds, undo):
        self.both(lambda t: t.beat(worker, self.clock.now() + timedelta(seconds=seconds)), undo=undo)

    @rule(worker=WORKERS, dead=st.booleans(), undo=st.booleans())
    def bury(self, worker, dead, undo):
        self.both(lambda t: t.bury(worker, dead=dead), undo=undo)

    @rule(worker=WORKERS, undo=st.booleans())
    def leave(self, worker, undo):
        self.both(lambda t: t.leave(worker), undo=undo)

    @rule(data=st.data(), worker=WORKERS, undo=st.booleans())
    def take(self, data, worker, undo):
        with self.memory.begin() as t:
            cursors = t.cursors()
        if cursors:
            cursor = data.draw(st.sampled_from(cursors), label="cursor")
            taken = self.both(lambda t: t.take(cursor, worker), undo=undo)
            self.note(taken)

    @rule(data=st.data(), undo=st.booleans())
    def release(self, data, undo):
        lease = self.any_lease(data)
        self.both(lambda t: t.release([lease]), undo=undo)

    @rule(data=st.data(), at=st.integers(1, 63), undo=st.booleans())
    def split(self, data, at, undo):
        lease = self.any_lease(data)
        if lease.first < at <= lease.last:
            self.note(self.both(lambda t: t.split(lease, at), undo=undo))

    @rule(data=st.data(), undo=st.booleans())
    def merge(self, data, undo):
        one, other = self.any_lease(data), self.any_lease(data)
        self.note(self.both(lambda t: t.merge(one, other), undo=undo))

    def note(self, cursor):
        if isinstance(cursor, Cursor):
            self.leases.append(cursor)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule(data=st.data(), aside=st.lists(ASIDE, max_size=5), planned=st.booleans(), undo=st.booleans())
    def settle(self, data, aside, planned, undo):
        lease = self.any_lease(data)
        position = lease.position + data.draw(st.sampled_from([0, 0, 1, 3]), label="by")
        wrong = data.draw(st.sampled_from([0, 0, 0, 1]), label="off by")
        new, again = [self.delivery(*words) for words in aside], self.some_rescheduled(data)
        settlement = Settlement(
            worker=lease.worker,
            advances=[Advance(replace(lease, position=lease.position + wrong), position)],
            plans=self.some_plans(data) if planned else {},
            set_aside=new,
            rescheduled=again,
            finished=self.some_finished(data),
            attempts=[attempt(delivery, delivery.attempt) for delivery in (*new, *again) if delivery.ordered],
        )
        if self.both(lambda t: t.settle(self.in_words_of(t, settlement)), undo=undo) is None and not undo:
            self.note(replace(lease, position=position, deaths=0))

    @rule(data=st.data(), worker=WORKERS, undo=st.booleans())
    def settle_what_runs(self, data, worker, undo):
        finished = self.some_finished(data)
        settlement = Settlement(worker=worker, finished=finished, running=finished)
        self.both(lambda t: t.settle(self.in_words_of(t, settlement)), undo=undo)

    def some_plans(self, data):
        """As of now, or as of a generation that has passed."""
        with self.memory.begin() as t:
            groups = t.groups()
        given = data.draw(st.frozensets(NAMES), label="given")
        back = data.draw(st.sampled_from([0, 1, 1]), label="generations back")
        return {name: Plan(group.generation - back, given) for name, group in groups.items()}

    def any_lease(self, data):
        """Mostly the newest; any other is stale, or of another cursor."""
        back = data.draw(st.sampled_from([1, 1, 1, 2, 3]), label="which lease from the end")
        return self.leases[-min(back, len(self.leases))]

    def some_finished(self, data):
        """Of those that are there, and some that are not. What this batch sets aside has no number yet."""
        with self.memory.begin() as t:
            known = {delivery.id for delivery in t.deliveries()}
        drawn = data.draw(st.lists(st.integers(0, 20), max_size=3), label="finished")
        return [number if number in known else -number for number in drawn]

    def some_rescheduled(self, data):
        with self.memory.begin() as t:
            known = t.deliveries()
        if not known:
            return []
        picked = data.draw(st.lists(st.sampled_from(range(len(known))), max_size=3, unique=True), label="rescheduled")
        return [
            structs.replace(
                known[place],
                attempt=known[place].attempt + 1,
                chosen=self.clock.now() + timedelta(seconds=data.draw(SECONDS)),
                state=data.draw(STATES),
                error="again",
                worker=data.draw(RUNNERS),
            )
            for place in picked
        ]

    def delivery(self, name, key, seconds, ordered, state, worker):
        due = self.clock.now() + timedelta(seconds=seconds)
        return set_aside(name, key, due, ordered=ordered, state=state, worker=worker)

    @rule(data=st.data(), verb=st.sampled_from(["reopen", "discard"]), undo=st.booleans())
    def look_after_dead_letters(self, data, verb, undo):
        numbers = self.some_finished(data)

        def act(t):
            mine = [self.ids.get(n, n) for n in numbers] if isinstance(t, SQLAlchemyTransaction) else numbers
            return len(getattr(t, verb)(mine))

        self.both(act, undo=undo)

    @rule(name=NAMES, event=st.sampled_from([None, "user.updated"]), error=st.sampled_from([None, "again", "x"]))
    def find_dead_letters(self, name, event, error):
        chosen = Selection(handler=name, event=event, error=error, since=self.clock.now() - timedelta(seconds=2))
        self.both(lambda t: (t.dead(chosen, 3), t.count_dead(chosen), t.dead(ALL, 100)))

    @rule(
        old=st.booleans(),
        limit=st.integers(1, 5),
        after=st.integers(0, 10),
        seconds=SECONDS,
        dry=st.booleans(),
        undo=st.booleans(),
    )
    def prune(self, old, limit, after, seconds, dry, undo):
        words = {"unseen": self.clock.now() - timedelta(seconds=seconds), "dry": dry}
        before = NOON + timedelta(seconds=1) if old else NOON
        self.both(lambda t: t.prune(before, limit, after, **words), undo=undo)

    @rule(after=st.integers(-1, 30), upto=st.integers(-1, 30), limit=st.integers(1, 5), slots=RANGES)
    def behind(self, after, upto, limit, slots):
        self.both(lambda t: (t.behind(after, upto, limit, slots), t.tally()))

    @rule(after=st.integers(-1, 30), upto=st.integers(-1, 30), limit=st.integers(0, 5), slots=RANGES, room=ROOMS)
    def read(self, after, upto, limit, slots, room):
        self.both(lambda t: t.read(after, upto, limit, slots, room))

    @rule(key=KEYS, name=EVENTS, after=st.integers(0, 30))
    def find(self, key, name, after):
        self.both(lambda t: t.find(key, name, after))

    @rule(name=NAMES, limit=st.integers(0, 5), slots=RANGES.filter(bool), room=ROOMS)
    def due(self, name, limit, slots, room):
        self.both(lambda t: t.due(name, slots, limit, room))

    @rule(pairs=st.lists(st.tuples(NAMES, KEYS), max_size=9))
    def blocked(self, pairs):
        self.both(lambda t: t.blocked(pairs))

    @invariant()
    def they_hold_the_same(self):
        self.both(
            lambda t: (
                (t.horizon(), t.read(0, 1_000, 1_000), t.deliveries(), t.waiting(), t.running("ada")),
                (t.cursors(), t.followers(), t.groups(), t.workers()),
                [t.attempts(delivery.id) for delivery in t.deliveries()],
            )
        )


TwoStores.TestCase.settings = settings(stateful_step_count=30)
TestTwoStores = TwoStores.TestCase


class MemoryAndPostgreSQL(TwoStores):
    """The same; each example finds its schema empty."""

    url = ""
    undoes_numbers = False
    sees_its_own = False

    def open(self):
        engine = postgresql_engine(self.url)
        with engine.begin() as connection:
            upgrade(connection)
            tables = ("log", "group", "subscription", "alias", "cursor", "worker", "delivery", "attempt", "key")
            names = ", ".join(f"earnorm_{table}" for table in tables)
            connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
        return engine

    def teardown(self):
        self.engine.dispose()


# A step is many times as dear as on a file that nobody syncs.
FEWER = settings(stateful_step_count=30, max_examples=max(1, settings().max_examples // 10))


def test_memory_and_postgresql(postgresql):
    MemoryAndPostgreSQL.url = postgresql
    run_state_machine_as_test(MemoryAndPostgreSQL, settings=FEWER)
