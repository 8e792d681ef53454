"""Orphans: what a flush deletes because its parent let go of it has the hooks and events of any deletion."""

import pytest
from sqlalchemy.orm import Mapped, relationship

from earnorm import BaseModel, ForeignKeyField, StringField, post_delete, pre_delete, pre_save
from earnorm.errors import Abort
from tests.flows.stories import names

heard = []
kept = set()


@pytest.fixture(autouse=True)
def nothing_heard():
    heard.clear()
    kept.clear()


class Told:
    @pre_save
    def before_save(self):
        heard.append(f"pre_save {self.name}")

    @pre_delete
    def before_delete(self):
        heard.append(f"pre_delete {self.name}")
        if self.name in kept:
            raise Abort("kept")

    @post_delete
    def after_delete(self):
        heard.append(f"post_delete {self.name}")


@pytest.fixture(params=["with a way back", "without"])
def Basket(request, db):
    back = "basket" if request.param == "with a way back" else None

    class Basket(BaseModel):
        name = StringField()
        if back:
            items: Mapped[list["Item"]] = relationship(cascade="all, delete-orphan", back_populates="basket")
        else:
            items: Mapped[list["Item"]] = relationship(cascade="all, delete-orphan")

    class Item(Told, BaseModel):
        name = StringField()
        basket_id = ForeignKeyField("Basket")
        if back:
            basket: Mapped["Basket"] = relationship(back_populates="items")
        labels: Mapped[list["Label"]] = relationship(cascade="all, delete-orphan")

    class Label(Told, BaseModel):
        name = StringField()
        item_id = ForeignKeyField("Item")

    Basket.Item, Basket.Label = Item, Label
    db.ready()
    return Basket


@pytest.fixture
def basket(Basket):
    basket = Basket(name="b", items=[Basket.Item(name="pear", labels=[Basket.Label(name="ripe")])]).save()
    heard.clear()
    return basket


def test_a_part_that_its_whole_lets_go_of_is_told_before_and_after(db, basket):
    """SQLAlchemy marks orphans while it flushes: `pre_delete` never ran, and could not veto."""
    with db.session() as session:
        session.add(basket)
        basket.items.clear()
        session.commit()

    assert ["pre_delete pear", "pre_delete ripe", "post_delete pear", "post_delete ripe"] == heard


def test_an_orphan_is_deleted_in_the_log(db, basket):
    with db.session() as session:
        session.add(basket)
        basket.items.clear()
        session.commit()

    assert ["item.deleted", "label.deleted"] == names(db)[-2:]


def test_a_pre_hook_may_keep_an_orphan_from_deletion(db, Basket, basket):
    with db.session() as session:
        session.add(basket)
        kept.add("pear")
        basket.items.clear()
        with pytest.raises(Abort):
            session.commit()

    assert ["pear"] == [item.name for item in Basket.Item.find()]


def test_a_part_that_moves_to_another_whole_is_no_orphan(db, Basket, basket):
    with db.session() as session:
        session.add(basket)
        pear = basket.items.pop()
        session.add(Basket(name="c", items=[pear]))
        session.commit()

    assert "pre_delete pear" not in heard
    assert ["pear"] == [item.name for item in Basket.Item.find()]


def test_a_new_part_that_is_let_go_of_before_it_was_written_is_told_nothing(db, Basket, basket):
    with db.session() as session:
        session.add(basket)
        plum = Basket.Item(name="plum")
        basket.items.append(plum)
        basket.items.remove(plum)
        session.commit()

    assert [] == heard


def test_what_a_deletion_takes_along_is_told_before_and_after(db, basket):
    with db.session() as session:
        session.add(basket)
        session.delete(basket)
        session.commit()

    assert ["pre_delete pear", "pre_delete ripe", "post_delete pear", "post_delete ripe"] == heard


def test_a_part_let_go_of_by_a_whole_that_is_deleted_goes_with_it(db, Basket):
    basket = Basket(name="c", items=[Basket.Item(name="plum")]).save()
    heard.clear()

    with db.session() as session:
        session.add(basket)
        basket.items.clear()
        session.delete(basket)
        session.commit()

    assert ["pre_delete plum", "post_delete plum"] == heard
