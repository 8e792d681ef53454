"""Thousands of events of one bulk write: left by the commit as they are, and entries of the log once it is worked."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from enum import Enum

import pytest
from sqlalchemy import delete, func, insert, select, text, update

import earnorm
from earnorm import BaseModel, DateTimeField, EnumField, IntegerField, StringField, telemetry
from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.dialects import MANY
from earnorm.clock import SystemClock
from earnorm.errors import EntriesPending
from earnorm.telemetry import Appended
from tests.flows.stories import execute, log

ROWS = [{"name": f"n{number}"} for number in range(MANY)]


@pytest.fixture
def User():
    class User(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        visits = IntegerField(default=0)
        token = StringField(default="s3cret", sensitive=True)
        seen_at = DateTimeField(required=False)

    return User


def count(db, table):
    with db.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def kept(db):
    """How many bundles there are, and how many entries."""
    return count(db, tables.bundle), count(db, tables.log)


def test_a_commit_leaves_thousands_in_a_bundle_and_a_drain_delivers_each(db, User):
    heard = []

    @earnorm.event_handler("user.created", name="hear")
    def hear(event):
        heard.append((event.key, event.payload["name"]))

    execute(db, (insert(User), ROWS))
    assert (1, 0) == kept(db)

    assert MANY == db.drain(60)["done"]

    assert (0, MANY) == kept(db)
    assert {(f"user:{number + 1}", f"n{number}") for number in range(MANY)} == set(heard)
    assert MANY == len(heard)


async def test_an_async_session_s_commit_leaves_them_in_a_bundle_as_well(db, User):
    earnorm.event_handler("user.created", name="hear")(lambda event: None)
    async with db.asession() as session:
        await session.execute(insert(User), ROWS)
        await session.commit()

    assert (1, 0) == kept(db)
    assert MANY == (await db.adrain(60))["done"]


def test_fewer_are_entries_at_once(db, User):
    execute(db, (insert(User), ROWS[:-1]))

    assert (0, MANY - 1) == kept(db)


def test_updates_and_deletions_are_told_with_what_was_before(db, User):
    execute(db, (insert(User), ROWS))
    execute(db, (update(User).values(visits=User.id, token="other!"),))

    execute(db, (update(User).values(visits=User.visits + 1),))
    execute(db, (delete(User),))
    found = log(db)

    assert {"user.created": MANY, "user.updated": 2 * MANY, "user.deleted": MANY} == {
        name: [each.name for each in found].count(name) for name in ("user.created", "user.updated", "user.deleted")
    }
    first, second = (each for each in found if each.name == "user.updated" and each.key == "user:7")
    assert ({"visits": (0, 7)}, {"visits": (7, 8)}) == tuple(
        {name: tuple(change) for name, change in each.changes.items() if name != "token"} for each in (first, second)
    )
    assert b"s3cret" not in raw(db)


def raw(db):
    with db.engine.connect() as connection:
        parts = [*connection.scalars(select(tables.log.c.data)), *connection.scalars(select(tables.bundle.c.content))]
    return b"".join(bytes(part) for part in parts)


def test_a_bundle_holds_nothing_sensitive(db, User):
    execute(db, (insert(User), ROWS))

    assert (1, 0) == kept(db)
    assert b"s3cret" not in raw(db)


def test_what_a_savepoint_took_back_is_in_no_bundle(db, User):
    with db.session() as session:
        session.execute(insert(User), ROWS)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.execute(insert(User), ROWS)
            raise ZeroDivisionError
        session.commit()

    assert 1 == kept(db)[0]
    assert MANY == len(log(db))


def test_what_was_rolled_back_leaves_no_bundle(db, User):
    with db.session() as session:
        session.execute(insert(User), ROWS)
        session.rollback()

    assert (0, 0) == kept(db)


def test_records_written_twice_are_composed_and_each_told_once(db, User):
    with db.session() as session:
        session.execute(insert(User), ROWS)
        session.execute(update(User).values(visits=3))
        session.commit()
    found = log(db)

    assert [("user.created", 3)] * MANY == [(each.name, each.payload["visits"]) for each in found]


def test_who_listens_is_told_the_ids_that_the_log_has(db, User):
    told = []
    undo = telemetry.listen(lambda record: told.append(record.event.id), Appended)
    execute(db, (insert(User), ROWS))
    undo()

    assert [each.id for each in log(db)] == told


def test_events_before_and_after_stand_before_and_after(db, User):
    User(name="first").save()
    with db.session() as session:
        session.execute(insert(User), ROWS)
        session.add(User(name="amid"))
        session.commit()
    User(name="last").save()
    found = [each.payload["name"] for each in log(db)]

    assert ["first", "n0", f"n{MANY - 1}", "amid", "last"] == [found[0], found[1], *found[-3:]]


def test_an_audit_sees_what_is_still_in_a_bundle(db, User):
    execute(db, (insert(User), ROWS))
    audit = db.audit(User)

    assert ([], 0, MANY) == (list(audit), audit.unlogged, audit.rows)


def test_an_audit_waits_for_a_bundle_that_came_meanwhile(db, User):
    execute(db, (insert(User), ROWS))
    audit, taken = db.audit(User), []
    take_all = audit._bundles.take_all

    def take_all_and_write():
        take_all()
        if not taken:
            taken.append(True)
            execute(db, (insert(User), ROWS))

    audit._bundles.take_all = take_all_and_write

    assert ([], 0, 2 * MANY) == (list(audit), audit.unlogged, audit.rows)


class Waits(SystemClock):
    """Waits no time, and does something meanwhile."""

    def __init__(self, meanwhile):
        self.pauses, self.meanwhile = [], meanwhile

    def wait(self, event, seconds):
        self.pauses.append(seconds)
        self.meanwhile(len(self.pauses))
        return False


@contextmanager
def taken_by_another(db):
    """As while another process makes entries of the bundle."""
    with db.engine.connect() as connection:
        connection.execute(select(tables.bundle).with_for_update())
        yield connection


def test_an_audit_pauses_while_another_process_is_at_a_bundle(kind, db, User):
    """It looked again at once, for ever."""
    if kind == "sqlite":
        pytest.skip("SQLite has one writer, who is waited for")
    execute(db, (insert(User), ROWS))
    with taken_by_another(db) as other:
        clock = db.store._clock = Waits(lambda count: other.rollback() if count == 6 else None)

        assert [] == list(db.audit(User))

    assert [0.05, 0.1, 0.2, 0.4, 0.8, 1.0] == clock.pauses


def test_an_audit_gives_up_on_a_bundle_that_stays_with_another_process(kind, db, User):
    if kind == "sqlite":
        pytest.skip("SQLite has one writer, who is waited for")
    execute(db, (insert(User), ROWS))
    with taken_by_another(db):
        clock = db.store._clock = Waits(lambda count: None)

        with pytest.raises(EntriesPending, match="an audit of User needs the whole log, and for 60 s"):
            list(db.audit(User))

    assert 59 < sum(clock.pauses) < 61


def test_a_handler_that_is_new_is_not_given_what_was_left_before_it(db, User):
    execute(db, (insert(User), ROWS))
    heard = []

    @earnorm.event_handler("user.created", name="late")
    def late(event):
        heard.append(event.payload["name"])

    User(name="after").save()
    db.drain(60)

    assert ["after"] == heard


def test_an_operator_is_told_that_nobody_takes_them_in(db, User):
    execute(db, (insert(User), ROWS))
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE earnorm_bundle SET at = at - 60000000"))

    (problem,) = db.operations.status().problems

    assert "events of a bulk write have waited for 60 s" in problem


def test_old_events_are_pruned_though_nobody_took_them_in(db, User):
    execute(db, (insert(User), ROWS))
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE earnorm_bundle SET at = at - 86400000000"))

    assert MANY == db.operations.prune("1h")
    assert (0, 0) == kept(db)


def test_the_log_of_a_model_whose_rows_are_captured_has_each_once(db, User):
    db.ready()
    db.captures.install(User)
    execute(db, (insert(User), ROWS))

    assert 0 == kept(db)[0]
    assert MANY == len(log(db))
    db.drain(60)
    assert MANY == len(log(db))


class Color(Enum):
    RED = "red"


def test_a_value_that_might_come_back_as_another_has_entries_made_at_once(db):
    class Car(BaseModel):
        id = IntegerField(primary_key=True)
        color = EnumField(Color)

    execute(db, (insert(Car), [{"color": Color.RED}] * MANY))

    assert (0, MANY) == kept(db)


CHILD = """
import os, signal, sys
from sqlalchemy import create_engine, event
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore

engine = create_engine(sys.argv[1])

def die(_connection, _cursor, statement, *_):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(engine, "after_cursor_execute", die)
with SQLAlchemyStore(engine).begin() as transaction:
    transaction.unbundle()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("step", ["DELETE FROM earnorm_bundle", "INSERT INTO earnorm_log", "before the commit"])
def test_a_worker_that_is_killed_amid_it_loses_nothing_and_doubles_nothing(db, User, step):
    execute(db, (insert(User), ROWS))
    url = db.engine.url.render_as_string(hide_password=False)
    told = [sys.executable, "-c", CHILD, url, step]
    assert -signal.SIGKILL == subprocess.run(told, env=os.environ, check=False, timeout=60).returncode
    assert (1, 0) == kept(db)

    found = [each.key for each in log(db)]

    assert [f"user:{number + 1}" for number in range(MANY)] == found
