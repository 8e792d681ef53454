"""What the database changes by itself when a key is changed that others refer to: ON UPDATE CASCADE and its like."""

import pytest
from sqlalchemy import ForeignKey, ForeignKeyConstraint, event, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from earnorm import attach, post_update
from earnorm.errors import BulkRefused
from tests.flows.stories import log, pairs

SEEN: list[tuple[object, ...]] = []


class Models:
    """A shop by its slug; its shelves and their boxes are named after it, and guests refer to it in passing."""

    def __init__(self, *, policy="rows", heard=True, passive=True):
        class Base(DeclarativeBase):
            pass

        class Shop(Base):
            __tablename__ = "shops"
            id: Mapped[int] = mapped_column(primary_key=True)
            slug: Mapped[str] = mapped_column(unique=True)
            name: Mapped[str] = mapped_column(default="")
            shelves: Mapped[list["Shelf"]] = relationship()
            fans: Mapped[list["Fan"]] = relationship(passive_updates=passive)

        class Shelf(Base):
            __tablename__ = "shelves"
            __bulk__ = policy
            shop: Mapped[str] = mapped_column(ForeignKey("shops.slug", onupdate="CASCADE"), primary_key=True)
            number: Mapped[int] = mapped_column(primary_key=True)
            note: Mapped[str] = mapped_column(default="")

            if heard:

                @post_update
                def moved(self):
                    SEEN.append((self.shop, self.number))

        class Box(Base):
            __tablename__ = "boxes"
            __table_args__ = (ForeignKeyConstraint(["shop", "shelf"], [Shelf.shop, Shelf.number], onupdate="CASCADE"),)
            id: Mapped[int] = mapped_column(primary_key=True)
            shop: Mapped[str]
            shelf: Mapped[int]
            label: Mapped[str] = mapped_column(default="")

        class Guest(Base):
            __tablename__ = "guests"
            id: Mapped[int] = mapped_column(primary_key=True)
            shop: Mapped[str | None] = mapped_column(ForeignKey("shops.slug", onupdate="SET NULL"))

        class Fan(Base):
            __tablename__ = "fans"
            id: Mapped[int] = mapped_column(primary_key=True)
            shop: Mapped[str] = mapped_column(ForeignKey("shops.slug", onupdate="SET DEFAULT"), server_default="main")

        attach(Base, log="all" if heard else "subscribed")
        self.Base, self.Shop, self.Shelf, self.Box, self.Guest, self.Fan = Base, Shop, Shelf, Box, Guest, Fan

    def seed(self, db):
        self.Base.metadata.create_all(db.engine)
        with Session(db.engine) as session:
            session.add_all([self.Shop(id=1, slug="tea"), self.Shop(id=2, slug="main"), self.Shop(id=3, slug="ink")])
            session.flush()
            session.add_all([self.Shelf(shop="tea", number=7), self.Shelf(shop="ink", number=7)])
            session.flush()
            session.add_all(
                [
                    self.Box(id=1, shop="tea", shelf=7),
                    self.Guest(id=1, shop="tea"),
                    self.Fan(id=1, shop="tea"),
                ]
            )
            session.commit()
        SEEN.clear()
        return self


@pytest.fixture
def models(db):
    return Models().seed(db)


@pytest.fixture
def since(db):
    """What was told since the models were there."""
    before = len(log(db))
    return lambda: sorted((e.name, e.key, pairs(e)) for e in log(db)[before:])


FOLLOWED = [
    ("box.updated", "box:1", {"shop": ("tea", "chai")}),
    ("fan.updated", "fan:1", {"shop": ("tea", "main")}),
    ("guest.updated", "guest:1", {"shop": ("tea", None)}),
    ("shelf.updated", "shelf:chai/7", {"shop": ("tea", "chai")}),
    ("shop.updated", "shop:1", {"slug": ("tea", "chai")}),
]


def by_unit_of_work(session, Shop):
    session.get(Shop, 1).slug = "chai"


