"""The pytest plugin and its helpers: failures nobody expected fail a test, and what a test defines ends with it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from earnorm import BaseModel, StringField, connect, default_bus, emit, event_handler, telemetry
from earnorm.errors import AlreadyConnected, NotConnected
from earnorm.testing import expect_failures, isolated

SOURCE = Path(__file__).parent.parent / "src"


def run(folder, source, *options):
    """A test file of somebody's, in a process of its own."""
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "pytest_earnorm",
        "-p",
        "no:randomly",
        "-p",
        "no:anyio",
        "-p",
        "no:cacheprovider",
    ]
    # This tree's plugin, whatever was copied when the package was installed.
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run([*command, *options, "."], cwd=folder, capture_output=True, text=True, check=False, env=env)


HANDLER = """
    import pytest
    from earnorm import emit, event_handler
    from earnorm.testing import expect_failures

    @event_handler("a.b")
    def broken(event):
        raise ValueError("out of paper")
"""


def test_a_failure_after_the_commit_fails_the_test_that_caused_it(tmp_path):
    told = run(
        tmp_path,
        HANDLER
        + """
    def test_it():
        emit("a.b")

    def test_the_next_one():
        pass
    """,
    )

    assert "1 failed, 1 passed" in told.stdout
    assert "out of paper" in told.stdout
    assert "expect_failures" in told.stdout


def test_a_failure_in_a_fixtures_end_is_found_as_well(tmp_path):
    told = run(
        tmp_path,
        HANDLER
        + """
    @pytest.fixture
    def late():
        yield
        emit("a.b")

    def test_it(late):
        pass
    """,
    )

    assert "1 passed, 1 error" in told.stdout


def test_an_expected_failure_fails_nothing(tmp_path):
    told = run(
        tmp_path,
        HANDLER
        + """
    def test_it():
        with expect_failures() as failures:
            emit("a.b")
        assert ["out of paper"] == [str(failure.error) for failure in failures]

    @pytest.mark.expect_failures
    def test_marked():
        emit("a.b")
    """,
        "--strict-markers",
    )

    assert "2 passed" in told.stdout


def test_a_test_run_without_earnorm_does_not_load_it(tmp_path):
    told = run(
        tmp_path,
        """
    import sys

    def test_it():
        assert not [name for name in sys.modules if name.partition(".")[0] in ("earnorm", "sqlalchemy")]
    """,
        "-Werror",
        "-pno:asyncio",
    )

    assert "1 passed" in told.stdout


def test_expected_failures_may_be_nested():
    @event_handler("a.b")
    def broken(event):
        raise ValueError("no")

    with expect_failures() as outer:
        emit("a.b")
        with expect_failures() as inner:
            emit("a.b")
            emit("a.b")

    assert (1, 2) == (len(outer), len(inner))


# --- isolation ---


def test_what_a_test_defines_is_gone_when_it_ends(tmp_path):
    records = []
    for word in ("one", "two"):
        with isolated():

            class Note(BaseModel):
                text = StringField()

            @event_handler("note.*", name="hears")
            def hears(note):
                records.append(note.text)

            telemetry.listen(records.append, telemetry.Appended)
            db = connect(f"sqlite:///{tmp_path}/{word}.db", worker=False)
            Note(text=word).save()
            db.drain()
            records[:] = [record for record in records if isinstance(record, str)]

    assert ["one", "two"] == records
    assert [] == default_bus.handlers()
    assert "notes" not in BaseModel.metadata.tables
    assert not telemetry.wanted(telemetry.Appended)


def test_what_was_there_before_works_inside_and_afterwards():
    seen = []

    class Note(BaseModel):
        text = StringField()

    @event_handler("a.*")
    def hears(event):
        seen.append(event.name)

    with isolated():
        default_bus.on("a.b")(hears)
        emit("a.b")
    emit("a.b")
    emit("a.c")

    assert ["a.b", "a.b", "a.c"] == seen
    assert [["a.*"]] == [handler.events for handler in default_bus.handlers()]


def test_a_connected_database_is_set_aside_and_comes_back(tmp_path):
    class Note(BaseModel):
        text = StringField()

    with connect(f"sqlite:///{tmp_path}/outer.db", worker=False):
        with isolated():
            with pytest.raises(NotConnected):
                Note(text="one").save()
            connect(f"sqlite:///{tmp_path}/inner.db", worker=False)
            Note(text="two").save()

        with pytest.raises(AlreadyConnected):
            connect(f"sqlite:///{tmp_path}/third.db")
        assert [] == Note.find()
