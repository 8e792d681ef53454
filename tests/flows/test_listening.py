"""Listeners on every Session: there are none before something needs them, and then none comes too late."""

import subprocess
import sys
import threading

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from earnorm import BaseModel, IntegerField, StringField, connect, post_commit, post_save, pre_save
from earnorm.backends.sqlalchemy import boundary, flushing, opening
from tests.flows.stories import names

FLUSHING = flushing._LISTENERS
BOUNDARIES = {"after_begin": opening._after_begin, "after_transaction_end": boundary._after_transaction_end}


@pytest.fixture(autouse=True)
def unheard():
    """As in a process that has defined no model yet."""
    for name, listener in {**FLUSHING, **BOUNDARIES}.items():
        if event.contains(Session, name, listener):
            event.remove(Session, name, listener)
    yield
    for part in (flushing, opening, boundary):
        part.listen()


@pytest.fixture
def engine(path):
    engine = create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


def heard(*, listeners):
    return [name for name, listener in listeners.items() if event.contains(Session, name, listener)]


def hooked():
    """A model, and what its hooks have seen."""
    seen = []

    class Person(BaseModel):
        name = StringField()

        @pre_save
        def before(self):
            seen.append(f"pre {self.name}")

        @post_save
        def after(self):
            seen.append(f"post {self.name}")

    return Person, seen


_IMPORT = """
import earnorm, earnorm.testing
from sqlalchemy.orm import Session
dispatch = Session().dispatch
print([name for name in dispatch._event_names if getattr(dispatch, name)])
"""


def test_an_import_adds_no_listener():
    found = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)

    assert "[]" == found.stdout.strip()


def test_a_model_is_heard_of_by_its_flushes_alone():
    hooked()

    assert list(FLUSHING) == heard(listeners=FLUSHING)
    assert [] == heard(listeners=BOUNDARIES)


def test_a_database_is_heard_of_by_its_boundaries(path):
    with connect(f"sqlite:///{path}", worker=False):
        assert list(BOUNDARIES) == heard(listeners=BOUNDARIES)


@pytest.mark.parametrize("make", [Session, lambda engine: sessionmaker(engine)()])
def test_a_session_that_was_there_before_the_first_model_hears_its_hooks(engine, make):
    with make(engine) as session:
        session.connection()
        session.flush()
        Person, seen = hooked()
        Person.metadata.create_all(session.connection())
        session.add(Person(name="ada"))
        session.commit()

    assert ["pre ada", "post ada"] == seen


def test_a_session_that_was_there_before_the_first_database_tells_it_of_its_commit(path):
    Person, _ = hooked()
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as session, connect(engine, worker=False) as db:
        session.add(Person(name="ada"))
        session.commit()

        assert ["person.created"] == names(db)
    engine.dispose()


def test_what_follows_a_commit_follows_the_first_one_too(engine):
    """Without a database nobody listens to connections until something is kept for the commit."""
    seen = []

    class Person(BaseModel):
        name = StringField()

        @post_commit
        def tell(self):
            seen.append(self.name)

    Person.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Person(name="ada"))
        session.flush()
        assert [] == seen
        session.commit()

    assert ["ada"] == seen


class _Lock:
    """A lock that says when somebody waits for it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.awaited = threading.Event()

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self.awaited.set()
            self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


def test_of_two_threads_with_first_models_the_second_waits_until_all_is_heard(engine, monkeypatch):
    lock, listen, found, hooked_by = _Lock(), event.listen, {}, []

    class Hooked:
        @post_save
        def after(self):
            hooked_by.append(type(self).__name__)

    def define(name):
        model = type(name, (Hooked, BaseModel), {"id": IntegerField(primary_key=True)})
        found[model] = heard(listeners=FLUSHING)

    def slow(target, name, listener, **options):
        if name == "after_flush":
            second.start()
            assert lock.awaited.wait(10)
        listen(target, name, listener, **options)

    first, second = (threading.Thread(target=define, args=(name,)) for name in ("One", "Two"))
    monkeypatch.setattr(flushing, "_lock", lock)
    monkeypatch.setattr(event, "listen", slow)
    first.start()
    first.join()
    second.join()
    monkeypatch.undo()

    assert [list(FLUSHING), list(FLUSHING)] == list(found.values())
    BaseModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(model() for model in found)
        session.commit()
    assert ["One", "Two"] == sorted(hooked_by)


def test_an_engine_on_a_server_has_no_listener_of_ours_which_would_slow_down_each_statement(postgresql):
    with connect(postgresql, worker=False) as db:
        hooked()[0](name="Ada").save()
        assert ["person.created"] == names(db)

        assert not db.engine._has_events
        assert not db.async_engine.sync_engine._has_events
