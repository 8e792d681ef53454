"""Circles of before= and after= are found at the start, where some event would meet them."""

from dataclasses import dataclass

import pytest

from earnorm import BaseModel, StringField, connect, emit, event_handler, event_type, pre_save
from earnorm.errors import OrderCycle

seen = []


@pytest.fixture
def db():
    seen.clear()
    with connect("sqlite://", worker=False) as database:
        yield database


def on(event, **options):
    event_handler(event, delivery="after_commit", **options)(lambda event: seen.append(options["name"]))


@event_type("note.sealed")
@dataclass
class NoteSealed:
    by: str


@pytest.mark.parametrize(
    "first, second",
    [
        ("note.read", "note.read"),
        ("note.read", "note.*"),
        ("note.*", "**"),
        (NoteSealed, NoteSealed),
        (NoteSealed, "note.sealed"),
    ],
)
def test_a_circle_is_refused_before_its_first_event(db, first, second):
    """It was found by whoever emitted the first event of that name, hours after the start."""
    on(first, name="one", before="two")
    on(second, name="two", before="one")

    with pytest.raises(OrderCycle, match=r"one -> two -> one|two -> one -> two"):
        db.ready()


def test_a_circle_of_hooks_is_refused_before_the_first_record(db):
    class Note(BaseModel):
        text = StringField()

        @pre_save(before="Note.two")
        def one(self):
            pass

        @pre_save(before="Note.one")
        def two(self):
            pass

    with pytest.raises(OrderCycle):
        db.ready()


def test_a_circle_among_handlers_of_two_fields_is_refused(db):
    class Note(BaseModel):
        text = StringField()
        title = StringField()

    on("note.text_changed", name="one", before="two")
    on("note.title_changed", name="two", before="one")

    with pytest.raises(OrderCycle):
        db.ready()


def test_a_circle_through_events_that_no_two_share_is_none(db):
    on(["note.read", "note.lent"], name="one", before="two")
    on(["note.lent", "note.lost"], name="two", before="three")
    on(["note.lost", "note.read"], name="three", before="one")

    db.ready()
    for name in ("note.read", "note.lent", "note.lost"):
        emit(name)

    assert ["three", "one", "one", "two", "two", "three"] == seen


def test_a_circle_that_an_exclusion_opens_is_none(db):
    on("note.*", name="one", before="two")
    on(["**", "!note.**"], name="two", before="one")

    db.ready()
