"""A new record alone in its flush that a log alone hears of: the short way it goes, and what takes it off that way."""

import pytest
from sqlalchemy import event, func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import BaseModel, IntegerField, StringField, attach, event_handler, telemetry
from earnorm.errors import AutocommitRefused, ValidationFailed
from tests.flows.stories import log, names


@pytest.fixture
def Note(db):
    class Note(BaseModel):
        id = IntegerField(primary_key=True)
        text = StringField(max_length=20)

    db.ready()
    return Note


@pytest.fixture
def warm(db, Note, at_length):
    """The first record of a class is looked at: whether anybody hears of it."""
    Note(text="first").save()
    at_length.clear()
    return Note


def texts(db):
    return [found.payload["text"] for found in log(db)]


@pytest.mark.parametrize("door", ["session", "save", "transaction"])
def test_its_event_is_written_by_the_short_way(db, warm, at_length, door):
    if door == "save":
        warm(text="one").save()
    elif door == "transaction":
        with db.transaction():
            warm(text="one").save()
    else:
        with Session(db.engine) as session:
            session.add(warm(text="one"))
            session.commit()

    assert [] == at_length
    assert ["note.created"] * 2 == names(db)
    assert {"id": 2, "text": "one"} == log(db)[1].payload
    assert "note:2" == log(db)[1].key


def test_several_one_after_the_other_in_a_transaction_do_as_well(db, warm, at_length):
    with db.transaction() as opened:
        for text in ("one", "two"):
            warm(text=text).save()
        with opened.session.begin_nested():
            warm(text="three").save()
        with pytest.raises(IntegrityError), opened.session.begin_nested():
            warm(id=1, text="four").save()

    assert [] == at_length
    assert ["first", "one", "two", "three"] == texts(db)


def test_one_that_is_rolled_back_leaves_nothing_behind(db, warm):
    with Session(db.engine) as session:
        session.add(warm(text="one"))
        session.flush()
        session.rollback()
        session.add(warm(text="two"))
        session.commit()

    assert ["first", "two"] == texts(db)


def test_it_is_checked(db, warm):
    with pytest.raises(ValidationFailed):
        warm(text="x" * 21).save()


def test_without_a_transaction_s_end_it_is_refused(db, warm, at_length):
    with Session(db.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.add(warm(text="one"))
        with pytest.raises(AutocommitRefused):
            session.commit()

    assert [] == at_length
    assert ["first"] == texts(db)


def test_what_the_database_works_out_is_in_its_event(db):
    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "items"
        __mapper_args__ = {"eager_defaults": False}
        id: Mapped[int] = mapped_column(primary_key=True)
        size: Mapped[int] = mapped_column(server_default="7")
        name: Mapped[str]

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add(Item(name="one"))
        session.commit()
        session.add(Item(name=func.lower("TWO")))
        session.commit()

    assert [(7, "one"), (7, "two")] == [(e.payload["size"], e.payload["name"]) for e in log(db)]


def test_a_handler_registered_since_hears_of_the_next(db, warm):
    seen = []

    @event_handler("note.created", delivery="transaction")
    def heard(note):
        seen.append(note.text)

    warm(text="one").save()

    assert ["one"] == seen


def test_a_listener_to_each_step_hears_of_it(db, warm):
    steps = []
    undo = telemetry.listen(lambda record: steps.append(type(record).__name__), telemetry.Emitted, telemetry.Appended)
    try:
        warm(text="one").save()
    finally:
        undo()

    assert ["Emitted", "Appended"] == steps


def test_who_listens_to_statements_hears_the_append(db, warm):
    heard = []

    def hear(_connection, _cursor, statement, *_):
        heard.append(statement)

    event.listen(db.engine, "before_cursor_execute", hear)
    warm(text="one").save()

    assert any(statement.startswith("INSERT INTO earnorm_log ") for statement in heard)


def test_what_somebody_adds_to_the_flush_is_told_as_well(db, warm):
    def add(session, *_):
        if any(note.text == "ours" for note in session.new):
            session.add(warm(text="theirs"))

    event.listen(Session, "before_flush", add)
    try:
        warm(text="ours").save()
    finally:
        event.remove(Session, "before_flush", add)

    assert {"first", "ours", "theirs"} == set(texts(db))


def test_what_nobody_has_set_is_in_its_event_as_none(db, at_length):
    """It was left out, though it is there if the record is written beside another."""

    class Base(DeclarativeBase):
        pass

    class Page(Base):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str | None]
        kind: Mapped[str] = mapped_column(default="plain")

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    with db.session() as session:
        for some in ([Page(id=1)], [Page(id=2)], [Page(id=3), Page(id=4)]):
            session.add_all(some)
            session.flush()
        session.commit()
    assert 2 == len(at_length)
    rest = {"title": None, "kind": "plain"}
    assert [{"id": number, **rest} for number in (1, 2, 3, 4)] == [dict(found.payload) for found in log(db)]
