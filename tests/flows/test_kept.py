"""What a log keeps: everything, or what a subscription hears, of whichever process that has its handler."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import String, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import (
    BaseModel,
    StringField,
    attach,
    connect,
    default_bus,
    emit,
    event_handler,
    post_save,
    post_save_async,
)
from earnorm.backends.sqlalchemy.attention import LOOK_AGAIN
from earnorm.backends.sqlalchemy.store import SQLAlchemyStore
from earnorm.clock import VirtualClock
from earnorm.errors import ConfigurationError
from earnorm.interest import Interests, interests_of
from earnorm.orm import connected
from earnorm.orm.database import Database
from earnorm.store import Registration
from tests.flows.stories import names

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def Base():
    class Base(DeclarativeBase):
        pass

    attach(Base)
    return Base


@pytest.fixture
def Note(Base):
    class Note(Base):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(String, default="")

    return Note


@pytest.fixture
def make(db, Note):
    Note.metadata.create_all(db.engine)

    def make(**values):
        with Session(db.engine, expire_on_commit=False) as session:
            session.add(note := Note(**values))
            session.commit()
        return note

    return make


@pytest.fixture
def change(db):
    def change(note, **values):
        with Session(db.engine, expire_on_commit=False) as session:
            session.add(note)
            for name, value in values.items():
                setattr(note, name, value)
            session.commit()

    return change


class Elsewhere:
    """Another process: it has handlers that this one does not know, and records what they hear."""

    def __init__(self, db):
        self.store = SQLAlchemyStore(db.engine)

    def subscribe(self, name, *patterns):
        with self.store.begin() as transaction:
            transaction.subscribe([Registration(name=name)])
            transaction.hear({name: patterns})


@pytest.fixture
def elsewhere(db):
    return Elsewhere(db)


# --- whose handlers count -------------------------------------------------------------------


def test_nothing_is_kept_of_a_model_nobody_hears(db, make):
    make()

    assert [] == names(db)


def test_a_handler_of_this_process_counts(db, make, change):
    event_handler("note.updated", name="updated")(lambda note: None)
    note = make()
    change(note, text="x")

    assert ["note.updated"] == names(db)


def test_a_handler_inside_the_transaction_needs_no_log(db, make):
    seen = []
    event_handler("note.created", name="now", delivery="transaction")(lambda note, event: seen.append(event.name))
    make()

    assert (["note.created"], []) == (seen, names(db))


def test_a_handler_that_comes_later_counts_from_then_on(db, make):
    make()
    event_handler("note.created", name="created")(lambda note: None)
    make()

    assert ["note.created"] == names(db)


@pytest.mark.parametrize(
    "pattern,kept",
    [
        ("note.created", ["note.created"]),
        ("note.saved", ["note.created", "note.updated"]),
        ("note.text.changed", ["note.updated"]),
        ("note.other.changed", []),
        ("note.*", ["note.created", "note.updated", "note.read"]),
        ("**", ["note.created", "note.updated", "note.read"]),
        ("note.read", ["note.read"]),
        ("other.*", []),
    ],
)
def test_a_handler_of_another_process_counts(db, make, change, elsewhere, pattern, kept):
    elsewhere.subscribe("theirs", pattern)
    event_handler("something.else", name="ours")(lambda event: None)
    db.ready()  # what is recorded anew is looked at anew
    note = make()
    change(note, text="x")
    emit("note.read", note)

    assert kept == names(db)


def test_an_exclusion_of_another_process_counts(db, make, change, elsewhere):
    elsewhere.subscribe("theirs", "note.*", "!note.updated")
    event_handler("something.else", name="ours")(lambda event: None)
    db.ready()
    change(make(), text="x")

    assert ["note.created"] == names(db)


def test_a_process_looks_again_after_a_while(url, Note, monkeypatch):
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    db = Database(url, worker=False, clock=clock)
    connected.BY_NAME["default"] = db
    default_bus.forget_plans()
    Note.metadata.create_all(db.engine)

    def save():
        with Session(db.engine) as session:
            session.add(Note())
            session.commit()

    with db:
        save()
        Elsewhere(db).subscribe("theirs", "note.created")
        save()
        before = names(db)
        clock.advance(LOOK_AGAIN)
        save()

        assert ([], ["note.created"]) == (before, names(db))


def test_a_look_costs_one_query_and_passing_over_none(url, Note):
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    db = Database(url, worker=False, clock=clock)
    connected.BY_NAME["default"] = db
    default_bus.forget_plans()
    Note.metadata.create_all(db.engine)
    statements = []

    def save():
        statements.clear()
        with Session(db.engine) as session:
            session.add(Note())
            session.commit()
        return [statement.split()[0] for statement in statements if "earnorm" in statement]

    with db:
        event.listen(db.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        save()

        assert [] == save()
        clock.advance(LOOK_AGAIN)
        assert ["SELECT"] == save()
        assert [] == save()


WORKER = """
import sys
from earnorm import connect, event_handler

