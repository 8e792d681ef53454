"""Sharding: a Session that chooses a database for each record, late in its flush, is left to its choice."""

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session

from earnorm import BaseModel, StringField, post_commit

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
