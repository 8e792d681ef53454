"""What stands in the log when a transaction changes one record more than once."""

import pytest
from sqlalchemy.orm import Session

from earnorm import BaseModel, IntegerField, StringField, event_handler, on_event, post_commit, post_save
from tests.flows.stories import log, names, pairs

seen = []


@pytest.fixture
def Note(db):
    seen.clear()

    class Note(BaseModel):
        text = StringField()
        size = IntegerField(default=1)

        @post_save
        def saved(self):
            seen.append("saved")

        @post_commit
        def committed(self, event):
            seen.append(event.name)

        @on_event("read")
        def on_read(self):
            pass

    return Note


def change(note, **values):
    for name, value in values.items():
        setattr(note, name, value)
    return note.save()


def test_created_and_updated_is_created_with_the_final_values(db, Note):
    with db.transaction():
        note = Note(text="one").save()
        change(note, text="two")
        change(note, size=5)

    (event,) = log(db)
    assert ("note.created", "two", 5, {}) == (event.name, event.payload["text"], event.payload["size"], pairs(event))


def test_updated_twice_is_updated_from_the_first_old_to_the_last_new(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        change(note, text="two")
        change(note, size=5)
        change(note, text="three")

    assert {"text": ("one", "three"), "size": (1, 5)} == pairs(log(db)[1])


def test_updated_and_deleted_is_deleted_with_the_last_values(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        change(note, text="two")
        note.delete()

    assert ["note.created", "note.deleted"] == names(db)
    assert "two" == log(db)[1].payload["text"]


def test_created_and_deleted_is_nothing(db, Note):
    with db.transaction():
        Note(text="one").save().delete()

    assert [] == names(db)


def test_an_update_that_was_undone_is_nothing(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        change(note, text="two")
        change(note, text="one")

    assert ["note.created"] == names(db)


def test_deleted_and_created_again_is_what_became_different(db):
    class Box(BaseModel):
        id = IntegerField(primary_key=True)
        size = IntegerField()
        colour = StringField(default="red")

    box = Box(id=1, size=1).save()
    with db.transaction():
        change(box, colour="blue")
        box.delete()
        Box(id=1, size=2).save()

    assert ["box.created", "box.updated"] == names(db)
    assert {"size": (1, 2)} == pairs(log(db)[1])


def test_hooks_in_the_transaction_run_at_every_flush_and_after_it_once(db, Note):
    with db.transaction():
        note = Note(text="one").save()
        change(note, text="two")

    assert ["saved", "saved", "note.created"] == seen


def test_handlers_after_the_commit_hear_the_composed_event(db, Note):
    heard = []

    @event_handler("note.*", "note.text.changed", delivery="after_commit", name="hears")
    def hears(note, event):
        heard.append((event.name, pairs(event)))

    note = Note(text="one").save()
    heard.clear()
    with db.transaction():
        change(note, text="two")
        change(note, text="three")

    assert [("note.updated", {"text": ("one", "three")})] == heard


def test_durable_handlers_of_a_view_hear_only_what_is_left_of_it(db, Note):
    heard = []

    @Note.on("text_changed", name="text")
    def text_changed(note, old_text, new_text):
        heard.append((old_text, new_text))

    note = Note(text="one").save()
    with db.transaction():
        change(note, text="two", size=2)
        change(note, text="one")
    with db.transaction():
        change(note, text="two")
        change(note, text="three")
    db.drain()

    assert [("one", "three")] == heard


def test_custom_events_are_never_composed(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        note.emit("read")
        change(note, text="two")
        note.emit("read")
        change(note, text="three")
        note.emit("read")

    assert ["note.created", "note.read", "note.updated", "note.read", "note.read"] == names(db)


def test_a_creation_stands_at_its_first_flush_and_a_deletion_at_its_last(db, Note):
    old, other = Note(text="old").save(), Note(text="other").save()

    with db.transaction():
        note = Note(text="one").save()
        change(old, text="older")
        other.emit("read")
        change(note, text="two")
        old.delete()

    assert ["note.created", "note.read", "note.deleted"] == names(db)[2:]
    assert ["two", None, "older"] == [event.payload.get("text") for event in log(db)[2:]]


def test_two_objects_of_one_row_are_one_record(db, Note):
    first = Note(text="one").save()
    second = Note.get(first.id)
    assert first is not second

    with db.transaction():
        change(first, text="two")
        change(second, size=7)

    assert {"text": ("one", "two"), "size": (1, 7)} == pairs(log(db)[1])
    fresh = Note.get(first.id)
    assert ("two", 7) == (fresh.text, fresh.size)


def test_a_save_writes_only_what_this_object_changed(db, Note):
    first = Note(text="one").save()
    second = Note.get(first.id)

    change(first, text="two")
    change(second, size=7)

    fresh = Note.get(first.id)
    assert ("two", 7) == (fresh.text, fresh.size)
    assert [{"text": ("one", "two")}, {"size": (1, 7)}] == [pairs(event) for event in log(db)[1:]]


def test_two_records_are_never_composed_with_each_other(db, Note):
    with db.transaction():
        notes = [Note(text=word).save() for word in ("one", "two")]
        for note in notes:
            change(note, text=note.text.upper())

    assert ["ONE", "TWO"] == [event.payload["text"] for event in log(db)]


def test_models_with_equal_keys_are_never_composed_with_each_other(db):
    class Left(BaseModel):
        id = IntegerField(primary_key=True)

    class Right(BaseModel):
        id = IntegerField(primary_key=True)

    with db.transaction():
        Left(id=1).save()
        Right(id=1).save().delete()

    assert ["left.created"] == names(db)


def test_a_composite_key_with_odd_characters_is_one_record(db):
    class Line(BaseModel):
        order = StringField(primary_key=True)
        number = StringField(primary_key=True)
        text = StringField(default="")

    with db.transaction():
        Line(order="a/b", number="c").save()
        Line(order="a", number="b/c").save()

    assert 2 == len({event.key for event in log(db)})


def test_a_savepoints_part_of_the_changes_goes_with_it(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        change(note, text="two")
        with pytest.raises(KeyError):
            with db.transaction():
                change(note, text="three", size=9)
                raise KeyError

    assert [{"text": ("one", "two")}] == [pairs(event) for event in log(db)[1:]]


def test_flushes_of_a_plain_session_are_composed_as_well(db, Note):
    db.ready()
    with Session(db.engine) as session:
        note = Note(text="one")
        session.add(note)
        session.flush()
        note.text = "two"
        session.commit()

    assert [("note.created", "two")] == [(event.name, event.payload["text"]) for event in log(db)]


def test_an_id_told_before_the_commit_is_the_one_in_the_log(db, Note):
    ids = []

    @event_handler("note.created", delivery="transaction", name="sees")
    def sees(event):
        ids.append(event.id)

    with db.transaction():
        note = Note(text="one").save()
        change(note, text="two")

    assert ids == [event.id for event in log(db)]
