"""The boundary: only the real commit of the database connection releases, whoever makes it and however it is nested."""

import asyncio
from contextlib import closing

import pytest
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from earnorm import (
    BaseModel,
    ForeignKeyField,
    IntegerField,
    StringField,
    connect,
    event_handler,
    on_event,
    post_commit,
    post_rollback,
)
from earnorm.errors import AutocommitRefused, NotConnected, TransactionError
from earnorm.testing import expect_failures
from tests.flows.stories import Look, log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


def make_note():
    class Note(BaseModel):
        text = StringField()

        @post_commit
        def committed(self):
            seen.append(f"+{self.text}")

        @post_rollback
        def rolled_back(self):
            seen.append(f"-{self.text}")

        @on_event("read")
        def on_read(self):
            pass

    return Note


@pytest.fixture
def Note(db):
    Note = make_note()
    db.ready()
    return Note


def texts(db):
    return [event.payload.get("text") for event in log(db)]


# --- no transaction open ---


def test_with_no_transaction_open_save_opens_one(db, Note):
    Note(text="one").save()

    assert ["+one"] == seen
    assert ["one"] == texts(db)


def test_with_no_transaction_open_emit_opens_one(db, Note):
    note = Note(text="one").save()

    note.emit("read")

    assert ["note.created", "note.read"] == names(db)


def test_emit_on_a_record_of_a_session_joins_its_transaction(db, Note):
    note = Note(text="one").save()

    with db.session() as session:
        session.add(note)
        session.execute(text("SELECT 1"))
        note.emit("read")
        assert ["note.created"] == names(db)
        session.commit()

    assert ["note.created", "note.read"] == names(db)


# --- savepoints ---


def test_a_nested_transaction_that_fails_takes_its_events_with_it(db, Note):
    with db.transaction():
        Note(text="one").save()
        with pytest.raises(KeyError):
            with db.transaction():
                Note(text="two").save()
                raise KeyError
        Note(text="three").save()

    assert ["+one", "+three"] == [word for word in seen if word.startswith("+")]
    assert ["one", "three"] == texts(db)


def test_a_nested_transaction_that_ends_well_waits_for_the_outer_one(db, Note):
    with pytest.raises(KeyError):
        with db.transaction():
            with db.transaction():
                Note(text="one").save()
            assert [] == seen
            raise KeyError

    assert ["-one"] == seen
    assert [] == names(db)


def test_a_savepoint_in_a_released_savepoint_goes_with_the_outer_one(db, Note):
    with db.transaction():
        with pytest.raises(KeyError):
            with db.transaction():
                with db.transaction():
                    Note(text="inner").save()
                raise KeyError
        Note(text="kept").save()

    assert ["kept"] == texts(db)


def test_begin_nested_on_a_session_is_a_savepoint(db, Note):
    with db.session() as session, session.begin():
        session.add(Note(text="one"))
        session.flush()
        nested = session.begin_nested()
        session.add(Note(text="two"))
        session.flush()
        nested.rollback()
        with session.begin_nested():
            session.add(Note(text="three"))

    assert ["one", "three"] == texts(db)


async def test_a_nested_async_transaction_is_a_savepoint(db, Note):
    async with db.transaction():
        await Note(text="one").asave()
        with pytest.raises(KeyError):
            async with db.transaction():
                await Note(text="two").asave()
                raise KeyError

    assert ["one"] == texts(db)


def test_a_savepoint_older_than_the_first_event_takes_it_too(db, Note):
    with db.session() as session, session.begin():
        session.execute(text("SELECT 1"))
        nested = session.begin_nested()
        session.add(Note(text="one"))
        session.flush()
        nested.rollback()

    assert [] == names(db)
    assert [] == [word for word in seen if word.startswith("+")]


