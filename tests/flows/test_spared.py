"""A flush that can delete nothing does nothing about deletions; whatever may delete something, does."""

import pytest
from sqlalchemy import ForeignKey, create_engine, event, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, persistence, relationship

from earnorm import BaseModel, StringField, attach, post_delete, post_save, pre_save


@pytest.fixture
def session(path):
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine, expire_on_commit=False) as session:
        yield session
    engine.dispose()


@pytest.fixture
def looked(monkeypatch):
    """The names of the classes whose deletions SQLAlchemy has looked for."""
    seen, delete = [], persistence._delete_obj

    def look(mapper, *args):
        seen.append(mapper.class_.__name__)
        delete(mapper, *args)

    monkeypatch.setattr(persistence, "_delete_obj", look)
    return seen


@pytest.fixture
def Note(session):
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def before(self):
            if self.text == "deletes":
                for other in session.query(Note):
                    session.delete(other)

        @post_save
        def after(self): ...

    return made(session, Note)


def made(session, model):
    model.metadata.create_all(session.connection())
    session.commit()
    return model


def save(session, *records):
    session.add_all(records)
    session.commit()
    return records[0]


def test_a_new_record_alone(session, Note, looked):
    save(session, Note(text="one"))

    assert [] == looked


def test_a_new_record_that_nobody_hears_of(session, looked):
    class Quiet(BaseModel):
        text = StringField()

    save(session, made(session, Quiet)(text="one"))

    assert [] == looked


def test_a_change_alone(session, Note, looked):
    note = save(session, Note(text="one"))
    note.text = "two"
    session.commit()

    assert [] == looked
    assert ["two"] == list(session.scalars(Note.__table__.select().with_only_columns(Note.__table__.c.text)))


def test_a_delete(session, Note, looked):
    note = save(session, Note(text="one"))
    session.delete(note)
    session.commit()

    assert ["Note"] == looked
    assert [] == session.query(Note).all()


def test_what_its_pre_hook_deletes(session, Note):
    save(session, Note(text="one"))
    save(session, Note(text="deletes"))

    assert ["deletes"] == [note.text for note in session.query(Note)]


@pytest.mark.parametrize("insert", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("target", ["class", "session"])
def test_what_a_listener_of_others_deletes(session, Note, target, insert):
    one = save(session, Note(text="one"))

    def delete(session, *_):
        session.delete(one)

    where = Session if target == "class" else session
    event.listen(where, "before_flush", delete, insert=insert)
    try:
        save(session, Note(text="two"))
    finally:
        event.remove(where, "before_flush", delete)

    assert ["two"] == [note.text for note in session.query(Note)]


def test_what_a_listener_before_ours_has_planned_to_delete(session, Note):
    one = save(session, Note(text="one"))

    def plan(_session, context, _instances):
        context.register_object(inspect(one), isdelete=True)

    event.listen(Session, "before_flush", plan, insert=True)
    try:
        save(session, Note(text="two"))
    finally:
        event.remove(Session, "before_flush", plan)

    assert ["two"] == [note.text for note in session.query(Note)]


def test_a_model_of_others_is_left_alone(session, Note, looked):
    class Base(DeclarativeBase):
        pass

    class Plain(Base):
        __tablename__ = "plain"
        id: Mapped[int] = mapped_column(primary_key=True)

    save(session, made(session, Plain)())

    assert ["Plain"] == looked


def test_a_relationship_that_comes_later_counts(session, looked):
    """A record that holds on to another needs its key, whichever of the two models was there first."""

    class Base(DeclarativeBase):
        pass

    class Child(Base):
        __tablename__ = "children"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("parents.id"))

        @post_delete
        def gone(self): ...

    class Early(Base):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)

    attach(Child)
    save(session, made(session, Child)())
    assert [] == looked

    class Parent(Base):
        __table__ = Early.__table__
        children: Mapped[list[Child]] = relationship(cascade="all, delete-orphan", backref="parent")

    parent = save(session, Parent(children=[Child()]))
    del parent.children[0]
    session.commit()
    looked.clear()
    child = save(session, Child(parent=parent))

    assert parent.id == child.parent_id
    assert {"Child"} <= set(looked)
    assert 2 == session.query(Child).count()
