"""Listeners of other libraries on the same sessions, before and after ours, that change what is about to be written."""

import gc
import subprocess
import sys
import textwrap
import weakref
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from earnorm import Abort, BaseModel, BooleanField, StringField, post_save, pre_delete, pre_save
from earnorm.errors import ValidationFailed
from tests.flows.stories import log, names, pairs

SEEN: list[tuple[str, ...]] = []


@pytest.fixture(autouse=True)
def seen():
    SEEN.clear()
    yield SEEN
    SEEN.clear()


@pytest.fixture
def Note():
    class Note(BaseModel):
        text = StringField(default="", max_length=20)
        by = StringField(default="")
        tidied = BooleanField(default=False)

        @pre_save
        def tidy(self):
            SEEN.append(("pre", self.text))
            self.tidied = True
            if self.text == "refused":
                raise Abort("not this one")

        @pre_delete
        def last_words(self):
            SEEN.append(("pre delete", self.text))

        @post_save
        def tell(self, event):
            SEEN.append(("post", event.name, self.text))

    return Note


# Where a library may hang its listener: (the target, options), given a session class and a session of it.
PLACES = {
    "on Session, before ours": lambda session: (Session, {"insert": True}),
    "on Session, after ours": lambda session: (Session, {}),
    "on the session alone": lambda session: (session, {}),
}


@contextmanager
def listening(session, place, name, listener):
    target, options = PLACES[place](session)
    event.listen(target, name, listener, **options)
    try:
        yield
    finally:
        event.remove(target, name, listener)


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


@pytest.fixture
def session(db, Note):
    with db.session() as session:
        yield session


def test_what_before_flush_adds_has_its_hooks_and_its_event(db, session, Note, place):
    def add(session, *_):
        if any(note.text == "ours" for note in session.new):
            session.add(Note(text="theirs"))

    with listening(session, place, "before_flush", add):
        session.add(Note(text="ours"))
        session.commit()

    assert {("pre", "ours"), ("pre", "theirs")} == {seen for seen in SEEN if seen[0] == "pre"}
    assert 2 == len([seen for seen in SEEN if seen[0] == "pre"])
    assert ["ours", "theirs"] == sorted(event.payload["text"] for event in log(db))
    assert [True, True] == [note.tidied for note in Note.find()]


def test_what_before_flush_changes_is_in_the_event(db, session, Note, place):
    def stamp(session, *_):
        for note in [*session.new, *session.dirty]:
            note.by = "them"

    with listening(session, place, "before_flush", stamp):
        session.add(note := Note(text="a"))
        session.commit()
        note.text, note.by = "b", "us"
        session.commit()

    created, updated = log(db)
    assert "them" == created.payload["by"]
    assert {"text": ("a", "b")} == pairs(updated)


def test_a_clean_record_that_before_flush_changes_is_told(db, session, Note, place):
    session.add_all([first := Note(text="first"), second := Note(text="second")])
    session.commit()
    SEEN.clear()

    def count(session, *_):
        second.by = "them"

    with listening(session, place, "before_flush", count):
        first.text = "changed"
        session.commit()

    assert [("pre", "changed"), ("pre", "second")] == sorted(seen for seen in SEEN if seen[0] == "pre")
    assert [{"by": ("", "them")}, {"text": ("first", "changed")}] == sorted(
        (pairs(event) for event in log(db)[2:]), key=str
    )


def test_what_before_flush_deletes_is_told(db, session, Note, place):
    session.add_all([first := Note(text="first"), second := Note(text="second")])
    session.commit()

    def sweep(session, *_):
        if second in session:
            session.delete(second)

    with listening(session, place, "before_flush", sweep):
        first.text = "changed"
        session.commit()

    assert ("pre delete", "second") in SEEN
    assert ["note.deleted", "note.updated"] == sorted(names(db)[2:])


def test_a_hook_may_veto_what_before_flush_adds(db, session, Note, place):
    def add(session, *_):
        if any(note.text == "ours" for note in session.new):
            session.add(Note(text="refused"))

    with listening(session, place, "before_flush", add):
        session.add(Note(text="ours"))
        with pytest.raises(Abort, match="not this one"):
            session.commit()
        session.rollback()
    assert [] == names(db)

    session.add(Note(text="afterwards"))
    session.commit()
    assert ["afterwards"] == [note.text for note in Note.find()]


def test_a_value_that_before_flush_breaks_is_refused(db, session, Note, place):
    def shout(session, *_):
        for note in session.new:
            note.text = "!" * 30

    with listening(session, place, "before_flush", shout):
        session.add(Note(text="ours"))
        with pytest.raises(ValidationFailed, match="longer than 20"):
            session.commit()
    session.rollback()

    assert ([], []) == (names(db), Note.find())


def test_what_before_commit_changes_is_flushed_and_told(db, session, Note, place):
    session.add(note := Note(text="a"))
    session.commit()

    def stamp(session):
        note.by = "them"

    with listening(session, place, "before_commit", stamp):
        note.text = "b"
        session.flush()
        session.commit()

    assert {"text": ("a", "b"), "by": ("", "them")} == pairs(log(db)[1])


