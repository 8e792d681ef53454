"""Strange values: keys that the database works out, values that do not compare, Sessions that nobody closes."""

import gc
import weakref
from dataclasses import dataclass

import pytest
from sqlalchemy import JSON, Integer, TypeDecorator, insert, literal, update
from sqlalchemy.orm import mapped_column

from earnorm import BaseModel, IntegerField, StringField, event_handler, post_save, pre_save
from tests.flows.stories import log, names


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


class Cents:
    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Cents) and self.number == other.number

    __hash__ = None


class CentsType(TypeDecorator):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.number

    def process_result_value(self, value, dialect):
        return None if value is None else Cents(value)


@dataclass
class Place:
    street: str
    number: int


class PlaceType(TypeDecorator):
    impl = JSON
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else [value.street, value.number]

    def process_result_value(self, value, dialect):
        return None if value is None else Place(*value)


@pytest.fixture
def House(db):
    class House(BaseModel):
        id = IntegerField(primary_key=True)
        price = mapped_column(CentsType)
        places = mapped_column(PlaceType)

    db.ready()
    return House


def test_old_and_new_values_of_the_application_s_own_types_reach_handlers_as_such(House, db):
    """The log left them out, so that `old_price` was None; and what was a dataclass came as a dictionary."""
    heard = []

    @event_handler("house.updated", name="hear")
    def hear(house, event, old_price, new_price, old_places):
        heard.append((old_price, new_price, old_places, event.payload["price"]))

    house = House(id=1, price=Cents(5), places=Place("High", 1)).save()
    house.price, house.places = Cents(7), Place("Low", 2)
    house.save()
    db.drain()

    assert [(Cents(5), Cents(7), Place("High", 1), Cents(7))] == heard


def test_so_do_those_of_bulk_writes(House, db):
    heard = []

    @event_handler("house.price_changed", name="hear")
    def hear(house, old_price, new_price):
        heard.append((house.id, old_price.number, new_price.number))

    with db.session() as session:
        rows = [{"id": number, "price": Cents(5), "places": Place("High", number)} for number in range(20)]
        session.execute(insert(House), rows)
        session.commit()
        session.execute(update(House).values(price=Cents(6)))
        session.commit()
    db.drain()

    assert [(number, 5, 6) for number in range(20)] == sorted(heard)
    assert [] == list(db.audit(House))


def test_the_last_values_of_a_deleted_record_are_of_its_types(House, db):
    heard = []

    @event_handler("house.deleted", name="hear")
    def hear(house):
        heard.append((house.price, house.places))

    House(id=1, price=Cents(5), places=Place("High", 1)).save().delete()
    db.drain()

    assert [(Cents(5), Place("High", 1))] == heard


def test_an_audit_compares_them_as_such(House, db):
    """Every record with a value object was told as drifted, from a dictionary to the object."""
    House(id=1, price=Cents(5), places=Place("High", 1)).save()
    assert [] == list(db.audit(House))

    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE houses SET price = 9")

    (drift,) = db.audit(House)
    assert {"price": (Cents(5), Cents(9))} == drift.fields


def test_a_value_that_its_column_s_type_cannot_store_is_left_out_and_stops_nothing(db):
    class Moody(TypeDecorator):
        impl = Integer
        cache_ok = True

        def process_bind_param(self, value, dialect):
            if dialect.name == "default":
                raise RuntimeError("which database is this?")
            return value.number

    class House(BaseModel):
        id = IntegerField(primary_key=True)
        price = mapped_column(Moody)

    House(id=1, price=Cents(5)).save()

    (created,) = log(db)
    assert {"id": 1} == dict(created.payload)
