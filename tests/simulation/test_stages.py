"""The stages of stories are stages too: the suite, where nothing goes wrong by itself."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.testing._store_verbs import entry, read_all
from earnorm.testing.stage_suite import StageSuite
from tests.simulation.faults import Record, Verbs
from tests.simulation.stages import Stages

CALM = SimpleNamespace(
    faults=SimpleNamespace(within=lambda _line: None),
    kernel=SimpleNamespace(now=0.0, asking=lambda _verb: nullcontext()),
)


class Line:
    """The store as it is, for the verbs of a story."""

    world = CALM

    def __init__(self, store) -> None:
        self.store = store

    @contextmanager
    def begin(self):
        with self.store.begin() as transaction:
            yield Verbs(self, transaction, Record(None))


class TestStagesOfStories(StageSuite):
    doors = ("perform",)

    @pytest.fixture
    def store(self):
        return MemoryStore()

    @pytest.fixture
    def stages(self, store):
        return Stages(Line(store))

    @pytest.fixture
    def write(self):
        return lambda stage, text: stage.session.append([entry(f"word.{text}")])

    @pytest.fixture
    def written(self, store):
        return lambda: [e.name.removeprefix("word.") for e in read_all(store) if e.name.startswith("word.")]
