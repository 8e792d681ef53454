"""A glance below SQLAlchemy: it shows what the verbs do, and gives way to them wherever it cannot be taken."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import event

from earnorm.backends.sqlalchemy.dialects import backend_of, postgresql_glance
from earnorm.backends.sqlalchemy.dialects.postgresql_commit import Statement
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.dialects.postgresql_wakeup import PostgreSQLWakeup
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore, SQLAlchemyTransaction
from earnorm.backends.sqlalchemy.width import LOT, Width
from earnorm.errors import ConnectionLost
from earnorm.glance import Glances, Span, glance_at
from earnorm.room import ROOM
from earnorm.slots import slot_of
from earnorm.testing._store_verbs import NOON, append, append_entries, entry, set_aside, settle, subscribe, take
from earnorm.wakeup import Bell
from tests import postgresql as postgres
from tests.flows.waking import EVENTUALLY

ALL = Span(0, 100, (), ROOM)


def made(engine):
    with engine.begin() as connection:
        upgrade(connection)
    return engine


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = made(sqlite_engine(f"sqlite:///{tmp_path}/log.db"))
    else:
        engine = made(postgresql_engine(request.getfixturevalue("postgresql")))
    yield engine
    engine.dispose()


@pytest.fixture
def server(postgresql):
    engine = made(postgresql_engine(postgresql))
    yield engine
    engine.dispose()


@pytest.fixture
def verbs(monkeypatch):
    """Each look at the groups that was taken by the verb."""
    asked = []
    real = SQLAlchemyTransaction.groups

    def groups(self):
        asked.append(self)
        return real(self)

    monkeypatch.setattr(SQLAlchemyTransaction, "groups", groups)
    return asked


def names(glance):
    return [each.name for each in glance.entries]


# --- what it shows ---


def test_it_shows_what_the_verbs_show_without_them(engine, verbs):
    store = SQLAlchemyStore(engine)
    subscribe(store, "mail", group="shop")
    append_entries(store, entry("one", due=None), entry("two", key="user:2"))
    cursor = take(store, group="shop")
    settle(store, cursor, set_aside=[set_aside()])
    asked = len(verbs)

    seen = store.glance(ALL)

    assert isinstance(store, Glances)
    assert len(verbs) == asked
    assert glance_at(store, ALL) == seen
    assert ({"shop"}, ["one", "two"], {"mail"}) == (set(seen.groups), names(seen), set(seen.waiting))


def test_it_asks_for_no_more_than_the_span(engine):
    store = SQLAlchemyStore(engine)
    kept = [entry(f"event.{number}", key=f"user:{number}") for number in range(20)]
    append_entries(store, *kept)
    slots = [slot_of(each.key, each.id.bytes) for each in kept]
    spans = [
        Span(3, 5, (), ROOM),
        Span(0, 100, [(slots[4], slots[4]), (slots[7], slots[7])], ROOM),
        Span(0, 100, (), 3),
        Span(20, 100, (), ROOM),
    ]

    assert [glance_at(store, span) for span in spans] == [store.glance(span) for span in spans]
    assert 5 == len(store.glance(spans[0]).entries)
    assert store.glance(None).entries is None


# --- how much of an entry it reads ---

MANY = Span(0, 2_000, (), ROOM)
CAUSE = uuid4()


@pytest.fixture
def asked(engine, monkeypatch):
    """Of each look, whether it asked for all columns of an entry; of none before it anything is known."""
    postgresql_glance._words.cache_clear()
    found = []
    real = Width.is_narrow

    def is_narrow(self, limit):
        found.append("narrow" if (answer := real(self, limit)) else "wide")
        return answer

    monkeypatch.setattr(Width, "is_narrow", is_narrow)
    yield found
    postgresql_glance._words.cache_clear()


def test_a_look_for_many_shows_what_the_verbs_show(engine, asked):
    store = SQLAlchemyStore(engine)
    append_entries(store, *(entry(f"event.{n}", key=f"user:{n}") for n in range(LOT + 3)))

    seen = store.glance(MANY)

    assert LOT + 3 == len(seen.entries)
    assert glance_at(store, MANY) == seen
    assert ["narrow"] == asked


@pytest.mark.parametrize(
    "more",
    [{"causation_id": CAUSE}, {"depth": 1}, {"tenant": "acme"}, {"version": 2}, {"due": NOON}],
    ids=lambda more: next(iter(more)),
)
def test_of_an_entry_that_has_more_to_it_all_is_read(engine, asked, more):
    store = SQLAlchemyStore(engine)
    append_entries(store, *(entry(f"event.{n}") for n in range(LOT)), entry("more", **more))

    looks = [store.glance(MANY).entries for _ in range(2)]

    assert (None, glance_at(store, MANY).entries) == tuple(looks)
    assert more.items() <= {name: getattr(looks[1][-1], name) for name in more}.items()
    assert ["narrow", "wide"] == asked


def test_where_entries_go_on_having_more_to_them_it_is_tried_ever_more_rarely(engine, asked):
    store = SQLAlchemyStore(engine)
    append_entries(store, entry("more", depth=1))
    for _ in range(11):
        store.glance(MANY)
    assert [0, 2, 5, 10] == [place for place, look in enumerate(asked) if look == "narrow"]

    append_entries(store, entry("plain"))
    asked.clear()
    while "narrow" not in asked:
        store.glance(Span(1, 2_000, (), ROOM))
    store.glance(Span(1, 2_000, (), ROOM))

    assert ["narrow", "narrow"] == asked[-2:]


def test_a_look_for_many_ends_where_there_is_no_more_room(engine, asked):
    store = SQLAlchemyStore(engine)
    append_entries(store, *(entry(f"event.{n}", data=b"x" * 100) for n in range(2 * LOT)))

    for room in (1, 100 * LOT, 100 * LOT + 1, 100 * (2 * LOT - 1)):
        span = Span(0, 2_000, (), room)
        assert glance_at(store, span) == store.glance(span)


def test_large_data_is_left_to_be_read_by_itself(engine):
    store = SQLAlchemyStore(engine)
    append_entries(store, entry("small"), entry("large", data=b"x" * 5000))

    assert store.glance(ALL).entries is None
    assert ["small"] == names(store.glance(Span(0, 1, (), ROOM)))


def test_who_listens_to_statements_hears_each(engine, verbs):
    store, heard = SQLAlchemyStore(engine), []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: heard.append(statement))
    append(store, "one")
    heard.clear()

    assert ["one"] == names(store.glance(ALL))
    assert 1 == len([statement for statement in heard if "FROM earnorm_group" in statement])
    assert verbs


# --- by the connection that a worker waits by ---


@pytest.fixture
def ears(engine):
    wakeup = backend_of(engine.url).wakeup(engine)
    assert wakeup.wait(Bell(), EVENTUALLY)
    yield wakeup.ears
    wakeup.close()


@pytest.fixture
def taken(engine):
    """How often a connection was taken out of the pool."""
    taken = []
    get = engine.pool._do_get
    engine.pool._do_get = lambda: (taken.append(1), get())[1]
    return taken


def test_it_is_taken_by_the_connection_that_a_worker_waits_by(engine, ears, taken, verbs):
    store = SQLAlchemyStore(engine)
    append(store, "one")
    store.ears = ears
    taken.clear()

    assert ["one"] == names(store.glance(ALL))
    assert [] == taken == verbs


def test_where_that_is_in_use_or_there_is_none_it_is_taken_by_another(engine, ears, taken):
    store = SQLAlchemyStore(engine)
    append(store, "one")
    store.ears = ears
    taken.clear()

    with ears.lock:
        assert ["one"] == names(store.glance(ALL))
    ears.leave()
    assert ["one"] == names(store.glance(ALL))
    assert 2 == len(taken)


def test_where_connections_are_set_up_as_they_leave_the_pool_it_takes_one(engine, ears, taken):
    store, set_up = SQLAlchemyStore(engine), []
    append(store, "one")
    store.ears = ears
    event.listen(engine, "checkout", lambda *_: set_up.append(1))

    assert ["one"] == names(store.glance(ALL))
    assert [1] == set_up


def test_if_that_broke_the_connection_is_lost_and_it_is_opened_again(server):
    store, wakeup = SQLAlchemyStore(server), PostgreSQLWakeup(server)
    append(store, "one")
    assert wakeup.wait(Bell(), EVENTUALLY)
    store.ears = wakeup.ears
    postgres.admin().execute("SELECT pg_terminate_backend(%s)", (wakeup.ears._connection.info.backend_pid,))

    with pytest.raises(ConnectionLost):
        store.glance(ALL)
    wakeup.wait(Bell(), 0.001)

    assert wakeup.ears._connection is None
    assert ["one"] == names(store.glance(ALL))
    wakeup.close()


def test_what_is_told_with_a_look_is_heard_by_who_waits(server):
    store, wakeup = SQLAlchemyStore(server), PostgreSQLWakeup(server)
    assert wakeup.wait(Bell(), EVENTUALLY)
    store.ears = wakeup.ears
    channel = wakeup.ears._connection.execute("SELECT pg_listening_channels()").fetchone()[0]
    with server.begin() as another:
        another.exec_driver_sql(f"NOTIFY {channel}, 'somebody'")
    while not wakeup.ears._is_told:
        store.glance(ALL)

    assert wakeup.wait(Bell(), EVENTUALLY)
    assert not wakeup.wait(Bell(), 0.001)
    wakeup.close()


# --- each statement in its own turn ---

_GATE = "DO $$ BEGIN PERFORM pg_advisory_xact_lock(7, 11); END $$"


@pytest.mark.parametrize("before", range(4))
def test_wherever_a_commit_falls_within_the_message_nothing_is_passed_unseen(server, monkeypatch, before):
    """A gate between two of its statements lets a writer of the first position commit there."""
    real = postgresql_glance._questions

    def gated(span):
        asked = real(span)
        return [*asked[:before], Statement(_GATE.encode(), (), ()), *asked[before:]]

    store, found = SQLAlchemyStore(server), []
    with server.connect() as late, server.connect() as gate:
        with store.join(late)._connection.begin():
            store.join(late).append([entry("first")])
            append(store, "second")
            gate.exec_driver_sql("SELECT pg_advisory_xact_lock(7, 11)")
            monkeypatch.setattr(postgresql_glance, "_questions", gated)
            thread = threading.Thread(target=lambda: found.append(store.glance(ALL)))
            thread.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 7"
            while not gate.exec_driver_sql(waiting).scalar_one():
                gate.exec_driver_sql("SELECT pg_sleep(0.005)")
        gate.commit()
        thread.join()

    assert (found[0].horizon, names(found[0])) == ((2, ["first", "second"]) if before < 2 else (0, []))


# --- where no lock need be looked at ---

# Fires the trigger, and takes no position.
_NOTHING = "INSERT INTO earnorm_log SELECT * FROM earnorm_log WHERE false"


def test_where_each_position_past_the_cursor_is_in_the_log_nobody_is_waited_for(server):
    store = SQLAlchemyStore(server)
    append(store, "one")
    with server.connect() as slow:
        slow.exec_driver_sql(_NOTHING)
        append(store, "two")

        assert (2, ["one", "two"]) == (store.glance(ALL).horizon, names(store.glance(ALL)))
        assert 1 == store.glance(None).horizon == glance_at(SQLAlchemyStore(server), ALL).horizon


@pytest.mark.parametrize("after", [0, 1])
def test_where_one_is_missing_the_locks_decide(server, after):
    store = SQLAlchemyStore(server)
    append(store, "one")
    with server.connect() as slow:
        slow.exec_driver_sql(_NOTHING)
        with store.join(slow)._connection.begin_nested() as undone:
            store.join(slow).append([entry("undone")])
            undone.rollback()
        append(store, "three")

        assert 1 == store.glance(Span(after, 100, (), ROOM)).horizon
    assert 3 == store.glance(ALL).horizon


def test_of_more_than_are_counted_the_locks_decide(server):
    store = SQLAlchemyStore(server)
    with server.connect() as slow:
        slow.exec_driver_sql(_NOTHING)
        append(store, *map(str, range(postgresql_glance._COUNTED + 1)))

        assert 0 == store.glance(ALL).horizon
        assert postgresql_glance._COUNTED + 1 == store.glance(Span(1, 100, (), ROOM)).horizon


def test_where_one_message_would_be_one_snapshot_it_is_asked_one_by_one(postgresql, verbs):
    engine = made(postgresql_engine(f"{postgresql}%20-cdefault_transaction_isolation%3Dserializable"))
    store = SQLAlchemyStore(engine)
    append(store, "one")

    assert ["one"] == names(store.glance(ALL))
    assert verbs
    engine.dispose()


# --- what goes wrong ---


def test_what_may_not_be_prepared_is_asked_one_by_one(postgresql, verbs):
    engine = made(postgresql_engine(postgresql, connect_args={"prepare_threshold": None}))
    store = SQLAlchemyStore(engine)
    with engine.connect() as connection:
        connection.connection.driver_connection.prepare_threshold = None
    append(store, "one")

    assert ["one"] == names(store.glance(ALL))
    assert verbs
    engine.dispose()


def test_what_the_server_has_forgotten_is_asked_one_by_one_once(server, verbs):
    store = SQLAlchemyStore(server)
    append(store, "one")
    store.glance(ALL)
    with server.connect() as connection:
        connection.connection.driver_connection.pgconn.exec_(b"DEALLOCATE ALL")

    assert ["one"] == names(store.glance(ALL))
    assert 1 == len(verbs)
    assert ["one"] == names(store.glance(ALL))
    assert 1 == len(verbs)


def test_a_connection_that_broke_is_told_as_lost_and_what_was_known_is_forgotten(server):
    store = SQLAlchemyStore(server)
    append(store, "one")
    store.glance(ALL)
    with server.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    postgres.admin().execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    with pytest.raises(ConnectionLost):
        store.glance(ALL)
    assert store._dialect._horizon._safe is None
    assert ["one"] == names(store.glance(ALL))


def test_tables_that_are_not_there_are_said_to_be_missing(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/empty.db")

    with pytest.raises(Exception, match="no such table"):
        SQLAlchemyStore(engine).glance(ALL)
    engine.dispose()