def test_an_emit_in_a_rolled_back_savepoint_never_was(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        with pytest.raises(KeyError):
            with db.transaction():
                note.emit("read")
                raise KeyError

    assert ["note.created"] == names(db)


def test_savepoints_of_a_connection_count_as_well(db, Note):
    with db.engine.connect() as connection, connection.begin():
        session = Session(bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        nested = connection.begin_nested()
        session.add(Note(text="one"))
        session.commit()
        nested.rollback()
        session.add(Note(text="two"))
        session.commit()
        assert [] == seen

    assert ["+two"] == [word for word in seen if word.startswith("+")]
    assert ["two"] == texts(db)


# --- joined sessions ---


MODES = ["conditional_savepoint", "rollback_only", "create_savepoint"]


@pytest.mark.parametrize("mode", MODES)
def test_a_joined_session_releases_nothing_at_its_own_commit(db, Note, mode):
    with db.engine.connect() as connection:
        outer = connection.begin()
        with Session(bind=connection, join_transaction_mode=mode) as session:
            session.add(Note(text="one"))
            session.commit()
        assert [] == seen
        outer.commit()

    assert ["+one"] == seen
    assert ["one"] == texts(db)


@pytest.mark.parametrize("mode", MODES)
def test_a_joined_session_loses_its_events_with_the_outer_transaction(db, Note, mode):
    with db.engine.connect() as connection:
        outer = connection.begin()
        with Session(bind=connection, join_transaction_mode=mode, expire_on_commit=False) as session:
            session.add(Note(text="one"))
            session.commit()
        outer.rollback()

    assert ["-one"] == seen
    assert [] == names(db)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_what_it_loses_shows_its_values_though_its_own_commit_expired_them(db, Note, mode, closed):
    """A post_rollback hook that read its record failed with DetachedInstanceError, so that nothing was cleaned up."""
    note = Note(text="zero").save()
    with db.engine.connect() as connection:
        outer = connection.begin()
        session = Session(bind=connection, join_transaction_mode=mode)
        session.add(Note(text="one"))
        session.get(Note, note.id).text = "two"
        session.commit()
        if closed:
            session.close()
        outer.rollback()
        session.close()

    assert ["+zero", "-one", "-two"] == seen


def test_a_session_that_controls_the_outer_transaction_releases_at_its_commit(db, Note):
    with db.engine.connect() as connection:
        connection.begin()
        with Session(bind=connection, join_transaction_mode="control_fully") as session:
            session.add(Note(text="one"))
            session.commit()
            assert ["+one"] == seen

    assert ["one"] == texts(db)


def test_a_connections_own_commit_releases(db, Note):
    with db.engine.connect() as connection:
        session = Session(bind=connection)
        session.add(Note(text="one"))
        session.flush()
        connection.commit()
        assert ["+one"] == seen

    assert ["one"] == texts(db)


def test_two_sessions_on_one_connection_share_its_boundary(db, Note):
    with db.engine.connect() as connection, connection.begin():
        for word in ("one", "two"):
            with Session(bind=connection, join_transaction_mode="create_savepoint") as session:
                session.add(Note(text=word))
                session.commit()
        assert [] == seen

    assert ["+one", "+two"] == seen


def test_a_second_transaction_on_the_same_connection_starts_empty(db, Note):
    with db.engine.connect() as connection:
        for word in ("one", "two"):
            with connection.begin(), Session(bind=connection) as session:
                session.add(Note(text=word))
                session.flush()

    assert ["+one", "+two"] == seen
    assert ["one", "two"] == texts(db)


def test_a_connection_closed_without_commit_gives_up(db, Note):
    with db.engine.connect() as connection:
        session = Session(bind=connection, expire_on_commit=False)
        session.add(Note(text="one"))
        session.flush()

    assert ["-one"] == seen
    assert [] == names(db)


def test_a_session_closed_without_commit_gives_up(db, Note):
    with db.session() as session:
        session.add(Note(text="one"))
        session.flush()

    assert ["-one"] == seen
    assert [] == names(db)


# --- two databases ---


def test_each_database_keeps_its_own_events(db, look, second_url):
    Note = make_note()
    with connect(second_url, name="second", worker=False) as second:
        db.ready()
        second.ready()
        Note(text="first").save()
        with second.transaction():
            Note(text="second").save()

        assert ["first"] == texts(db)
        assert ["second"] == texts(second)
        with closing(Look(second_url)) as second_look:
            assert [1, 1] == [look.rows("notes"), second_look.rows("notes")]


def test_one_session_over_two_engines_tells_each_log_its_part(db, second_url):
    Note = make_note()

    class Invoice(BaseModel):
        number = StringField()

    with connect(second_url, name="second", worker=False) as second:
        db.ready()
        second.ready()
        with Session(binds={Note: db.engine, Invoice: second.engine}) as session:
            session.add_all([Note(text="one"), Invoice(number="7")])
            session.commit()

        assert ["note.created"] == names(db)
        assert ["invoice.created"] == names(second)
        assert ["+one"] == seen


def test_a_model_saved_on_an_engine_nobody_connected_is_refused(db, Note, tmp_path):
    stranger = create_engine(f"sqlite:///{tmp_path}/stranger.db")
    BaseModel.metadata.create_all(stranger)

    with Session(stranger) as session:
        session.add(Note(text="one"))
        with pytest.raises(NotConnected, match="a save of Note"):
            session.commit()
    stranger.dispose()

    assert [] == seen


def test_another_engine_on_the_same_file_feeds_the_same_log(db, Note):
    other = create_engine(db.engine.url)

    with Session(other) as session:
        session.add(Note(text="one"))
        session.commit()
    other.dispose()

    assert ["one"] == texts(db)


# --- commits that fail ---


def family(db):
    class Parent(BaseModel):
        id = IntegerField(primary_key=True)

    class Child(BaseModel):
        parent = ForeignKeyField("Parent", type_=int)

        @post_commit
        def committed(self):
            seen.append("committed")

        @post_rollback
        def rolled_back(self):
            seen.append("rolled back")

    db.ready()
    if db.engine.dialect.name == "postgresql":
        with db.engine.begin() as connection:
            key = inspect(connection).get_foreign_keys("childs")[0]["name"]
            connection.exec_driver_sql(f"ALTER TABLE childs ALTER CONSTRAINT {key} DEFERRABLE")
    return Parent, Child


def defer_foreign_keys(session):
    """The commit is what the database refuses then."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    session.execute(text("PRAGMA defer_foreign_keys = ON" if sqlite else "SET CONSTRAINTS ALL DEFERRED"))


def test_a_commit_that_the_database_refuses_releases_nothing(db, look):
    _, Child = family(db)

    with db.session() as session:
        defer_foreign_keys(session)
        session.add(Child(parent=404))
        with pytest.raises(IntegrityError):
            session.commit()

    assert ["rolled back"] == seen
    assert 0 == look.rows("childs") + look.rows("earnorm_log")


def test_a_commit_that_failed_can_be_mended_and_tried_again(db):
    Parent, Child = family(db)

    with db.session() as session:
        defer_foreign_keys(session)
        session.add(Child(parent=7))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(Parent(id=7))
        session.flush()
        session.add(Child(parent=7))
        session.commit()

    assert ["parent.created", "child.created"] == names(db)
    assert ["rolled back", "committed"] == seen


def test_a_listener_that_refuses_the_commit_loses_only_that_transaction(db, Note):
    def refuse(connection):
        raise ValueError("not in my database")

    event.listen(db.engine, "commit", refuse)
    with pytest.raises(ValueError, match="not in my database"):
        Note(text="one").save()
    event.remove(db.engine, "commit", refuse)
    assert ["-one"] == seen

    Note(text="two").save()

    assert ["-one", "+two"] == seen
    assert ["two"] == texts(db)


@pytest.mark.parametrize("way", ["session", "savepoint", "connection"])
def test_a_connection_that_is_lost_takes_its_events_along_and_tells_of_the_rollback(db, Note, way):
    with db.engine.connect() as connection:
        joined = {"join_transaction_mode": "rollback_only"} if way == "connection" else {}
        with Session(connection if way == "connection" else db.engine, **joined) as session:
            if way == "connection":
                connection.begin()
            session.add(Note(text="one"))
            if way == "savepoint":
                session.begin_nested()
            session.flush()
            session.connection().invalidate()
            assert [] == seen
            session.rollback()
            if way == "connection":
                connection.rollback()

        assert ["-one"] == seen
    Note(text="two").save()

    assert ["-one", "+two"] == seen
    assert ["two"] == texts(db)


def test_a_post_rollback_hook_may_save(db):
    class Failure(BaseModel):
        what = StringField()

    class Note(BaseModel):
        text = StringField()

        @post_rollback
        def keep_it(self):
            Failure(what=self.text).save()

    with pytest.raises(KeyError):
        with db.transaction():
            Note(text="one").save()
            raise KeyError

    assert ["failure.created"] == names(db)


def test_a_post_rollback_hook_may_save_after_a_veto(db):
    class Failure(BaseModel):
        what = StringField()

    class Note(BaseModel):
        text = StringField()

        @on_event("created")
        def veto(self):
            raise ValueError("no")

        @post_rollback
        def keep_it(self):
            Failure(what=self.text).save()

    with pytest.raises(ValueError, match="no"):
        Note(text="one").save()
    with pytest.raises(ValueError, match="no"):
        with db.transaction():
            Note(text="two").save()

    assert ["one", "two"] == [event.payload["what"] for event in log(db)]


@pytest.mark.parametrize("delivery", ["after_commit", "durable"])
def test_in_memory_a_handler_gets_no_expired_record(memory, delivery):
    Note = make_note()
    memory.ready()

    @event_handler("note.created", delivery=delivery)
    def read(note):
        seen.append(note.text)

    with Session(memory.engine) as session:
        session.add(Note(text="one"))
        session.commit()

    assert ["+one", "one"] == seen


def test_a_failed_commit_leaves_nothing_behind_for_the_next_user_of_its_connection(db, Note):
    _, Child = family(db)
    with db.session() as session:
        defer_foreign_keys(session)
        session.add(Child(parent=404))
        with pytest.raises(IntegrityError):
            session.commit()
    seen.clear()

    Note(text="one").save()

    assert ["+one"] == seen
    assert ["note.created"] == names(db)


FULL = {
    "sqlite": ["CREATE TRIGGER full_ BEFORE INSERT ON earnorm_log BEGIN SELECT RAISE(ABORT, 'disk is full'); END"],
    "postgresql": [
        """CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'disk is full' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
        "CREATE TRIGGER full_ BEFORE INSERT ON earnorm_log EXECUTE FUNCTION full_()",
    ],
}


