"""Where the flows happen: a database with no worker of its own, so that nothing runs by itself.

Those that are about the database run on each; the others on a SQLite file alone.
"""

import threading
from contextlib import ExitStack

import pytest
from sqlalchemy import event

import earnorm.worker
from earnorm import connect, event_handler
from earnorm.backends.sqlalchemy import hooks
from tests import postgresql as postgres
from tests.flows.stories import Look, Memory
from tests.flows.waking import until

ON_EACH = {
    "test_attach",
    "test_audit",
    "test_boundary",
    "test_bulk",
    "test_bundles",
    "test_captures",
    "test_composition",
    "test_deleted",
    "test_demands",
    "test_durable_delivery",
    "test_emitted_by_handlers",
    "test_followers",
    "test_handles",
    "test_in_place",
    "test_inherited_tables",
    "test_kept",
    "test_kept_alone",
    "test_large_payloads",
    "test_later",
    "test_models",
    "test_multitude",
    "test_once",
    "test_other_listeners",
    "test_outcomes",
    "test_ownership",
    "test_partly_loaded",
    "test_phases",
    "test_salvage",
    "test_several_databases",
    "test_tenants",
    "test_strange_keys",
    "test_strays",
    "test_subscriptions",
    "test_taken",
    "test_transactional",
    "test_trash",
    "test_unattached",
    "test_vanished",
    "test_wakeup",
    "test_write_paths",
}

# Those where the async half has a driver of its own to get wrong.
BY_ASYNCPG_TOO = {"test_bundles", "test_tenants", "test_transactional"}


def pytest_generate_tests(metafunc):
    module = metafunc.module.__name__.rpartition(".")[2]
    if "kind" in metafunc.fixturenames and module in ON_EACH:
        kinds = ["sqlite", "postgresql", *(["asyncpg"] if module in BY_ASYNCPG_TOO else [])]
        metafunc.parametrize("kind", kinds, indirect=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.db"


@pytest.fixture
def kind(request):
    kind = getattr(request, "param", "sqlite")
    if kind == "asyncpg":
        pytest.importorskip("asyncpg")
    return kind


def _by(kind, url):
    url = url.set(drivername="postgresql+asyncpg") if kind == "asyncpg" else url
    return url.render_as_string(hide_password=False)


@pytest.fixture
def new_url(kind, tmp_path):
    """Makes databases, by their URLs; on PostgreSQL each is a schema."""
    with ExitStack() as stack:

        def make(name="flow"):
            if kind == "sqlite":
                return f"sqlite:///{tmp_path}/{name}.db"
            return _by(kind, stack.enter_context(postgres.schema()))

        yield make


@pytest.fixture
def url(new_url):
    return new_url()


@pytest.fixture
def second_url(kind, new_url):
    """Another database of the same kind, on PostgreSQL not only another schema."""
    if kind == "sqlite":
        yield new_url("second")
    else:
        with postgres.database() as second:
            yield _by(kind, second)


@pytest.fixture
def add_schema(kind, tmp_path):
    """Makes a further schema in a database, and gives its name. On SQLite each connection attaches a file as such."""
    with ExitStack() as stack:

        def add(db, name):
            if kind != "sqlite":
                made = stack.enter_context(postgres.schema())
                return made.query["options"].removeprefix("-csearch_path=")
            statement = f"ATTACH DATABASE '{tmp_path}/{name}.db' AS {name}"
            for engine in (db.engine, db.async_engine.sync_engine):
                event.listen(engine, "connect", lambda connection, _: connection.execute(statement))
                engine.dispose()
            return name

        yield add


@pytest.fixture
def db(url):
    with connect(url, worker=False) as db:
        yield db


@pytest.fixture
def memory(url):
    memory = Memory(url)
    yield memory
    memory.close()


@pytest.fixture
def look(url):
    look = Look(url)
    yield look
    look.close()


# --- the short way ---


@pytest.fixture
def at_length(monkeypatch):
    """The flushes that did not go the short way."""
    counted, before = [], hooks.before_flush

    def count(*args):
        counted.append(args)
        before(*args)

    monkeypatch.setattr(hooks, "before_flush", count)
    return counted


# --- waking ---


@pytest.fixture
def long_rests(monkeypatch):
    """No look of a worker's own finds anything within the time of a test; a wake-up does."""
    monkeypatch.setattr(earnorm.worker, "_SOON", 1_000.0)
    monkeypatch.setattr(earnorm.worker, "_IDLE", 1_000.0)


@pytest.fixture
def rang():
    """Set when the handler ran."""
    rang = threading.Event()

    @event_handler("door.rang", name="answer")
    def answer(event):
        rang.set()

    return rang


@pytest.fixture
def resting(url, rang, long_rests):
    """A database with a worker that rests, and would be woken."""
    with connect(url, worker=True) as db:
        until(lambda: db.wakeup.longest > 10)
        until(lambda: not db.worker._turns.contending and not db.worker._wakeup.is_set())
        yield db


@pytest.fixture
def another(url, resting):
    """The same database as another process has it."""
    with connect(url, name="another", worker=False) as another:
        yield another
