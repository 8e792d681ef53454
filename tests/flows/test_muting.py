"""Muting: events that reach no handler and no log, on purpose, with a reason. Capturing: a look at what is emitted."""

import asyncio
import logging

import pytest

from earnorm import BaseModel, StringField, default_bus, emit, event_handler, on_event, post_commit, post_save, pre_save
from earnorm.errors import EventError, InvalidName, ValidationFailed
from tests.flows.stories import names

seen = []


@pytest.fixture
def Note(db):
    seen.clear()

    class Note(BaseModel):
        text = StringField(max_length=10)

        @pre_save
        def before(self):
            seen.append("pre")

        @post_save
        def after(self):
            seen.append("post")

        @post_commit
        def committed(self):
            seen.append("commit")

        @on_event("read")
        def on_read(self):
            seen.append("read")

    return Note


def test_a_muted_change_is_written_but_not_told(db, Note, look):
    with default_bus.muted("note.*", reason="an import"):
        Note(text="one").save()

    assert (1, []) == (look.rows("notes"), names(db))
    assert ["pre"] == seen


def test_a_muted_emit_reaches_nobody(db, Note):
    note = Note(text="one").save()
    seen.clear()

    with default_bus.muted("note.read", reason="a test"):
        assert note.emit("read").id

    assert ([], ["note.created"]) == (seen, names(db))


def test_an_emit_without_a_model_is_muted_as_well(db):
    @event_handler("system.*", name="hears")
    def hears(event):
        seen.append("heard")

    with default_bus.muted("system.started", reason="a test"):
        emit("system.started")
    emit("system.stopped")

    assert ["system.stopped"] == names(db)


def test_only_what_matches_is_muted(db, Note):
    with default_bus.muted("note.*", "!note.read", reason="a test"):
        Note(text="one").save().emit("read")

    assert ["note.read"] == names(db)


def test_validation_still_runs(Note):
    with default_bus.muted("**", reason="an import"), pytest.raises(ValidationFailed):
        Note(text="much too long for this").save()


def test_each_muted_event_is_told_with_its_reason(Note, caplog):
    with caplog.at_level(logging.INFO, "earnorm"), default_bus.muted("note.*", reason="the import of May"):
        Note(text="one").save()

    assert ["the import of May" in message for message in caplog.messages] == [True]


async def test_muting_holds_for_this_task_alone(db, Note):
    muted, done = asyncio.Event(), asyncio.Event()

    async def imports():
        with default_bus.muted("**", reason="an import"):
            muted.set()
            await done.wait()
            await Note(text="muted").asave()

    task = asyncio.create_task(imports())
    await muted.wait()
    await Note(text="told").asave()
    done.set()
    await task

    assert ["note.created"] == names(db)


def test_muting_may_be_nested(db, Note):
    with default_bus.muted("note.created", reason="outer"):
        with default_bus.muted("note.read", reason="inner"):
            note = Note(text="one").save()
            note.emit("read")
        note.emit("read")

    assert ["note.read"] == names(db)


@pytest.mark.parametrize("reason", ["", "  ", "\n"])
def test_muting_without_a_reason_is_refused(reason):
    with pytest.raises(EventError, match="say why"):
        with default_bus.muted("**", reason=reason):
            pass


@pytest.mark.parametrize("patterns", [(), ("!a.b",), ("a b",)])
def test_muting_nothing_in_particular_is_refused(patterns):
    with pytest.raises(InvalidName):
        with default_bus.muted(*patterns, reason="a test"):
            pass


def test_capture_sees_saves_and_emits_and_changes_nothing(db, Note):
    with default_bus.capture("note.*") as events:
        Note(text="one").save().emit("read")

    assert ["note.created", "note.read"] == [event.name for event in events] == names(db)
    assert ["pre", "post", "commit", "read"] == seen


def test_capture_sees_what_is_rolled_back_later(db, Note):
    with default_bus.capture() as events, pytest.raises(KeyError):
        with db.transaction():
            Note(text="one").save()
            raise KeyError

    assert (["note.created"], []) == ([event.name for event in events], names(db))


def test_capture_sees_nothing_of_what_is_muted(Note):
    with default_bus.capture() as events, default_bus.muted("**", reason="a test"):
        Note(text="one").save()

    assert [] == events
