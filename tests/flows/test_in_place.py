"""Values that are changed in place, and composites: what EarnORM reads back into a record goes on being followed."""

from dataclasses import dataclass

import pytest
from sqlalchemy import JSON, select, update
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import Composite, DeclarativeBase, Mapped, composite, mapped_column

from earnorm import attach, post_save
from tests.flows.stories import log, names, pairs


@dataclass
class Point:
    x: int
    y: int


@pytest.fixture
def Page(db):
    class Base(DeclarativeBase):
        pass

    class Page(Base):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        visits: Mapped[int] = mapped_column(default=0)
        data: Mapped[dict | None] = mapped_column(MutableDict.as_mutable(JSON))
        tags: Mapped[list | None] = mapped_column(MutableList.as_mutable(JSON))
        stamp: Mapped[dict | None] = mapped_column(MutableDict.as_mutable(JSON), onupdate=lambda: {"by": "update"})
        left: Mapped[int] = mapped_column(default=0)
        top: Mapped[int] = mapped_column(default=0)
        place: Composite[Point] = composite(Point, "left", "top")

        @post_save
        def look(self, changes): ...

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    db.ready()
    with db.session() as session:
        session.add(Page(id=1, data={"a": 1}, tags=["a"], stamp={}))
        session.commit()
    return Page


def stored(session, column):
    return session.connection().scalar(select(column.property.columns[0]))


@pytest.mark.parametrize("way", ["where", "by key"])
def test_a_change_in_place_after_a_bulk_write_is_saved(db, Page, way):
    """The record had got a plain dictionary, and what was changed in it then was lost."""
    with db.session() as session:
        page = session.get(Page, 1)
        if way == "where":
            session.execute(update(Page).values(data={"b": 2}))
        else:
            session.execute(update(Page), [{"id": 1, "data": {"b": 2}}])
        page.data["c"] = 3
        session.flush()
        assert {"b": 2, "c": 3} == stored(session, Page.data)
        session.commit()
    assert ({"a": 1}, {"b": 2, "c": 3}) == pairs(log(db)[-1])["data"]


def test_a_change_in_place_of_what_an_update_has_worked_out_is_saved(db, Page):
    with db.session() as session:
        page = session.get(Page, 1)
        page.visits = 1
        session.flush()
        page.stamp["c"] = 3
        session.flush()
        assert {"by": "update", "c": 3} == stored(session, Page.stamp)


def test_a_change_in_place_that_leaves_the_value_as_it_was_tells_nothing(db, Page):
    with db.session() as session:
        page = session.get(Page, 1)
        page.data["a"] = 1
        page.tags.append("b")
        page.tags.pop()
        session.flush()
        session.commit()
    assert not {"data", "tags"} & {name for each in log(db)[1:] for name in pairs(each)}


def test_a_composite_follows_a_bulk_write(db, Page):
    with db.session() as session:
        page = session.get(Page, 1)
        assert Point(0, 0) == page.place
        session.execute(update(Page).values(left=5), execution_options={"synchronize_session": False})
        assert Point(5, 0) == page.place
        session.commit()
    assert ["page.created", "page.updated"] == names(db)
