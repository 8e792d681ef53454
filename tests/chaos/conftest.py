"""How long chaos lasts, where it happens, and the table at its end."""

import os
import time
from dataclasses import dataclass
from random import Random

import pytest

from tests import postgresql as postgres
from tests.chaos.ledger import Ledger, Report, p95, recoveries, table, verify_ledger
from tests.chaos.nursery import Nursery

FULL = os.environ.get("EARNORM_CHAOS") == "full"
REPORTS = pytest.StashKey[list[Report]]()


@dataclass(frozen=True)
class Scale:
    """How much of it: a few seconds in every run of the suite, minutes with EARNORM_CHAOS=full.

    A transaction holds four or five events; `writers` are processes of four threads each.
    """

    producer_kills: int
    worker_kills: int
    transactions: int
    writers: int
    written: int
    records: int
    stops: int
    restarts: int
    ended: int
    away: float
    malformed: int


SHORT = Scale(
    producer_kills=10,
    worker_kills=8,
    transactions=60,
    writers=2,
    written=12,
    records=5,
    stops=2,
    restarts=1,
    ended=8,
    away=1.5,
    malformed=400,
)
LONG = Scale(
    producer_kills=200,
    worker_kills=60,
    transactions=2_500,
    writers=4,
    written=450,
    records=100,
    stops=100,
    restarts=10,
    ended=200,
    away=30.0,
    malformed=10_000,
)


def pytest_collection_modifyitems(items):
    for item in items:
        if FULL and "chaos" in item.path.parts:
            item.add_marker(pytest.mark.timeout(1_800))


def pytest_configure(config):
    config.stash[REPORTS] = []


def pytest_terminal_summary(terminalreporter, config):
    reports = config.stash.get(REPORTS, [])
    if reports and "EARNORM_CHAOS" in os.environ:
        terminalreporter.section("chaos")
        for line in table(reports):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def scale():
    return LONG if FULL else SHORT


class Scene:
    """One database, one ledger, one seed, and the children that meet there."""

    def __init__(self, nursery, folder, backend, url, seed, reports):
        self.nursery = nursery
        self.seed = seed
        self.chance = Random(seed)
        self.kills = 0
        self.moments = []
        self.backend = backend
        self.url = url
        self.ledger = Ledger(folder / "ledger.txt")
        self._reports = reports
        self._began = time.perf_counter()

    def prepare(self, counters=3):
        self.play("prepare", counters=counters)

    def start(self, part, **arguments):
        common = {} if part == "prepare" else {"ledger": str(self.ledger.path)}
        return self.nursery.start(part, url=self.url, **common, **arguments)

    def play(self, part, **arguments):
        """A part from its beginning to its own end."""
        assert 0 == self.nursery.wait(self.start(part, **arguments)), (part, arguments, self.seed)

    def kill(self, pid, *, within):
        """Kill the child after some of its next steps; False if it was done by then."""
        alive = self.nursery.watch(pid, self.chance.randint(1, within))
        at = time.monotonic()
        killed = self.nursery.kill(pid) == -9
        self.kills += killed
        if killed:
            self.moments.append(at)
        return alive and killed

    def verify(self, run, *, delivered=True, letters=0):
        """`letters` is how many dead letters there should be."""
        verdict = verify_ledger(self.url, self.ledger, delivered=delivered)
        assert letters == sum(state == "dead" for _, state, _ in verdict.letters)
        self._reports.append(
            Report(
                self.backend,
                run,
                verdict.events,
                self.kills,
                time.perf_counter() - self._began,
                len(verdict.lost) + len(verdict.torn) + len(verdict.forgotten),
                len(verdict.doubled),
                verdict.duplicates,
                p95(recoveries(self.ledger, self.moments)),
                str(self.seed),
            )
        )
        assert {} == verdict.faults, f"EARNORM_SEED={self.seed}"
        return verdict


@pytest.fixture
def reported(request):
    """Adds a line to the table: of a test without a ledger, which counts for itself."""
    began = time.perf_counter()

    def add(backend, run, *, events, lost, duplicates, seed="-"):
        seconds = time.perf_counter() - began
        report = Report(backend, run, events, 0, seconds, lost, 0, duplicates, None, str(seed))
        request.config.stash[REPORTS].append(report)

    return add


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request, tmp_path):
    """The kind of database, and its URL."""
    if request.param == "SQLite":
        # Many write at once, on a machine that is busy.
        yield "SQLite", f"sqlite:///{tmp_path}/chaos.db?busy_timeout=60000"
    else:
        # A database of its own, so that its backends are known by it.
        with postgres.database() as url:
            yield "PostgreSQL", url.render_as_string(hide_password=False)


@pytest.fixture
def scene(nursery, tmp_path, place, request):
    seed = int(os.environ.get("EARNORM_SEED") or Random().randrange(1_000_000))
    scene = Scene(nursery, tmp_path, *place, seed, request.config.stash[REPORTS])
    yield scene
    scene.ledger.close()
