"""Strange values: keys that the database works out, values that do not compare, Sessions that nobody closes."""

import gc
import weakref

from sqlalchemy import JSON, Integer, TypeDecorator, literal
from sqlalchemy.orm import mapped_column

from earnorm import BaseModel, IntegerField, StringField, post_save, pre_save
from tests.flows.stories import names


def test_a_key_may_be_an_expression_that_the_database_works_out(db):
    """An event's key was asked whether it holds None, and a SQL expression has no truth value."""
    keys = []

    class Shelf(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

        @pre_save
        def before(self, event):
            keys.append(event.key)

        @post_save
        def after(self, event):
            keys.append(event.key)

    db.ready()

    with db.session() as session:
        session.add(Shelf(id=literal(40) + 2, name="top"))
        session.commit()

    assert ["", "shelf:42"] == keys
    assert ["shelf.created"] == names(db)


class Vector(list):
    """Compares as arrays do: element by element."""

    __hash__ = None

    def __eq__(self, other):
        return Comparison()


class Comparison:
    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")


class VectorType(TypeDecorator):
    impl = JSON
    cache_ok = True

    def process_result_value(self, value, dialect):
        return Vector(value)


def test_values_whose_comparison_is_neither_true_nor_false_count_as_changed(db):
    """The flush failed with ValueError where SQLAlchemy alone writes the row."""

    class Point(BaseModel):
        id = mapped_column(Integer, primary_key=True)
        at = mapped_column(VectorType)

    db.ready()
    point = Point(id=1, at=Vector([1, 2])).save()

    with db.transaction():
        point.at = Vector([3, 4])
        point.save()
        point.at = Vector([5, 6])
        point.save()

    assert ["point.created", "point.updated"] == names(db)
    assert [5, 6] == list(Point.get(1).at)


def test_a_session_that_nobody_closes_goes_with_its_last_user(db):
    """Its events held it, it held its connection, and our table of outboxes held those, for ever."""

    class Leaf(BaseModel):
        name = StringField()

    db.ready()
    session = db.session()
    session.add(Leaf(name="one"))
    session.flush()
    seen = weakref.ref(session)

    del session
    gc.collect()

    assert seen() is None