def test_what_after_flush_adds_is_flushed_with_the_commit_and_told(db, session, Note, place):
    def log_it(session, _context):
        if any(note.text == "ours" for note in session.new):
            session.add(Note(text="theirs"))

    with listening(session, place, "after_flush", log_it):
        session.add(Note(text="ours"))
        session.commit()

    assert ["ours", "theirs"] == [event.payload["text"] for event in log(db)]
    assert [("pre", "ours"), ("pre", "theirs")] == [seen for seen in SEEN if seen[0] == "pre"]


def test_what_after_flush_postexec_changes_is_flushed_with_the_commit_and_told(db, session, Note, place):
    def stamp(session, _context):
        for note in session:
            if note.text == "ours" and not note.by:
                note.by = "them"

    with listening(session, place, "after_flush_postexec", stamp):
        session.add(Note(text="ours"))
        session.commit()

    assert ["note.created"] == names(db)
    assert "them" == log(db)[0].payload["by"]


def test_a_listener_on_a_sessionmaker_is_one_that_comes_after_ours(db, Note):
    db.ready()
    maker = sessionmaker(db.engine, expire_on_commit=False)

    @event.listens_for(maker, "before_flush")
    def add(session, *_):
        if any(note.text == "ours" for note in session.new):
            session.add(Note(text="theirs"))

    for _ in range(2):
        with maker.begin() as session:
            session.add(Note(text="ours"))

    assert 4 == len([seen for seen in SEEN if seen[0] == "pre"])


def test_a_record_is_told_once_in_each_of_many_flushes_of_one_session(db, session, Note):
    with listening(session, "on the session alone", "before_flush", lambda session, *_: None):
        session.add(note := Note(text="0"))
        session.commit()
        for number in range(1, 4):
            note.text = str(number)
            session.commit()

    assert [("pre", str(number)) for number in range(4)] == [seen for seen in SEEN if seen[0] == "pre"]
    assert ["note.created", *["note.updated"] * 3] == names(db)


def test_a_session_whose_flush_another_listener_refused_is_not_kept_alive(db, Note):
    db.ready()
    session = db.session()

    def refuse(*_):
        raise RuntimeError("no")

    event.listen(session, "before_flush", refuse)
    session.add(Note(text="ours"))
    with pytest.raises(RuntimeError, match="no"):
        session.commit()
    session.close()
    gone = weakref.ref(session)
    event.remove(session, "before_flush", refuse)
    del session
    gc.collect()

    assert gone() is None


WITHOUT_US = """
    import sys
    from sqlalchemy import create_engine, event
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    known = []
"""

FIRST_MODEL = """
    @event.listens_for(Session, sys.argv[1])
    def keep_track(session, *rest):
        if known:
            return
        from earnorm import BaseModel, StringField, post_save, pre_save

        class Note(BaseModel):
            text = StringField()

            @pre_save
            def before(self):
                print("before", self.text)

            @post_save
            def after(self):
                print("after", self.text)

        known.append(Note)
        Note.__table__.create(session.connection())
        if sys.argv[1] != "after_flush":
            session.add(Note(text="at once"))

    @event.listens_for(Session, sys.argv[1])
    def another(*rest): ...

    with Session(engine) as session:
        session.add(Order())
        session.commit()
        session.add(known[0](text="later"))
        session.commit()
"""


@pytest.mark.parametrize(
    "name, saved",
    [
        ("before_flush", ["at once", "later"]),
        ("after_flush", ["later"]),
        ("after_flush_postexec", ["at once", "later"]),
    ],
)
def test_a_listener_may_be_the_first_to_import_a_model(name, saved):
    """SQLAlchemy said "deque mutated during iteration": ours came into the list that it was going through."""
    script = textwrap.dedent(WITHOUT_US + FIRST_MODEL)
    ended = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=False)

    expected = [f"{when} {text}" for text in saved for when in ("before", "after")]
    assert (expected, "") == (ended.stdout.splitlines(), ended.stderr)


def test_a_listener_that_refused_a_flush_and_is_gone_leaves_nothing_behind(db, session, Note):
    """What was to be looked at after it was looked at in the next flush: hooks of that one's records ran twice."""

    def refuse(*_):
        raise RuntimeError("not now")

    with listening(session, "on the session alone", "before_flush", refuse):
        session.add(Note(text="first"))
        with pytest.raises(RuntimeError):
            session.flush()
    SEEN.clear()
    session.add(Note(text="later"))
    session.commit()

    assert [("pre", "first"), ("pre", "later")] == sorted(seen for seen in SEEN if seen[0] == "pre")


FIRST_OF_A_SESSION = """
    with Session(engine) as session:
        def keep_track(session, *rest):
            from earnorm import BaseModel, StringField, pre_save

            class Note(BaseModel):
                text = StringField()

                @pre_save
                def before(self):
                    print("before", self.text)

            known.append(Note)
            Note.__table__.create(session.connection())

        event.listen(session, "before_flush", keep_track)
        session.add(Order())
        session.flush()
        event.remove(session, "before_flush", keep_track)
        session.add(known[0](text="later"))
        session.commit()
"""


def test_what_was_put_off_for_the_first_model_is_not_done_again_in_the_next_flush():
    """The flush that met it left a look at others' listeners behind, and the next one ran its pre hooks twice."""
    script = textwrap.dedent(WITHOUT_US + FIRST_OF_A_SESSION)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ("before later\n", "") == (ended.stdout, ended.stderr)
