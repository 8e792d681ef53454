"""A new record alone in its flush: the short way it goes, and what takes it off that way."""

import logging

import pytest
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from earnorm import BaseModel, StringField, attach, event_handler, post_delete, post_save, pre_save, telemetry
from earnorm.bus import default_bus
from earnorm.errors import ValidationFailed

SEEN: list[str] = []


@pytest.fixture(autouse=True)
def seen():
    SEEN.clear()
    yield SEEN
    SEEN.clear()


@pytest.fixture
def session(path):
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine, expire_on_commit=False) as session:
        yield session
    engine.dispose()


@pytest.fixture
def Note(session):
    class Note(BaseModel):
        text = StringField(max_length=20)

        @pre_save
        def before(self):
            SEEN.append(f"pre {self.text}")
            act = ACTS.get(self.text)
            if act is not None:
                act(session, self)

        @post_save
        def after(self):
            SEEN.append(f"post {self.text}")

    return made(session, Note)


def made(session, model):
    model.metadata.create_all(session.connection())
    session.commit()
    return model


def save(session, record):
    session.add(record)
    session.commit()
    return record


def _add(session, note):
    session.add(type(note)(text="added"))


def _replace(session, note):
    session.expunge(note)
    session.add(type(note)(text="instead"))


def _spoil(_session, note):
    note.text = "x" * 21


ACTS = {"adds": _add, "replaces": _replace, "spoils": _spoil}


def test_it_goes_the_short_way(session, Note, at_length):
    save(session, Note(text="one"))

    assert ["pre one", "post one"] == SEEN
    assert [] == at_length


def test_a_record_that_nobody_hears_of_goes_the_short_way(session, at_length):
    class Quiet(BaseModel):
        text = StringField()

    save(session, made(session, Quiet)(text="one"))

    assert [] == at_length
    with pytest.raises(ValidationFailed):
        save(session, Quiet(text=1))


def test_what_its_pre_hook_adds_has_hooks_too(session, Note):
    save(session, Note(text="adds"))

    assert {"pre adds", "pre added", "post adds", "post added"} == set(SEEN)
    assert 4 == len(SEEN)


def test_what_its_pre_hook_puts_in_its_place_is_written_and_heard(session, Note):
    save(session, Note(text="replaces"))

    assert ["pre replaces", "pre instead", "post instead"] == SEEN
    assert ["instead"] == [note.text for note in session.query(Note)]


def test_what_its_pre_hook_sets_is_checked(session, Note):
    with pytest.raises(ValidationFailed):
        save(session, Note(text="spoils"))


def test_a_handler_registered_since_hears_of_the_next(session, Note):
    save(session, Note(text="one"))

    @event_handler("note.created", name="late", delivery="transaction")
    def late(event):
        SEEN.append(f"late {event.payload['text']}")

    save(session, Note(text="two"))

    assert ["pre one", "post one", "pre two", "post two", "late two"] == SEEN


def test_whoever_watches_since_sees_the_next(session, Note):
    save(session, Note(text="one"))
    with default_bus.capture("note.*") as seen:
        save(session, Note(text="two"))
    save(session, Note(text="three"))

    assert ["two"] == [event.subject.text for event in seen]


def test_a_listener_to_telemetry_is_told_of_the_next(session, Note):
    told = []
    save(session, Note(text="one"))
    undo = telemetry.listen(told.append, telemetry.HandlerDone)
    save(session, Note(text="two"))
    undo()
    save(session, Note(text="three"))

    assert ["Note.before", "Note.after"] == [record.handler.rpartition("<locals>.")[2] for record in told]


def test_a_log_that_is_set_to_debug_meanwhile_tells_of_the_next(session, Note, caplog):
    save(session, Note(text="one"))
    logger = logging.getLogger("earnorm")
    logger.setLevel(logging.DEBUG)
    try:
        save(session, Note(text="two"))
        told = len(caplog.records)
    finally:
        logger.setLevel(logging.NOTSET)
    save(session, Note(text="three"))

    assert 0 < told == len(caplog.records)


def test_it_goes_the_short_way_if_logging_was_configured_without_us(session, Note, at_length, monkeypatch):
    """`logging.config` disables the loggers that it does not name."""
    logger = logging.getLogger("earnorm")
    monkeypatch.setattr(logger, "disabled", True)
    logger.manager._clear_cache()
    save(session, Note(text="one"))

    assert [] == at_length


def test_a_class_that_is_attached_since_is_heard(session):
    class Base(DeclarativeBase):
        pass

    class Plain(Base):
        __tablename__ = "plain"
        id: Mapped[int] = mapped_column(primary_key=True)

        @post_save
        def after(self):
            SEEN.append("post")

    class Other(BaseModel):
        text = StringField()

    save(session, made(session, Other)(text="so that flushes are heard"))
    save(session, made(session, Plain)())
    save(session, Plain())
    assert [] == SEEN
    attach(Plain)
    save(session, Plain())

    assert ["post"] == SEEN


def test_a_model_that_may_become_an_orphan_since_is_asked(session, at_length):
    """A relationship that comes later may delete what it lets go of."""

    class Base(DeclarativeBase):
        pass

    class Child(Base):
        __tablename__ = "children"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id"))

        @post_save
        def after(self):
            SEEN.append("saved")

        @post_delete
        def gone(self):
            SEEN.append("gone")

    class Early(Base):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)

    attach(Child)
    save(session, made(session, Child)())
    assert [] == at_length

    class Parent(Base):
        __table__ = Early.__table__
        children: Mapped[list[Child]] = relationship(cascade="all, delete-orphan")

    parent = save(session, Parent(children=[Child()]))
    del parent.children[0]
    session.commit()

    assert ["saved", "saved", "gone"] == SEEN


def test_an_unknown_parent_that_lets_a_known_child_go_is_looked_at(session):
    class Base(DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)
        children: Mapped[list["Child"]] = relationship(cascade="all, delete-orphan")

    class Child(Base):
        __tablename__ = "children"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id"))

        @post_delete
        def gone(self):
            SEEN.append("gone")

    attach(Child)
    parent = save(session, made(session, Parent)(children=[Child()]))
    parent.children.clear()
    session.commit()

    assert ["gone"] == SEEN


@pytest.mark.parametrize("target", ["class", "session"])
def test_a_listener_of_others_that_adds_a_record_is_looked_at(session, Note, target):
    def add(session, *_):
        if any(note.text == "ours" for note in session.new):
            session.add(Note(text="theirs"))

    where = Session if target == "class" else session
    event.listen(where, "before_flush", add)
    try:
        save(session, Note(text="ours"))
    finally:
        event.remove(where, "before_flush", add)

    assert {"pre ours", "pre theirs", "post ours", "post theirs"} == set(SEEN)
    assert 4 == len(SEEN)
