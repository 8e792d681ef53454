"""Two transactions emit under one key before either has committed: the constraint decides, at the commit.

On PostgreSQL alone: of a SQLite file's writers the second waits for the first, and then sees its key.
"""

import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from earnorm import Emit, aemit, connect, emit, event_handler
from earnorm.backends.sqlalchemy.scope import scope_of, within
from earnorm.errors import KeyReused, KeyTaken
from tests import postgresql as postgres
from tests.flows.stories import log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@pytest.fixture
def url(postgresql):
    return postgresql


@pytest.fixture
def rival(url):
    """Another connection, whose transaction commits when told to."""
    engine = create_engine(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def emit_on(connection, *keys, **payload):
    """In a plain Session of a thread's own; its transaction stays open."""
    handles = []

    def work():
        with Session(connection, join_transaction_mode="rollback_only") as session, session.begin():
            handles.extend(_emit_in(session, *keys, **payload))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return handles


def _emit_in(session, *keys, **payload):
    with within(scope_of(session)):
        return [emit("shop.opened", None, Emit(key=key), **payload) for key in keys]


def test_the_loser_of_a_race_commits_without_its_event(db, rival):
    rival.begin()
    with db.transaction():
        ours = emit("shop.opened", None, Emit(key="r1"), by="Ada")
        emit("shop.aired")
        (theirs,) = emit_on(rival, "r1", by="Ada")
        rival.commit()

    assert ["shop.opened", "shop.aired"] == names(db)
    assert (theirs.id, True) == (ours.id, ours.repeated)
    assert {} == ours.outcomes()


def test_a_loser_that_says_something_else_is_rolled_back(db, rival):
    rival.begin()
    with pytest.raises(KeyReused), db.transaction():
        emit("shop.opened", None, Emit(key="r1"), by="Ada")
        emit_on(rival, "r1", by="Bob")
        rival.commit()

    assert [{"by": "Bob"}] == [event.payload for event in log(db)]


def test_a_loser_whose_handlers_have_run_is_rolled_back(db, rival):
    @event_handler("shop.opened", delivery="transaction", name="count")
    def count(event):
        seen.append(event.id)

    rival.begin()
    with pytest.raises(KeyTaken, match="run the transaction again"), db.transaction():
        emit("shop.opened", None, Emit(key="r1"))
        emit("shop.aired")
        (theirs,) = emit_on(rival, "r1")
        rival.commit()

    assert ["shop.opened"] == names(db)
    assert theirs.id == emit("shop.opened", None, Emit(key="r1")).id


def test_two_that_take_the_same_keys_in_opposite_orders_do_not_deadlock(db, rival):
    """Each takes its keys sorted, so the second waits for the first, and the first for nobody."""
    rival.begin()
    with db.transaction():
        ours = [emit("shop.opened", None, Emit(key=key)) for key in ("r2", "r1")]
        theirs = emit_on(rival, "r1", "r2")
        rival.commit()

    assert 2 == len(names(db))
    assert [handle.id for handle in theirs] == [handle.id for handle in reversed(ours)]


def test_a_key_that_is_being_taken_is_waited_for(db, rival):
    """The other one's COMMIT is still to come when this one takes the key; it rolls back, and the key is free."""
    rival.begin()
    begun = threading.Event()
    handles = []

    def emit_too():
        with db.transaction():
            handles.append(emit("shop.opened", None, Emit(key="r1"), by="Ada"))
            begun.set()

    rival.exec_driver_sql(
        "INSERT INTO earnorm_key (tenant, name, key, event, digest, at) "
        "VALUES ('', 'shop.opened', 'r1', decode(repeat('00', 16), 'hex'), '', 0)"
    )
    thread = threading.Thread(target=emit_too)
    thread.start()
    begun.wait(10)
    rival.rollback()
    thread.join(10)

    assert [{"by": "Ada"}] == [event.payload for event in log(db)]
    assert not handles[0].repeated


@pytest.fixture
def asyncpg_url():
    with postgres.database() as url:
        yield url.set(drivername="postgresql+asyncpg")


async def test_asyncpg_knows_the_keys_and_the_times_as_well(asyncpg_url):
    async with connect(asyncpg_url, worker=False) as db:
        async with db.transaction():
            first = await aemit("shop.opened", None, Emit(key="r1", delay="1h"), by="Ada")
            other = await aemit("shop.opened", None, Emit(key="r2", delay="2h"))
        again = await aemit("shop.opened", None, Emit(key="r1", delay="1h"), by="Ada")

        assert (first.id, False) == (again.id, other.repeated)
        assert {} == await again.aoutcomes()
        with db.store.begin(readonly=True) as transaction:
            dues = [entry.due for entry in transaction.read(0, 100, 100)]
        assert 3_600 == round((dues[1] - dues[0]).total_seconds())
