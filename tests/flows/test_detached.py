"""After the commit a record is detached: what was not loaded raises, and says what to do."""

import pytest
from sqlalchemy.orm import Mapped, relationship

from earnorm import BaseModel, ForeignKeyField, StringField, connect, event_handler, post_save
from earnorm.telemetry import HandlerFailed, listen
from earnorm.testing import expect_failures


@pytest.fixture
def db():
    with connect("sqlite://") as database:
        yield database


def test_an_unloaded_relationship_raises_with_a_hint(db):
    class Author(BaseModel):
        name = StringField()

    class Book(BaseModel):
        author_id = ForeignKeyField(Author)
        author: Mapped[Author] = relationship(Author)

    @event_handler("book.created", name="read the author")
    def read(book):
        return book.author.name

    notes = []
    undo = listen(lambda record: notes.extend(record.error.__notes__), HandlerFailed)
    with expect_failures():
        Book(author_id=Author(name="Ada").save().id).save()
        counts = db.drain()
    undo()

    assert 1 == counts["retry"]
    assert any("with db.transaction()" in note for note in notes)
    with db.store.begin(readonly=True) as transaction:
        (delivery,) = transaction.deliveries()
    assert "with db.transaction()" in delivery.error


def test_the_old_value_of_a_new_record_is_none(db):
    seen = []

    class Order(BaseModel):
        status = StringField()

        @post_save
        def note(self, old_status, new_status):
            seen.append((old_status, new_status))

    order = Order(status="new").save()
    order.status = "paid"
    order.save()

    assert [(None, "new"), ("new", "paid")] == seen
