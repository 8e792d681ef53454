"""Write paths: each cell of the table of `tools/write_paths.py`, on every database that there is."""

from contextlib import ExitStack

import pytest
from sqlalchemy.orm import Session

from earnorm import default_bus
from earnorm.errors import BulkRefused
from tests.flows.stories import log, pairs
from tools.stage import make_world
from tools.write_paths import PATHS


@pytest.fixture
def stage(db):
    """Opens a world: a Session on the database, its rows seeded."""
    with ExitStack() as stack:

        def open_world(**options):
            world = make_world(**options)
            db.ready()
            session = stack.enter_context(Session(db.engine, expire_on_commit=False))
            world.seed(session)
            world.open(session)
            return world

        yield open_world


def write(way, world):
    """Walk the path and commit; the events that were told, in order."""
    if way.title == "new record, save":
        # save() finds its Session by the record's own.
        world.session.add(record := world.Account(id=2, name="Bob"))
        with default_bus.capture() as events:
            record.save()
    else:
        with default_bus.capture() as events:
            way.write(world)
    world.session.commit()
    return events


def told(events):
    return [(event.name, event.key, pairs(event)) for event in events]


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.id)
def test_what_is_told_row_by_row(way, stage, db):
    expected = [(e.name, e.key, e.changes) for e in way.events]
    events = write(way, stage())

    assert expected == told(events)
    # In the log a deletion stands where the transaction ended.
    assert sorted(map(str, expected)) == sorted(map(str, told(log(db))))


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.id)
def test_pre_hooks(way, stage):
    world = stage(hooks="pre")

    if way.pre == "refused":
        with pytest.raises(BulkRefused, match="the hook"):
            write(way, world)
        world.session.rollback()
        assert "Ada" == world.account.name
    else:
        write(way, world)
        assert (way.pre == "runs") == bool(world.seen)


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.id)
def test_post_hooks(way, stage):
    world = stage(hooks="post")
    write(way, world)

    assert (way.post == "runs") == bool(world.seen)


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.id)
def test_one_event_for_each_statement(way, stage):
    events = write(way, stage(policy="batch"))

    if way.batch:
        assert [f"account.{way.batch}"] == [event.name for event in events]
        assert "" == events[0].key
    elif "database's cascade" in way.title:
        assert ["account.deleted", "note.bulk_updated", "trace.bulk_deleted"] == [event.name for event in events]
    elif "has others follow" in way.title:
        assert ["account.updated", "label.bulk_updated"] == [event.name for event in events]
    else:
        assert [(e.name, e.key, e.changes) for e in way.events] == told(events)


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.id)
def test_refused_bulk_writes(way, stage):
    world = stage(policy="refuse")

    if way.refuse:
        with pytest.raises(BulkRefused, match="'refuse'"):
            write(way, world)
        world.session.rollback()
        assert ("Ada", 1) == (world.account.name, world.account.visits)
    else:
        write(way, world)
