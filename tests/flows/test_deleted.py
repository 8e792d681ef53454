"""Deleted records: what handlers after the commit still get to see, and what nobody may do to it."""

import pytest

from earnorm import BaseModel, StringField, event_handler, post_commit, post_delete, post_delete_async, pre_delete
from earnorm.errors import DeletedSubject, NotFound, ReadOnlySnapshot, StaleRecord
from tests.flows.stories import log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


def make():
    class Note(BaseModel):
        text = StringField()
        password = StringField(sensitive=True, required=False)

    return Note


def test_pre_and_post_delete_get_the_live_record():
    class Note(BaseModel):
        text = StringField()

        @pre_delete
        def before(self):
            seen.append(("before", self.text, self is note))

        @post_delete
        def after(self):
            seen.append(("after", self.text, self is note))

    note = Note(text="one").save()
    note.delete()

    assert [("before", "one", True), ("after", "one", True)] == seen


@pytest.mark.parametrize("delivery", ["after_commit", "durable"])
def test_a_handler_after_the_commit_gets_a_snapshot_of_the_last_values(db, delivery):
    Note = make()

    @Note.on("deleted", delivery=delivery, name="keeps")
    def keeps(note):
        seen.append(note)

    note = Note(text="one").save()
    note.text = "two"
    note.save()
    note.delete()
    db.drain()

    (snapshot,) = seen
    assert isinstance(snapshot, Note)
    assert (note.id, "two") == (snapshot.id, snapshot.text)


def test_an_async_hook_gets_the_snapshot_as_self(db):
    class Note(BaseModel):
        text = StringField()

        @post_delete_async(name="gone")
        async def gone(self, text):
            seen.append((self.text, text))

    Note(text="one").save().delete()
    db.drain()

    assert [("one", "one")] == seen


DOINGS = {
    "set": lambda note: setattr(note, "text", "two"),
    "del": lambda note: delattr(note, "text"),
    "save": lambda note: note.save(),
    "delete": lambda note: note.delete(),
}


@pytest.mark.parametrize("doing", DOINGS)
def test_a_snapshot_cannot_be_written(db, doing):
    Note = make()

    @Note.on("deleted", name="keeps")
    def keeps(note):
        seen.append(note)

    Note(text="one").save().delete()
    db.drain()

    with pytest.raises(ReadOnlySnapshot, match="snapshot"):
        DOINGS[doing](seen[0])
    assert "one" == seen[0].text


def test_a_snapshot_says_what_it_is(db):
    Note = make()

    @Note.on("deleted", name="keeps")
    def keeps(note):
        seen.append(note)

    note = Note(text="one").save()
    note.delete()
    db.drain()

    assert f"<Note {note.id}>" == repr(seen[0])


def test_a_secret_is_not_in_the_snapshot(db):
    Note = make()

    @Note.on("deleted", name="keeps")
    def keeps(note):
        seen.append(note.password)

    Note(text="one", password="hush").save().delete()
    db.drain()

    assert [None] == seen
    assert all(b"hush" not in repr(event.payload).encode() for event in log(db))


def test_a_handler_of_an_earlier_event_of_a_record_that_is_gone_is_skipped(db):
    Note = make()

    @Note.on("created", name="late")
    def late(note):
        seen.append(note)

    Note(text="one").save().delete()
    counts = db.drain()

    assert ([], 1) == (seen, counts["skipped"])


def test_an_after_commit_handler_of_a_custom_event_of_a_record_that_is_gone_is_skipped(db):
    Note = make()

    @event_handler("note.read", delivery="after_commit", name="late")
    def late(note):
        seen.append(note)

    note = Note(text="one").save()
    with db.transaction():
        note.emit("read")
        note.delete()

    assert [] == seen


def test_post_commit_of_a_deletion_runs_with_the_last_values():
    class Note(BaseModel):
        text = StringField()

        @post_commit
        def committed(self, event):
            seen.append((event.name, self.text))

    note = Note(text="one").save()
    seen.clear()
    note.delete()

    assert [("note.deleted", "one")] == seen


def test_a_record_deleted_by_a_session_is_deleted_for_us_as_well(db):
    Note = make()
    note = Note(text="one").save()

    with db.session() as session:
        session.delete(session.get(Note, note.id))
        session.commit()

    assert ["note.created", "note.deleted"] == [event.name for event in log(db)]


def test_a_deletion_that_was_rolled_back_leaves_a_record_that_works(db):
    Note = make()
    note = Note(text="one").save()

    with pytest.raises(KeyError):
        with db.transaction():
            note.delete()
            raise KeyError

    note.text = "two"
    note.save()
    assert ["note.created", "note.updated"] == [event.name for event in log(db)]


def test_what_somebody_else_has_deleted_is_not_deleted_again(db):
    """SQLAlchemy only warned, and a second `deleted` of the record stood in the log."""
    Note = make()
    note = Note(text="one").save()
    Note.get(note.id).delete()

    with pytest.raises(StaleRecord, match="deleted by somebody else"):
        note.delete()
    with pytest.raises(NotFound, match=f"the primary key {note.id!r}".replace("(", "[(]").replace(")", "[)]")):
        note.refresh()

    assert ["note.created", "note.deleted"] == names(db)


def test_a_deleted_record_is_not_refreshed(db):
    note = make()(text="one").save()
    note.delete()

    with pytest.raises(DeletedSubject, match="refresh: <Note"):
        note.refresh()