def by_statement(session, Shop):
    session.execute(update(Shop).where(Shop.id == 1).values(slug="chai"))


def by_returning(session, Shop):
    rows = session.execute(update(Shop).where(Shop.id == 1).values(slug="chai").returning(Shop.id))
    assert [1] == rows.scalars().all()


def by_expression(session, Shop):
    session.get(Shop, 1).slug = func.replace(Shop.slug, "tea", "chai")


def by_key(session, Shop):
    session.execute(update(Shop), [{"id": 1, "slug": "chai"}])


def by_mappings(session, Shop):
    session.bulk_update_mappings(Shop, [{"id": 1, "slug": "chai"}])


def by_objects(session, Shop):
    shop = session.get(Shop, 1)
    session.expunge(shop)
    shop.slug = "chai"
    session.bulk_save_objects([shop])


def after_expiry(session, Shop):
    shop = session.get(Shop, 1)
    session.expire(shop)
    shop.slug = "chai"


def with_others_loaded(session, Shop):
    shop = session.get(Shop, 1)
    assert 1 == len(shop.shelves)
    shop.slug = "chai"


def by_a_listener(session, Shop):
    shop = session.get(Shop, 1)
    event.listen(session, "before_flush", lambda *_: setattr(shop, "slug", "chai"), once=True)
    session.get(Shop, 2).name = "Main"
    session.flush()


WAYS = [
    by_unit_of_work,
    by_statement,
    by_returning,
    by_expression,
    by_key,
    by_mappings,
    by_objects,
    after_expiry,
    with_others_loaded,
]


@pytest.mark.parametrize("way", [*WAYS, by_a_listener], ids=lambda way: way.__name__)
def test_rows_that_follow_a_key_are_told_with_old_and_new_values(way, db, models, since):
    """Nothing was told of them."""
    with Session(db.engine) as session:
        way(session, models.Shop)
        session.commit()

    others = [told for told in since() if told[1] != "shop:2"]
    assert FOLLOWED == others
    assert ("chai", 7) == SEEN[-1]
    with Session(db.engine) as session:
        assert "chai" == session.scalars(select(models.Box.shop)).one()


def test_those_that_the_orm_writes_itself_are_told_once(db, since):
    models = Models(passive=False).seed(db)
    before = len(log(db))
    with Session(db.engine) as session:
        shop = session.get(models.Shop, 1)
        assert 1 == len(shop.fans)
        shop.slug = "chai"
        session.commit()

    written = ("fan.updated", "fan:1", {"shop": ("tea", "chai")})
    assert sorted([written, *FOLLOWED[:1], *FOLLOWED[2:]]) == sorted(
        (e.name, e.key, pairs(e)) for e in log(db)[before:]
    )
    assert [("chai", 7)] == SEEN


def test_a_follower_that_is_changed_by_the_same_flush_tells_both(db, models, since):
    with Session(db.engine) as session:
        box = session.get(models.Box, 1)
        session.get(models.Shop, 1).slug = "chai"
        box.label = "full"
        session.commit()

    assert {"label": ("", "full"), "shop": ("tea", "chai")} == next(told[2] for told in since() if told[1] == "box:1")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_event_for_all_of_a_model_that_wants_no_more(way, db):
    models = Models(policy="batch").seed(db)
    before = len(log(db))
    with Session(db.engine) as session:
        way(session, models.Shop)
        session.commit()

    told = [e for e in log(db)[before:] if e.name.startswith("shelf")]
    assert {("shelf.bulk_updated", 1, "shop")} == {(e.name, e.payload["count"], *e.payload["fields"]) for e in told}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_model_that_refuses_bulk_writes_refuses_to_follow(way, db):
    models = Models(policy="refuse").seed(db)
    with Session(db.engine) as session:
        with pytest.raises(BulkRefused, match="'refuse'"):
            way(session, models.Shop)
            session.commit()
        session.rollback()
        assert {"tea", "main", "ink"} == set(session.scalars(select(models.Shop.slug)))