def test_an_append_that_fails_takes_the_write_with_it(db, Note, look):
    with db.engine.begin() as connection:
        for statement in FULL[db.engine.dialect.name]:
            connection.exec_driver_sql(statement)

    with pytest.raises(IntegrityError, match="disk is full"):
        Note(text="one").save()

    assert 0 == look.rows("notes")
    assert ["-one"] == seen


# --- after the commit ---


def test_an_error_after_the_commit_leaves_the_session_usable(db, Note):
    @event_handler("note.created", delivery="after_commit")
    def fails(note):
        raise ValueError("no")

    with expect_failures() as failures, db.session() as session:
        session.add(Note(text="one"))
        session.commit()
        session.add(Note(text="two"))
        session.commit()
        assert 2 == len(session.query(Note).all())

    assert 2 == len(failures)
    assert ["+one", "+two"] == seen


@pytest.mark.parametrize("delivery", ["after_commit", "transaction"])
def test_a_handler_may_save_through_its_own_door(db, Note, delivery):
    @event_handler("note.created", delivery=delivery)
    def follow(note):
        if note.text == "one":
            Note(text="two").save()

    with db.session() as session:
        session.add(Note(text="one"))
        session.commit()

    assert ["one", "two"] == texts(db)
    assert ["+one", "+two"] == sorted(seen)


