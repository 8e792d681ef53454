"""Sharding: a Session that chooses a database for each record, late in its flush, is left to its choice."""

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import BaseModel, IntegerField, StringField, attach, connect, post_commit, post_update
from earnorm.backends.sqlalchemy import attention
from tests.flows.stories import log

heard = []


@pytest.fixture
def City(tmp_path):
    heard.clear()

    class City(BaseModel):
        name = StringField()
        continent = StringField()

        @post_commit
        def committed(self, event):
            heard.append(f"{event.name} {self.name}")

    return City


def engine_for(City, path):
    engine = create_engine(f"sqlite:///{path}")
    BaseModel.metadata.create_all(engine)
    return engine


def test_each_record_goes_to_its_own_shard(City, tmp_path):
    """The shard was asked for before the flush, without the record, and the chooser failed."""
    shards = {name: engine_for(City, tmp_path / f"{name}.db") for name in ("asia", "africa")}
    options = {
        "shards": shards,
        "shard_chooser": lambda mapper, instance, clause=None: instance.continent,
        "identity_chooser": lambda *args, **options: list(shards),
        "execute_chooser": lambda context: list(shards),
    }

    with ShardedSession(**options) as session:
        session.add_all([City(name="Osaka", continent="asia"), City(name="Lagos", continent="africa")])
        session.commit()

    assert ["city.created Lagos", "city.created Osaka"] == sorted(heard)
    for name, engine in shards.items():
        with Session(engine) as session:
            assert [name] == [city.continent for city in session.query(City)]
        engine.dispose()


def test_a_flush_opens_its_connection_no_sooner_than_without_hooks(City, tmp_path):
    """It was opened before `before_flush` of others, who may yet choose it."""
    engine = engine_for(City, tmp_path / "one.db")
    order = []

    with Session(engine) as session:
        event.listen(session, "before_flush", lambda *_: order.append("flush"))
        event.listen(session, "after_begin", lambda *_: order.append("begin"))
        session.add(City(name="Osaka", continent="asia"))
        session.commit()
    engine.dispose()

    assert ["flush", "begin"] == order
    assert ["city.created Osaka"] == heard


# --- amid a flush ---


@pytest.fixture
def Town():
    told.clear()

    class Town(BaseModel):
        id = IntegerField(primary_key=True)
        continent = StringField()
        visits = IntegerField(default=0)

        @post_update
        def updated(self, event):
            told.append((event.name, self.continent, event.changes["visits"].new))

    return Town


told = []


@pytest.fixture
def sharded(Town, tmp_path):
    shards = {name: engine_for(Town, tmp_path / f"{name}.db") for name in ("asia", "africa")}
    with ShardedSession(
        shards=shards,
        shard_chooser=lambda mapper, instance, clause=None: instance.continent,
        identity_chooser=lambda *args, **options: list(shards),
        execute_chooser=lambda context: list(shards),
        expire_on_commit=False,
    ) as session:
        yield session
    for engine in shards.values():
        engine.dispose()


def test_what_a_shard_works_out_is_read_back_from_that_shard(Town, sharded):
    """The shard was asked for without a record, and the chooser failed."""
    towns = [Town(id=number, continent=name) for number, name in ((1, "asia"), (2, "africa"))]
    sharded.add_all(towns)
    sharded.commit()

    for town in towns:
        town.visits = Town.visits + 1
    sharded.commit()

    assert [("town.updated", "africa", 1), ("town.updated", "asia", 1)] == sorted(told)


def test_a_model_that_nobody_hears_of_is_looked_up_on_no_shard(tmp_path, monkeypatch):
    """The look at the subscriptions asked for a shard without a record, and the chooser failed."""

    class Base(DeclarativeBase):
        pass

    class Village(Base):
        __tablename__ = "villages"
        id: Mapped[int] = mapped_column(primary_key=True)
        continent: Mapped[str]

    attach(Base)
    monkeypatch.setattr(attention, "LOOK_AGAIN", -1.0)
    with (
        connect(f"sqlite:///{tmp_path}/asia.db", worker=False) as db,
        ShardedSession(
            shards={"asia": db.engine},
            shard_chooser=lambda mapper, instance, clause=None: instance.continent,
            identity_chooser=lambda *args, **options: ["asia"],
            execute_chooser=lambda context: ["asia"],
        ) as session,
    ):
        Base.metadata.create_all(db.engine)
        for number in (1, 2):
            session.add(Village(id=number, continent="asia"))
            session.commit()

        assert 0 == len(log(db))