def upsert(session, Shop):
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(Shop)


def test_an_upsert_that_sets_what_others_follow_is_refused(db, models, since):
    with Session(db.engine) as session:
        given = upsert(session, models.Shop).values(id=1, slug="chai", name="Chai")
        with pytest.raises(BulkRefused, match="DO UPDATE sets slug"):
            session.execute(given.on_conflict_do_update(index_elements=["id"], set_={"slug": given.excluded.slug}))
        given = upsert(session, models.Shop).values(id=1, slug="tea", name="Chai")
        session.execute(
            given.on_conflict_do_update(index_elements=["slug"], set_={"slug": "tea", "name": given.excluded.name})
        )
        session.commit()

    assert [("shop.updated", "shop:1", {"name": ("", "Chai")})] == since()


class Tree:
    """Pages by a path that is their key, below each other."""

    def __init__(self, db, *, log="all"):
        class Base(DeclarativeBase):
            pass

        class Page(Base):
            __tablename__ = "pages"
            path: Mapped[str] = mapped_column(primary_key=True)
            above: Mapped[str | None] = mapped_column(ForeignKey("pages.path", onupdate="CASCADE"))
            title: Mapped[str] = mapped_column(default="")

        attach(Base, log=log)
        Base.metadata.create_all(db.engine)
        with Session(db.engine) as session:
            for path, above in ("/", None), ("/a", "/"), ("/b", "/"):
                session.add(Page(path=path, above=above))
                session.flush()
            session.get(Page, "/").above = "/"
            session.commit()
        self.Page = Page


def test_rows_of_the_same_table_follow_once(db):
    Page = Tree(db).Page
    before = len(log(db))
    with Session(db.engine) as session:
        session.get(Page, "/").path = "/root"
        session.get(Page, "/b").title = "B"
        session.commit()

    moved = {"above": ("/", "/root")}
    assert {
        "page:/a": moved,
        "page:/b": {"title": ("", "B"), **moved},
        "page:/root": {"path": ("/", "/root"), **moved},
    } == {e.key.replace("%2F", "/"): pairs(e) for e in log(db)[before:]}


def test_a_statement_that_sets_a_followed_primary_key_is_refused(db):
    Page = Tree(db).Page
    with Session(db.engine) as session, pytest.raises(BulkRefused, match="sets the primary key"):
        session.execute(update(Page).where(Page.path == "/").values(path="/root"))


@pytest.fixture
def statements(db):
    seen = []
    event.listen(db.engine, "before_cursor_execute", lambda _c, _u, statement, *_: seen.append(statement))
    return seen


def test_nothing_is_asked_where_no_key_changes_that_others_follow(db, models, statements):
    with Session(db.engine) as session:
        shop = session.get(models.Shop, 1)
        del statements[:]
        shop.name = "Tea"
        shop.slug = "tea"
        session.flush()
        session.execute(update(models.Shop).values(name="Shop"))
        session.execute(insert(models.Guest), [{"id": 9}])

    assert [] == [s for s in statements if "shelves" in s or ("guests" in s and not s.startswith("INSERT"))]


def test_nothing_is_asked_where_nobody_hears_of_followers(db, statements):
    models = Models(heard=False)
    models.Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add(shop := models.Shop(id=1, slug="tea"))
        session.flush()
        del statements[:]
        shop.slug = "chai"
        session.flush()
        session.execute(update(models.Shop).values(slug="tea"))

    assert ["UPDATE", "UPDATE"] == [s.split()[0] for s in statements if "shops" in s or "SELECT" in s]


def test_a_captured_table_tells_its_followers_once(db, models):
    db.captures.install(models.Guest, models.Box)
    before = len(log(db))
    with Session(db.engine) as session:
        by_unit_of_work(session, models.Shop)
        session.commit()
    db.drain()

    told = sorted((e.name, e.key, pairs(e)) for e in log(db)[before:])
    assert FOLLOWED == told
