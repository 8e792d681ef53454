"""Records that a Session deletes though their rows are gone: whoever was quicker has told of them."""

import threading

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import BaseModel, StringField, attach, post_delete, pre_delete
from tests.flows.stories import log, names, pairs

# SQLAlchemy says how many rows a DELETE has missed.
pytestmark = pytest.mark.filterwarnings("ignore:DELETE statement on table")


@pytest.fixture
def Seat():
    class Base(DeclarativeBase):
        pass

    class Seat(Base):
        __tablename__ = "seats"
        id: Mapped[int] = mapped_column(primary_key=True)
        row: Mapped[str] = mapped_column(default="a")
        gone: list[int] = []

        @post_delete
        def note(self):
            self.gone.append(self.id)

    attach(Base, log="all")
    return Seat


@pytest.fixture
def seats(db, Seat):
    Seat.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add_all([Seat(id=number) for number in range(1, 5)])
        session.commit()
    return [1, 2, 3, 4]


def delete(db, Seat, numbers, first=()):
    """These seats, by a Session that has read them before another deletes the `first`."""
    with Session(db.engine) as session:
        found = session.scalars(select(Seat).where(Seat.id.in_(numbers))).all()
    if first:
        delete(db, Seat, first)
    with Session(db.engine) as session:
        for seat in found:
            session.delete(seat)
        session.commit()


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3]])
def test_a_record_that_two_delete_is_told_by_the_first(db, Seat, seats, numbers):
    """The second one told `seat.deleted` as well, and its hooks ran again."""
    delete(db, Seat, numbers, first=[1])

    assert ["seat.created"] * 4 + ["seat.deleted"] * len(numbers) == names(db)
    assert numbers == sorted(Seat.gone)


def test_a_flush_with_many_deletions_asks_once_whether_they_are_there(db, Seat, seats):
    statements, here = [], threading.get_ident()

    def count(connection, cursor, statement, *_):
        # Another thread looks for workers.
        if threading.get_ident() == here:
            statements.append(statement)

    event.listen(db.engine, "before_cursor_execute", count)
    with Session(db.engine) as session:
        found = session.scalars(select(Seat)).all()
        statements.clear()
        for seat in found:
            session.delete(seat)
        session.flush()

    assert ["SELECT", "DELETE"] == [statement.split()[0] for statement in statements]


def test_a_delete_inside_the_hook_of_another_holds_its_own_row(db):
    class Lamp(BaseModel):
        name = StringField()

        @pre_delete
        def both(self):
            for other in Lamp.find(Lamp.name == "other"):
                if self.name != "other":
                    other.delete()

    lamp = Lamp(name="one").save()
    Lamp(name="other").save()
    lamp.delete()

    assert ["lamp.created"] * 2 + ["lamp.deleted"] * 2 == names(db)
    assert [] == Lamp.find()


def test_a_record_that_a_new_one_of_its_key_replaces_is_told_as_changed(db, Seat, seats):
    """SQLAlchemy updates its row, and the log had two creations of one record."""
    with Session(db.engine) as session:
        session.delete(session.get(Seat, 1))
        session.add(Seat(id=1, row="b"))
        session.commit()

    *_, told = log(db)
    assert ("seat.updated", {"row": ("a", "b")}) == (told.name, pairs(told))
    assert [1] == Seat.gone
