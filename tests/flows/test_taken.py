"""What the database takes along amid a flush: rows that the same flush has made, or that others delete last of all."""

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import attach, post_create, post_delete, pre_delete
from earnorm.backends.sqlalchemy.bulk.cascades import reached_from
from tests.flows.stories import log, names

SEEN: list[tuple[str, int]] = []


class Models:
    """A house with rooms that go with it and guests that stay, and chairs that go with their room."""

    def __init__(self):
        class Base(DeclarativeBase):
            pass

        class House(Base):
            __tablename__ = "houses"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(default="")
            plan: Mapped[str | None] = mapped_column(deferred=True)

        class Room(Base):
            __tablename__ = "rooms"
            id: Mapped[int] = mapped_column(primary_key=True)
            house_id: Mapped[int] = mapped_column(ForeignKey("houses.id", ondelete="CASCADE"))

            @post_create
            def came(self):
                SEEN.append(("came", self.id))

            @pre_delete
            def goes(self):
                SEEN.append(("goes", self.id))

            @post_delete
            def went(self):
                SEEN.append(("went", self.id))

        class Chair(Base):
            __tablename__ = "chairs"
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))

        class Guest(Base):
            __tablename__ = "guests"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(default="")
            house_id: Mapped[int | None] = mapped_column(ForeignKey("houses.id", ondelete="SET NULL"))

        attach(Base, log="all")
        self.Base, self.House, self.Room, self.Chair, self.Guest = Base, House, Room, Chair, Guest


@pytest.fixture
def models(db):
    models = Models()
    models.Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add(models.House(id=1, name="old", plan="long"))
        session.flush()
        session.add_all([models.Room(id=1, house_id=1), models.Guest(id=1, house_id=1)])
        session.flush()
        session.add(models.Chair(id=1, room_id=1))
        session.commit()
    SEEN.clear()
    yield models
    SEEN.clear()


@pytest.fixture
def since(db):
    """What was told since the models were there, by key."""
    before = len(log(db))
    return lambda: {event.key: event for event in log(db)[before:]}


def test_a_row_that_is_made_and_taken_by_one_flush_is_not_told(db, models, since):
    """It was told as created, and never again."""
    with Session(db.engine) as session:
        house = session.get(models.House, 1)
        session.add_all([models.Room(id=2, house_id=1), made := models.Chair(id=2, room_id=1)])
        session.delete(house)
        session.commit()
        assert made not in session
        assert [] == session.scalars(select(models.Room)).all()

    assert {"house:1", "room:1", "chair:1"} == {key for key in since() if not key.startswith("guest")}
    assert [("came", 2), ("went", 2)] == [seen for seen in SEEN if seen[1] == 2]


def test_a_row_that_is_made_and_emptied_by_one_flush_is_told_empty(db, models, since):
    with Session(db.engine) as session:
        house = session.get(models.House, 1)
        session.add(models.Guest(id=2, name="Ada", house_id=1))
        session.delete(house)
        session.commit()

    told = since()["guest:2"]
    assert ("guest.created", None, "Ada") == (told.name, told.payload["house_id"], told.payload["name"])


def test_a_row_that_is_made_beside_a_deletion_and_not_met_by_it_is_told_as_ever(db, models, since):
    with Session(db.engine) as session:
        session.add(models.House(id=2))
        house = session.get(models.House, 1)
        session.add_all([models.Room(id=2, house_id=2), models.Guest(id=2, house_id=2)])
        session.delete(house)
        session.commit()

    told = since()
    assert ["room.created", "guest.created"] == [told[key].name for key in ("room:2", "guest:2")]
    assert 2 == told["guest:2"].payload["house_id"]


def test_what_another_listener_deletes_last_takes_rows_along_that_are_told(db, models, since):
    """Only what was deleted when ours looked was followed."""
    with Session(db.engine) as session:
        house = session.get(models.House, 1)
        session.expire(house, ["name"])
        event.listen(session, "before_flush", lambda session, *_: session.delete(house), once=True)
        session.add(models.House(id=2))
        session.commit()

    told = since()
    assert ["house.deleted", "room.deleted", "chair.deleted", "guest.updated"] == [
        told[key].name for key in ("house:1", "room:1", "chair:1", "guest:1")
    ]
    assert ("old", "long") == (told["house:1"].payload["name"], told["house:1"].payload["plan"])
    assert [("goes", 1), ("went", 1)] == SEEN


# SQLAlchemy says that the house has taken the room along before it came to it.
@pytest.mark.filterwarnings("ignore:DELETE statement on table 'rooms'")
def test_what_two_of_them_delete_is_told_once(db, models):
    with Session(db.engine) as session:
        house, room = session.get(models.House, 1), session.get(models.Room, 1)
        event.listen(session, "before_flush", lambda session, *_: session.delete(house), once=True)
        session.delete(room)
        session.commit()

    assert ["chair.deleted", "guest.updated", "house.deleted", "room.deleted"] == sorted(names(db)[4:])
    assert [("goes", 1), ("went", 1)] == SEEN


def test_the_old_value_is_told_of_what_another_listener_has_the_database_work_out(db, models, since):
    with Session(db.engine) as session:
        guest = session.get(models.Guest, 1)

        def rename(*_):
            guest.name = models.Guest.name + "Eve"

        event.listen(session, "before_flush", rename, once=True)
        session.add(models.House(id=2))
        session.commit()

    assert ("", "Eve") == tuple(since()["guest:1"].changes["name"])


def test_tables_that_many_ways_lead_to_are_looked_at_once():
    """Every way was gone through: of ten layers with three tables each, some sixty thousand."""
    metadata, above = MetaData(), list[Table]()
    first = Table("first", metadata, Column("id", Integer, primary_key=True))
    layer = [first]
    for depth in range(10):
        above, layer = layer, []
        for number in range(3):
            keys = (Column(f"of_{t.name}", ForeignKey(t.c.id, ondelete="CASCADE")) for t in above)
            layer.append(Table(f"t_{depth}_{number}", metadata, Column("id", Integer, primary_key=True), *keys))

    assert 3 + 9 * 9 == len(list(reached_from(first)))
