"""Bundles in a database: where their entries stand, who sees what of them when, and what is left if somebody dies."""

import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from earnorm.backends.sqlalchemy.dialects import horizon as horizons
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.dialects.sqlite import sqlite_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import SystemClock
from earnorm.errors import UnsoundLog
from earnorm.glance import Span, glance_at
from earnorm.multitude import Multitude
from earnorm.records import Columns
from earnorm.registry import ModelInfo
from earnorm.room import ROOM
from earnorm.testing._store_verbs import FAR, append, entry, read_all
from tests import postgresql

LOOKS = {"verb by verb": glance_at, "at a glance": SQLAlchemyStore.glance}


class Order:
    """A model, as far as anybody here looks at it."""


@contextmanager
def database(kind, tmp_path):
    with ExitStack() as stack:
        if kind == "sqlite":
            engine = sqlite_engine(f"sqlite:///{tmp_path}/bundles.db")
        else:
            engine = postgresql_engine(stack.enter_context(postgresql.schema()))
        stack.callback(engine.dispose)
        with engine.begin() as connection:
            upgrade(connection)
        yield engine


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    with database(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def server(tmp_path):
    with database("postgresql", tmp_path) as engine:
        yield engine


@pytest.fixture
def store(engine):
    return SQLAlchemyStore(engine)


def many(*numbers):
    return many_of(Columns(("id", "name"), [list(numbers), [f"n{number}" for number in numbers]], (0,)))


def many_of(columns):
    return Multitude("order.created", "created", ModelInfo(cls=Order, subject="order"), columns)


def leave(store, *numbers):
    """Append a bundle."""
    with store.begin() as transaction:
        assert transaction.append_bundled(many(*numbers))


def unbundle(store):
    with store.begin() as transaction:
        return transaction.unbundle()


def horizon(store):
    with store.begin(readonly=True) as transaction:
        return transaction.horizon()


def keys(found):
    """The records of the events; of those of no bundle the name."""
    return [each.key if each.key.startswith("order:") else each.name for each in found]


def orders(*numbers):
    return [f"order:{number}" for number in numbers]


def test_entries_stand_where_they_would_have_stood_at_once(store):
    append(store, "first")
    leave(store, 1, 2, 3)
    append(store, "last")
    assert unbundle(store)

    found = read_all(store)

    assert ["first", *orders(1, 2, 3), "last"] == keys(found)
    assert [1, 2, 3, 4, 5] == [each.position for each in found]
    assert {b'{"identity":[2],"payload":{"id":2,"name":"n2"},"changes":{}}'} == {
        bytes(each.data) for each in found if each.key == "order:2"
    }


def test_the_first_entries_of_a_log_may_be_a_bundle(store):
    leave(store, 1, 2)
    assert (0, []) == (horizon(store), read_all(store))

    unbundle(store)

    assert (2, [1, 2]) == (horizon(store), [each.position for each in read_all(store)])


@pytest.mark.parametrize("look", LOOKS)
def test_who_reads_stops_in_front_of_a_bundle(store, look):
    append(store, "first")
    leave(store, 1, 2)
    append(store, "last")

    before = LOOKS[look](store, Span(0, FAR, (), ROOM))
    unbundle(store)
    after = LOOKS[look](store, Span(before.horizon, FAR, (), ROOM))

    assert (1, ["first"]) == (before.horizon, [each.name for each in before.entries])
    assert (4, ["order.created", "order.created", "last"]) == (after.horizon, [each.name for each in after.entries])


def test_bundles_are_unbundled_from_the_lowest(store):
    leave(store, 1, 2)
    leave(store, 3)

    assert [(True, 2), (True, 3), (False, 3)] == [(unbundle(store), horizon(store)) for _ in range(3)]
    assert orders(1, 2, 3) == keys(read_all(store))


def test_a_pruned_log_gives_no_position_of_a_bundle_out_again(store, engine):
    leave(store, 1, 2)
    unbundle(store)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM earnorm_log"))
    append(store, "later")

    assert [3] == [each.position for each in read_all(store)]


@pytest.mark.parametrize("step", ["after the bundle is gone", "after the entries are there"])
def test_a_bundle_that_was_not_unbundled_to_the_end_is_there_as_before(store, engine, step):
    leave(store, 1, 2)
    marks = {"after the bundle is gone": "DELETE FROM earnorm_bundle", "after the entries are there": "earnorm_log"}

    def die(_connection, _cursor, statement, *_):
        if marks[step] in statement:
            raise OperationalError(statement, {}, ZeroDivisionError())

    own = store.own_engine
    event.listen(engine, "after_cursor_execute", die)
    with pytest.raises(OperationalError), own.begin() as connection:
        store.join(connection).unbundle()
    event.remove(engine, "after_cursor_execute", die)
    assert (0, []) == (horizon(store), read_all(store))

    assert unbundle(store)

    assert orders(1, 2) == keys(read_all(store))


def test_a_rolled_back_bundle_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        transaction.append_bundled(many(1, 2))
        raise ZeroDivisionError
    append(store, "later")

    assert not unbundle(store)
    assert ["later"] == [each.name for each in read_all(store)]
    assert horizon(store) == read_all(store)[-1].position


def test_a_transaction_of_which_triggers_saw_something_appends_entries(store, engine):
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT set_config('earnorm.captured', 'y', true)"))
        else:
            columns = 'subject, key, operation, hidden, "transaction", at'
            connection.execute(
                text(f"INSERT INTO earnorm_capture ({columns}) VALUES ('order', '[1]', 'I', '[]', 0, 0)")
            )

        assert not store.join(connection).append_bundled(many(1, 2))


def test_what_cannot_be_a_bundle_asks_the_database_nothing(store, engine):
    """It was asked, and PostgreSQL locked the horizon, before it was known that there would be no bundle."""
    lone = Columns(("id", "name"), [[1], ["\ud800"]], (0,))
    with engine.begin() as connection:
        asked = []
        event.listen(connection, "before_cursor_execute", lambda *given: asked.append(given[2]))

        assert not store.join(connection).append_bundled(many_of(lone))

    assert [] == asked


def test_pruning_takes_a_bundle_of_old_events_that_nobody_worked(store):
    leave(store, 1, 2)
    with store.begin() as transaction:
        pruned = transaction.prune(transaction.now().replace(year=2200), 100, unseen=transaction.now())

    assert (2, []) == (pruned.count, read_all(store))
    assert not unbundle(store)


# --- several at once, where several can be ---


@pytest.fixture
def shared(server):
    return SQLAlchemyStore(server)


def open_on(stack, engine):
    return stack.enter_context(engine.connect())


def test_a_server_that_has_lz4_compresses_bundles_by_it(server):
    """Its own method takes a third of the whole append."""
    with server.begin() as connection:
        try:
            with connection.begin_nested():
                connection.execute(text("CREATE TABLE tried (value bytea COMPRESSION lz4)"))
        except DBAPIError:
            pytest.skip("this server has no LZ4")
        found = connection.execute(text(_COMPRESSIONS)).all()

    assert [("content", "l"), ("ids", "l")] == [(name, str(method)) for name, method in found]


_COMPRESSIONS = """\
SELECT attname, attcompression::text FROM pg_attribute
WHERE attrelid = 'earnorm_bundle'::regclass AND attcompression <> '' ORDER BY attname"""


def test_positions_that_are_no_row_of_numbers_are_kept_one_by_one(shared, server):
    """As where others took some in between."""
    leave(shared, 1, 2)
    with server.begin() as connection:
        connection.execute(text("UPDATE earnorm_bundle SET last = 7, positions = '[3,7]'"))
    unbundle(shared)

    assert [(3, "order:1"), (7, "order:2")] == [(each.position, each.key) for each in read_all(shared)]


def test_a_reader_amid_writers_and_workers_is_given_each_once_and_in_order(shared, server):
    """Bundles are committed and unbundled by several at once, beside entries, some of which are rolled back."""
    total, got, stood, failed = 4 * 6 * 40, [], 0, []

    def write(number):
        for turn in range(6):
            first = 10_000 * number + 100 * turn
            with suppress(ZeroDivisionError), shared.begin() as transaction:
                transaction.append_bundled(many(*range(first + 50, first + 90)))
                raise ZeroDivisionError
            leave(shared, *range(first, first + 40))
            append(shared, "between")

    def work():
        while writing.is_set() or unbundle(shared):
            unbundle(shared)

    def guarded(act, *given):
        try:
            act(*given)
        except BaseException as error:
            failed.append(error)
            raise

    writing = threading.Event()
    writing.set()
    writers = [threading.Thread(target=guarded, args=(write, number)) for number in range(4)]
    workers = [threading.Thread(target=guarded, args=(work,)) for _ in range(2)]
    for thread in (*writers, *workers):
        thread.start()

    def look():
        nonlocal stood
        found = shared.glance(Span(stood, FAR, (), ROOM))
        got.extend(each for each in found.entries if each.name == "order.created")
        stood = found.horizon

    while any(thread.is_alive() for thread in writers):
        look()
    writing.clear()
    for thread in (*writers, *workers):
        thread.join()
    look()

    assert ([], total) == (failed, len(got))
    assert total == len({each.key for each in got}) == len({each.id for each in got})
    for number in range(4):
        own = [int(each.key[6:]) for each in got if int(each.key[6:]) // 10_000 == number]
        assert own == sorted(own)


def test_a_bundle_under_way_holds_the_horizon(shared, server):
    with ExitStack() as stack:
        one = open_on(stack, server)
        shared.join(one).append_bundled(many(1, 2))
        append(shared, "other")

        assert 0 == horizon(shared)
        one.commit()
        assert 0 == horizon(shared)
    unbundle(shared)

    assert (3, [*orders(1, 2), "other"]) == (horizon(shared), keys(read_all(shared)))


def test_one_that_another_is_at_is_passed_over_and_the_horizon_stays(shared, server):
    leave(shared, 1, 2)
    with ExitStack() as stack:
        one = open_on(stack, server)
        assert shared.join(one).unbundle()

        assert not unbundle(shared)
        assert 0 == horizon(shared)
        one.commit()

    assert (2, orders(1, 2)) == (horizon(shared), keys(read_all(shared)))


@contextmanager
def between(engine, before, act):
    """`act` is done by somebody else right before the reader's statement that holds `before`."""
    done = []

    def watch(_connection, _cursor, statement, *_):
        if before in statement and not done:
            done.append(True)
            act()

    event.listen(engine, "before_cursor_execute", watch)
    yield
    event.remove(engine, "before_cursor_execute", watch)
    assert done


STEPS = {
    "the last position": "last_value",
    "the locks": "pg_locks",
    "the bundles": "min(first)",
    "the rows": "FROM earnorm_log",
}


def seen(store):
    """What a reader that stands at the beginning is given, and where it stands then."""
    found = glance_at(store, Span(0, FAR, (), ROOM))
    return keys(found.entries), found.horizon


def read_on(store, got, stood):
    """The rest, from there: all that this reader will ever see."""
    unbundle(store)
    found = glance_at(store, Span(stood, FAR, (), ROOM))
    return got + keys(found.entries)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["a bundle is committed", "a bundle is unbundled"])
def test_whatever_is_committed_between_a_readers_statements_nothing_is_passed_over(shared, server, step, what):
    with ExitStack() as stack:
        one = open_on(stack, server)
        if what == "a bundle is committed":
            shared.join(one).append_bundled(many(1, 2))
        else:
            leave(shared, 1, 2)
            shared.join(one).unbundle()
        append(shared, "other")
        with between(server, STEPS[step], one.commit) if (step, what) != _NEVER_READS else ExitStack():
            got, stood = seen(shared)
        if one.in_transaction():
            one.commit()

    assert [*orders(1, 2), "other"] == read_on(shared, got, stood)


# With the horizon at 0 there is nothing to read.
_NEVER_READS = ("the rows", "a bundle is committed")


def test_a_reader_that_asks_for_bundles_before_the_locks_passes_over_some(shared, server, monkeypatch):
    """The wrong order: committed in between, a bundle is seen neither by its lock nor by its row."""

    def read(self, connection, clock):
        last = connection.exec_driver_sql(horizons._LAST).scalar_one()
        bundled = connection.exec_driver_sql(horizons._IN_FRONT).scalar_one()
        lowest = connection.exec_driver_sql(horizons._LOWEST).scalar_one()
        return self.between(last, lowest, bundled, clock)

    monkeypatch.setattr(horizons.Horizon, "read", read)
    with ExitStack() as stack:
        one = open_on(stack, server)
        shared.join(one).append_bundled(many(1, 2))
        append(shared, "other")
        with between(server, STEPS["the locks"], one.commit):
            got, stood = seen(shared)

    assert ["other"] == read_on(shared, got, stood)


def test_a_reader_that_does_not_stop_passes_over_some(shared, server, monkeypatch):
    monkeypatch.setattr(horizons, "_IN_FRONT", "SELECT NULL::bigint")
    leave(shared, 1, 2)
    append(shared, "other")
    got, stood = seen(SQLAlchemyStore(server))

    assert ["other"] == read_on(shared, got, stood)


def test_a_log_whose_sequence_is_behind_a_bundle_is_unsound(shared, server):
    leave(shared, 1, 2, 3)
    with server.begin() as connection:
        connection.execute(text("SELECT setval('earnorm_log_position_seq', 2)"))

    with pytest.raises(UnsoundLog) as raised:
        shared.require_sound()
    with server.begin() as connection:
        connection.execute(text(str(raised.value.repair)))
    shared.require_sound()


def test_a_role_that_may_only_append_appends_entries(shared, server):
    with server.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        role = f"{schema}_role"
        connection.execute(text(f"CREATE ROLE {role}"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        connection.execute(text(f"GRANT INSERT ON earnorm_log TO {role}"))
        connection.execute(text(f"GRANT USAGE ON SEQUENCE earnorm_log_position_seq TO {role}"))
    try:
        with server.begin() as connection:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            transaction = shared.join(connection)
            assert not transaction.append_bundled(many(1, 2))
            transaction.append([entry("alone")])
    finally:
        with server.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))

    assert ["alone"] == [each.name for each in read_all(shared)]


def test_a_horizon_without_bundles_costs_no_more_looks_once_it_is_known(shared, server):
    append(shared, "first")
    asked = []
    horizon_of = horizons.Horizon()
    with server.connect() as connection:
        event.listen(connection, "before_cursor_execute", lambda *given: asked.append(given[2]))
        for _ in range(2):
            horizon_of.read(connection, SystemClock())

    assert 4 == len(asked)
