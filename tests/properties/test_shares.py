"""Whatever workers come, go and know, they end up with every slot worked once, in fair shares, by whoever should."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from earnorm.backends.memory import MemoryStore
from earnorm.clock import VirtualClock
from earnorm.shares import NEAR, View, moves_of, outranks, share_of
from earnorm.slots import SLOTS
from earnorm.store import SHARED, Cursor, Follower, Group, Presence, Registration
from earnorm.tenure import Tenure

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALL = frozenset({"mail", "audit", "search"})
KNOWS = st.frozensets(st.sampled_from(sorted(ALL)))
WORKERS = st.lists(st.tuples(KNOWS, st.booleans()), min_size=1, max_size=6)


class Fleet:
    """Workers at one store, each of which looks when it is told to."""

    def __init__(self, workers, divides=True, solitary=frozenset()):
        self.solitary = solitary
        self.clock = VirtualClock(NOON)
        self.store = MemoryStore(self.clock, divides=divides)
        self.tenures = []
        with self.store.begin() as transaction:
            transaction.subscribe([Registration(name=name) for name in sorted(ALL)])
        for knows, dedicated in workers:
            self.come(knows, dedicated)

    def come(self, knows=ALL, dedicated=False):
        self.tenures.append((Tenure(self.store, self.clock, 10, dedicated=dedicated), knows))

    def settle_down(self, rounds=8):
        for _ in range(rounds):
            for tenure, knows in self.tenures:
                tenure.look(knows, solitary=self.solitary & knows)

    def rows(self, name=SHARED):
        with self.store.begin() as transaction:
            return [cursor for cursor in transaction.cursors() if cursor.name == name]

    def move(self, name, position):
        """As if all ranges of this cursor had been worked up to there, by nobody."""
        state = self.store._state
        moved = {c.place: replace(c, position=position) for c in state.cursors.values() if c.name == name}
        state.cursors = {**state.cursors, **moved}

    def shares(self, name=SHARED):
        held = {tenure.worker: 0 for tenure, _ in self.tenures}
        for cursor in self.rows(name):
            held[cursor.worker] = held.get(cursor.worker, 0) + cursor.last - cursor.first + 1
        return held


@given(st.integers(1, 9), st.data())
def test_workers_of_one_version_share_fairly_as_they_come_and_go(workers, data):
    fleet = Fleet([(ALL, False)] * workers)
    fleet.settle_down()
    for _ in range(3):
        if len(fleet.tenures) > 1 and data.draw(st.booleans()):
            tenure, _ = fleet.tenures.pop(data.draw(st.integers(0, len(fleet.tenures) - 1)))
            # One that is killed is seen as dead by the clock.
            if data.draw(st.booleans()):
                tenure.leave()
            else:
                fleet.clock.advance(4)
                fleet.settle_down(1)
                fleet.clock.advance(4)
                fleet.settle_down(1)
                fleet.clock.advance(4)
        else:
            fleet.come()
        fleet.settle_down()
        each = SLOTS // len(fleet.tenures)

        assert {each, each + 1} >= set(fleet.shares().values())
        assert SLOTS == sum(fleet.shares().values())


@given(st.integers(1, 5))
def test_a_solitary_subscription_has_a_cursor_of_its_own_for_good_that_is_shared_out_as_well(workers):
    fleet = Fleet([(ALL, False)] * workers, solitary=frozenset({"mail"}))
    fleet.settle_down(16)
    each = SLOTS // workers

    for name in (SHARED, "mail"):
        assert {each, each + 1} >= set(fleet.shares(name).values())
        assert SLOTS == sum(fleet.shares(name).values())


def test_what_is_at_work_is_left_where_it_is():
    fleet = Fleet([(ALL, False)], solitary=frozenset({"mail"}))
    fleet.settle_down()
    ((worker, _),) = fleet.tenures
    worker.busy = frozenset({"mail"})
    fleet.come()
    fleet.settle_down()

    assert SLOTS == fleet.shares("mail")[worker.worker]
    assert SLOTS // 2 == fleet.shares()[worker.worker]


@given(WORKERS)
def test_every_slot_is_somebody_s_who_knows_something_and_nobody_s_who_should_yield(workers):
    fleet = Fleet(workers)
    fleet.settle_down()
    knows = {tenure.worker: names for tenure, names in fleet.tenures}
    if not any(knows.values()):
        assert {""} == {row.worker for row in fleet.rows()}
        return
    everybody = [replace(presence(t, k), dedicated=t._dedicated) for t, k in fleet.tenures]
    for row in fleet.rows():
        (holder,) = [worker for worker in everybody if worker.worker == row.worker]
        assert holder.knows
        assert not [other for other in everybody if outranks(other, holder, ALL)]


@given(WORKERS)
def test_each_subscription_that_somebody_knows_is_followed_by_one_who_does(workers):
    fleet = Fleet(workers)
    fleet.settle_down()
    knows = {tenure.worker: names for tenure, names in fleet.tenures}
    with fleet.store.begin() as transaction:
        followers = transaction.followers()
    for follower in followers:
        if any(follower.name in names for names in knows.values()):
            assert all(follower.name in knows[row.worker] for row in fleet.rows(follower.cursor))


@given(WORKERS)
def test_once_they_have_settled_down_nothing_moves_any_more(workers):
    fleet = Fleet(workers)
    fleet.settle_down()
    before = fleet.rows()
    fleet.settle_down(2)

    assert before == fleet.rows()


@given(WORKERS)
def test_where_ranges_cannot_be_shared_one_has_the_whole(workers):
    fleet = Fleet(workers, divides=False)
    fleet.settle_down()

    assert [(0, SLOTS - 1)] == [row.slots for row in fleet.rows()]


@given(st.sets(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=70))
def test_shares_come_to_the_whole_and_differ_by_one_at_most(workers):
    shares = [share_of(worker, workers) for worker in workers]

    assert SLOTS == sum(shares)
    assert max(shares) - min(shares) <= 1


@given(KNOWS, KNOWS, st.booleans(), st.booleans())
def test_of_two_workers_one_at_most_outranks_the_other(one, other, dedicated, too):
    ada = Presence(worker="ada", expires=NOON, knows=one, dedicated=dedicated)
    bob = Presence(worker="bob", expires=NOON, knows=other, dedicated=too)

    assert not (outranks(ada, bob, ALL) and outranks(bob, ada, ALL))
    assert not outranks(ada, ada, ALL)


def test_who_waits_for_an_idle_one_in_vain_works_itself():
    fleet = Fleet([(ALL, True), (frozenset({"mail"}), False)])
    (superior, _), (inferior, knows) = fleet.tenures
    superior.look(ALL)
    superior.rest()
    inferior.look(knows)
    assert [] == inferior.held
    fleet.clock.advance(10)
    inferior.look(knows)

    assert [SHARED] == [cursor.name for cursor in inferior.held]
    assert {"", "audit", "search"} == {f.cursor for f in inferior.view.followers}


def test_a_paused_group_is_held_by_nobody():
    fleet = Fleet([(ALL, True)])
    fleet.settle_down(1)
    with fleet.store.begin() as transaction:
        transaction.pause_group("default", paused=True)
    fleet.settle_down(1)

    assert {"": SLOTS, fleet.tenures[0][0].worker: 0} == fleet.shares()


def test_a_paused_subscription_parts_and_comes_back_when_it_is_resumed():
    fleet = Fleet([(ALL, True)])
    fleet.settle_down(1)
    with fleet.store.begin() as transaction:
        transaction.pause("mail", paused=True)
    fleet.settle_down(1)
    assert [""] == [row.worker for row in fleet.rows("mail")]
    with fleet.store.begin() as transaction:
        transaction.pause("mail", paused=False)
    fleet.settle_down(1)

    assert [] == fleet.rows("mail")


def test_one_that_has_far_to_go_is_shared_out_and_one_who_is_near_is_taken_home_by_one():
    fleet = Fleet([(ALL, False), (ALL, False), (frozenset({"audit", "search"}), True)])
    with fleet.store.begin() as transaction:
        transaction.part("default", ["mail"])
    fleet.move(SHARED, NEAR + 1)
    fleet.settle_down()
    (one, _), (other, _), (stranger, _) = fleet.tenures
    assert {one.worker: 32, other.worker: 32, stranger.worker: 0} == fleet.shares("mail")

    fleet.move("mail", 1)
    fleet.settle_down()
    assert {0, 64} == set(fleet.shares("mail").values())

    fleet.tenures.pop()
    stranger.leave()
    fleet.move("mail", NEAR + 1)
    fleet.settle_down()
    assert [] == fleet.rows("mail")


def test_without_others_there_is_nothing_to_move():
    view = View(now=NOON, groups={}, followers=[], cursors=[], workers=[])

    assert not moves_of(view, Presence(worker="ada", expires=NOON), divides=True)


def test_one_that_joined_the_others_while_it_was_looked_at_is_left_alone():
    """Read as apart, with no cursor of its own any more: the look ended with an IndexError, and was made again."""
    me = Presence(worker="ada", expires=NOON, knows=frozenset({"mail"}))
    follower = Follower(name="mail", group="default", start=0, apart=True, seen=NOON)
    shared = Cursor(group="default", worker="ada")
    view = View(now=NOON, groups={"default": Group("default")}, followers=[follower], cursors=[shared], workers=[me])

    assert not moves_of(view, me, divides=True)


def presence(tenure, knows):
    return Presence(worker=tenure.worker, expires=NOON, knows=knows)