def test_after_commit_handlers_may_use_the_session_that_committed(db, Note):
    with db.session() as session:

        @event_handler("note.created", delivery="after_commit")
        def count(note):
            seen.append(session.query(Note).count())

        session.add(Note(text="one"))
        session.commit()

    assert ["+one", 1] == seen


def test_the_subject_after_the_commit_is_loaded_fresh(db, Note):
    subjects = []

    @event_handler("note.created", delivery="after_commit")
    def keep(note):
        subjects.append(note)

    note = Note(text="one").save()

    assert note is not subjects[0]
    assert (note.id, "one") == (subjects[0].id, subjects[0].text)


def test_a_sessions_begin_commits_once_when_sessionmaker_begins(db, Note):
    make = sessionmaker(db.engine)

    with make.begin() as session:
        session.add(Note(text="one"))

    assert ["+one"] == seen


async def test_an_async_session_closed_without_commit_gives_up(db, Note):
    async with db.asession() as session:
        session.add(Note(text="one"))
        await session.flush()

    assert ["-one"] == seen
    assert [] == names(db)


async def test_a_cancelled_transaction_is_rolled_back(db, Note):
    reached = asyncio.Event()

    async def work():
        async with db.transaction():
            await Note(text="one").asave()
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["-one"] == seen
    assert [] == names(db)


# --- what has no boundary ---


def test_autocommit_is_refused_before_anything_is_lost(db, Note):
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        session = Session(bind=connection)
        session.add(Note(text="one"))

        with pytest.raises(AutocommitRefused, match="a save of Note on an AUTOCOMMIT connection"):
            session.flush()

    assert [] == names(db)


def test_autocommit_is_refused_before_the_row_is_written(db, Note, look):
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        session = Session(bind=connection)
        session.add(Note(text="one"))
        with pytest.raises(AutocommitRefused):
            session.flush()

    assert 0 == look.rows("notes")


def test_a_transaction_object_serves_one_block_at_a_time(db):
    transaction = db.transaction()

    with transaction:
        with pytest.raises(TransactionError, match="open already"):
            with transaction:
                pass
