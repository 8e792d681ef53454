"""Where the flows happen: a database on a file, with no worker of its own, so that nothing runs by itself."""

import pytest

from earnorm import connect
from tests.flows.stories import Look, Memory


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.db"


@pytest.fixture
def db(path):
    with connect(f"sqlite:///{path}", worker=False) as db:
        yield db


@pytest.fixture
def memory(path):
    memory = Memory(path)
    yield memory
    memory.close()


@pytest.fixture
def look(path):
    return Look(path)