@event_handler("note.created", name="theirs")
def theirs(note, event):
    print(event.key, event.payload["text"])

with connect(sys.argv[1], worker=False) as db:
    print(db.drain())
"""


def run_worker(url):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "error", "-c", WORKER, url]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (0, "") == (ended.returncode, ended.stderr)
    return ended.stdout.splitlines()


def test_a_worker_in_a_process_of_its_own_gets_what_it_hears(url, Note):
    """The web process has the model and no handler, the worker the handler and no model."""
    nothing = run_worker(url)
    with connect(url, worker=False) as db:
        Note.metadata.create_all(db.engine)
        with Session(db.engine) as session:
            session.add(Note(text="hello"))
            session.commit()

        assert ["note.created"] == names(db)
    assert ["{'done': 0, 'retry': 0, 'dead': 0, 'skipped': 0}"] == nothing
    assert ["note:1 hello", "{'done': 1, 'retry': 0, 'dead': 0, 'skipped': 0}"] == run_worker(url)


# --- what is said where ---------------------------------------------------------------------


def test_a_database_may_keep_what_is_subscribed_to_of_our_own_models(url):
    class User(BaseModel):
        name = StringField()

    class Visit(BaseModel):
        where = StringField()

    event_handler("user.*", name="users")(lambda user, event: None)
    with connect(url, worker=False, log="subscribed") as db:
        user = User(name="Ada").save()
        Visit(where="here").save()
        user.emit("seen")
        emit("system.started")

        assert ["user.created", "user.seen"] == names(db)


def test_what_a_model_says_goes_before_what_its_database_says(url):
    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)

    attach(Base, log="all")
    with connect(url, worker=False, log="subscribed") as db:
        Base.metadata.create_all(db.engine)
        with Session(db.engine) as session:
            session.add(Note())
            session.commit()

        assert ["note.created"] == names(db)


def test_hooks_inside_the_transaction_run_whatever_is_kept(url):
    seen = []

    class User(BaseModel):
        name = StringField()

        @post_save
        def note(self, event):
            seen.append(event.name)

    with connect(url, worker=False, log="subscribed") as db:
        User(name="Ada").save()

        assert (["user.created"], []) == (seen, names(db))


def test_connect_knows_two_words(url):
    with pytest.raises(ConfigurationError, match="expected 'all' or 'subscribed'"):
        connect(url, log="none")


def test_a_capture_sees_what_is_not_kept(db, make):
    with default_bus.capture("note.*") as events:
        make()

    assert (["note.created"], []) == ([event.name for event in events], names(db))


# --- interests ------------------------------------------------------------------------------


def test_what_a_handler_hears_is_written_down(db, Base):
    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = mapped_column(default="")

        @post_save_async(name="own")
        async def own(self): ...

    class Special(Order):
        pass

    event_handler("order.status_change", "order.paid", name="named")(lambda order: None)
    event_handler("a.*", "!a.b", name="some")(lambda event: None)
    event_handler(Order, name="classed")(lambda order: None)

    assert {
        "own": {"order.created", "order.updated", "special.created", "special.updated"},
        "named": {"order.status.changed", "order.paid"},
        "some": {"a.*", "!a.b"},
        "classed": {"order.*", "special.*"},
    } == interests_of(default_bus.registry)


def test_what_a_handler_hears_by_now_replaces_what_it_heard_before(db):
    elsewhere = Elsewhere(db)
    elsewhere.subscribe("theirs", "a.b", "a.c")
    elsewhere.subscribe("theirs", "a.c", "a.d")
    with elsewhere.store.begin() as transaction:
        assert {"theirs": {"a.c", "a.d"}} == transaction.interests()


def test_nobody_hears_anything_of_nothing():
    assert not Interests({}).hears("a.b", "a", ["x"])
