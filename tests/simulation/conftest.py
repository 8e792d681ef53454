"""How many seeds: enough to notice in every run of the suite, thousands in CI, more with EARNORM_CHAOS=full."""

import os
from functools import partial

import pytest

from tests.simulation import grounds
from tests.simulation.savepoints import Savepoints
from tests.simulation.story import Story, tell

STEPS = 300
# By ground, since a statement to a server takes a hundred times as long as a look at a dict.
USUAL = {"memory": 300, "sqlite": 6, "postgresql": 4, "savepoints": 10}
IN_CI = {"memory": 2_000, "sqlite": 40, "postgresql": 40, "savepoints": 100}
LONG = {"memory": 20_000, "sqlite": 400, "postgresql": 400, "savepoints": 1_000}
A_TEST = {"memory": 50, "sqlite": 2, "postgresql": 2, "savepoints": 10}

FULL = os.environ.get("EARNORM_CHAOS") == "full"
# A lock that somebody else has is not waited for: whoever has it cannot go on before this statement ends.
_OPTIONS = " -c lock_timeout=1 -c synchronous_commit=off"


def seeds(kind):
    """Of the whole run; or the one that a failure named."""
    if "EARNORM_SIM_SEED" in os.environ:
        return [int(os.environ["EARNORM_SIM_SEED"])]
    return range((LONG if FULL else IN_CI if os.environ.get("CI") else USUAL)[kind])


def pytest_generate_tests(metafunc):
    if "some" not in metafunc.fixturenames:
        return
    cases = []
    for kind, size in A_TEST.items():
        found = list(seeds(kind))
        for start in range(0, len(found), size):
            part = found[start : start + size]
            cases.append(pytest.param(kind, part, id=f"{kind}-{part[0]}-{part[-1]}"))
    metafunc.parametrize("kind, some", cases)


@pytest.fixture
def play(kind, request, tmp_path_factory):
    """Plays the story of a seed on the kind of ground that the test is about."""
    if kind == "savepoints":
        return lambda seed, **_: Savepoints(seed, tmp_path_factory.mktemp("story")).tell(30)
    ground = request.getfixturevalue("ground")
    # A statement is a step of its own, and there are more of them to a batch.
    steps = STEPS if kind == "memory" else 2 * STEPS
    return lambda seed, **options: tell(Story(seed, ground), steps, **options)


@pytest.fixture
def ground(kind, tmp_path_factory, request):
    """Makes the ground for one story."""
    match kind:
        case "memory":
            return grounds.Memory
        case "sqlite":
            return lambda kernel: grounds.SQLite(kernel, tmp_path_factory.mktemp("story"))
        case _:
            url = request.getfixturevalue("postgresql")
            return partial(grounds.PostgreSQL, url=url + _quoted(_OPTIONS))


def _quoted(options):
    return options.replace(" ", "%20").replace("=", "%3D")
