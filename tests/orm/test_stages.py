"""Stages on databases: the suite, by each driver."""

from uuid import uuid4

import pytest
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, mapped_column

from earnorm import BaseModel, StringField, connect
from earnorm.orm.stage import DatabaseStages
from earnorm.portal import await_here
from earnorm.testing.stage_suite import StageSuite
from tests import postgresql as postgres


class OnADatabase(StageSuite):
    @pytest.fixture
    def url(self):
        raise NotImplementedError

    @pytest.fixture
    def models(self):
        class Word(BaseModel):
            __tablename__ = "staged_words"
            text = StringField()

        class Follower(BaseModel):
            __tablename__ = "staged_followers"
            word_id: Mapped[str] = mapped_column(ForeignKey("staged_words.id", initially="DEFERRED", deferrable=True))

        return Word, Follower

    @pytest.fixture
    def db(self, url, models):
        with connect(url, worker=False) as db:
            yield db

    @pytest.fixture
    def stages(self, db):
        return DatabaseStages(db)

    @pytest.fixture
    def store(self, db):
        return db.store

    @pytest.fixture
    def write(self, door, models):
        Word, _ = models
        return lambda stage, text: save(stage, door, Word(text=text))

    @pytest.fixture
    def spoil(self, door, models):
        _, Follower = models
        return lambda stage, _: save(stage, door, Follower(word_id=uuid4()))

    @pytest.fixture
    def written(self, db, models):
        Word, _ = models

        def texts():
            with db.session() as session:
                return list(session.scalars(select(Word.text)))

        return texts


def save(stage, door, record):
    if door == "perform":
        stage.session.add(record)
        stage.session.flush()
    else:
        session = stage.async_session()
        session.add(record)
        await_here(session.flush())


class TestSQLiteStages(OnADatabase):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/stages.db"


REFUSE = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not on a sunday'; END $$"""
ASK_AT_THE_END = """CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON staged_sundays
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"""


class OnPostgreSQL(OnADatabase):
    def test_what_a_trigger_refuses_at_the_commit_is_to_blame_on_who_wrote_it(
        self, db, door, stages, store, perform, write, written
    ):
        """Its error is of no class that asyncpg's would say more of than that it is an error."""

        class Sunday(BaseModel):
            __tablename__ = "staged_sundays"

        with db.engine.begin() as connection:
            Sunday.__table__.create(connection)
            connection.exec_driver_sql(REFUSE)
            connection.exec_driver_sql(ASK_AT_THE_END)

        def spoil(stage, _):
            save(stage, door, Sunday())

        self.test_what_the_commit_refuses_is_to_blame_on_who_wrote_it_and_takes_all_along(
            stages, store, perform, write, spoil, written
        )


class TestPostgreSQLStages(OnPostgreSQL):
    @pytest.fixture
    def url(self, postgresql):
        return postgresql


class TestAsyncpgStages(OnPostgreSQL):
    doors = ("aperform",)

    @pytest.fixture
    def url(self):
        pytest.importorskip("asyncpg")
        with postgres.database() as url:
            yield url.set(drivername="postgresql+asyncpg")
