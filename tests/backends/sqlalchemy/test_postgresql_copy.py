"""Thousands of entries on PostgreSQL: they go by COPY, and are what an INSERT makes of them."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from earnorm import aemit, connect
from earnorm._uuid7 import uuid7s
from earnorm.backends.sqlalchemy.dialects import MANY, postgresql_copy
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.migrations import upgrade
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.event import Entries
from tests import postgresql

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
COUNT = 2 * MANY + 1
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND pid = pg_backend_pid()"


@pytest.fixture
def engine():
    with postgresql.schema() as url:
        engine = postgresql_engine(url)
        with engine.begin() as connection:
            upgrade(connection)
        yield engine
        engine.dispose()


@pytest.fixture
def store(engine):
    return SQLAlchemyStore(engine)


@pytest.fixture
def copied(monkeypatch):
    """The texts of the COPYs sent."""
    texts = []
    copy = postgresql_copy.copy

    def noting(connection, driver, text, lots):
        texts.append(text)
        copy(connection, driver, text, lots)

    monkeypatch.setattr(postgresql_copy, "copy", noting)
    return texts


def many(count=COUNT, **more):
    ids = uuid7s(count)
    keys = [f"user:ä{n}" for n in range(count)]
    data = [b'{"identity":[%d],"payload":{"name":"\xc3\xa4"}}' % n for n in range(count)]
    return Entries(ids=ids, keys=keys, data=data, name="user.told", subject="user", at=NOON, **more)


def read(store):
    with store.begin() as transaction:
        return transaction.read(0, 10 * COUNT, 10 * COUNT)


def plain(entries):
    return [(e.id, e.name, e.subject, e.key, bytes(e.data), e.at, e.correlation_id, e.tenant, e.due) for e in entries]


@pytest.mark.parametrize("more", [{}, {"tenant": "acme", "correlation_id": next(iter(many(1))).id}])
def test_a_multitude_of_thousands_is_copied_and_read_as_it_was(store, copied, more):
    entries = many(**more)
    with store.begin() as transaction:
        transaction.append_many(entries)

    assert 1 == len(copied)
    assert plain(entries) == plain(read(store))


def test_thousands_of_single_entries_are_copied_and_read_as_they_were(store, copied):
    entries = list(many())
    with store.begin() as transaction:
        transaction.append(entries)

    assert 1 == len(copied)
    assert plain(entries) == plain(read(store))


def test_fewer_are_inserted(store, copied):
    with store.begin() as transaction:
        transaction.append_many(many(MANY - 1))

    assert [] == copied


def test_who_listens_to_statements_is_told_of_the_insert(engine, store, copied):
    told = []
    event.listen(engine, "before_cursor_execute", lambda *heard: told.append(heard[2]))
    with store.begin() as transaction:
        transaction.append_many(many())

    assert [] == copied
    assert any("INSERT INTO earnorm_log" in statement for statement in told)


def test_the_triggers_of_the_log_hold_the_horizon_for_a_copy(store, copied):
    with store.begin() as transaction:
        transaction.append_many(many())
        held = transaction.connection.execute(text(HELD)).scalar()
        idle = transaction.connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()

    assert (1, 1, "30s") == (len(copied), held, idle)


def test_a_refused_copy_is_sqlalchemy_s_error_and_leaves_nothing(store, copied):
    entries = many()
    with store.begin() as transaction:
        transaction.append_many(entries)

    with pytest.raises(DBAPIError), store.begin() as transaction:
        transaction.append_many(entries)

    assert COUNT == len(read(store))
    assert 2 == len(copied)


async def test_an_async_transaction_copies_as_well(copied):
    with postgresql.database() as url:
        async with connect(url.render_as_string(hide_password=False), worker=False) as db:
            async with db.transaction():
                for number in range(MANY):
                    await aemit("tick.told", number=number)

            assert 1 == len(copied)
            assert MANY == len(read(db.store))


@pytest.fixture
def guarded(engine):
    """A role to whom policies on the log apply."""
    role = f"earnorm_{uuid4().hex}"
    with engine.begin() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar()
        for statement in (
            f"CREATE ROLE {role}",
            f'GRANT USAGE ON SCHEMA "{schema}" TO {role}',
            f'GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA "{schema}" TO {role}',
            f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO {role}',
            "ALTER TABLE earnorm_log ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY everything ON earnorm_log USING (true) WITH CHECK (true)",
        ):
            connection.execute(text(statement))
    yield role
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))


def test_where_policies_look_at_each_row_they_are_inserted(store, copied, guarded):
    entries = many()
    with store.begin() as transaction:
        transaction.connection.execute(text(f"SET LOCAL ROLE {guarded}"))
        transaction.append_many(entries)

    assert [] == copied
    assert plain(entries) == plain(read(store))
