"""What type checkers see of fields, on a record and on its class."""

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID, uuid4

from sqlalchemy import BinaryExpression, ColumnElement, Select, select
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped

from earnorm.orm.fields import (
    BigIntegerField,
    BooleanField,
    BytesField,
    DateField,
    DateTimeField,
    DecimalField,
    EmailField,
    EnumField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    IntervalField,
    JSONField,
    SlugField,
    StringField,
    TextField,
    TimeField,
    URLField,
    UUIDField,
)


class Base(DeclarativeBase):
    pass


class Status(enum.StrEnum):
    OPEN = "open"
    PAID = "paid"


def even(value: int) -> bool:
    return value % 2 == 0


class Everything(Base):
    __tablename__ = "everything"

    id = UUIDField(primary_key=True, default=uuid4)
    string = StringField(min_length=1, max_length=10, pattern="[a-z]+", choices=["a", "b"], default="a")
    text = TextField()
    email = EmailField(unique=True)
    url = URLField(required=False)
    slug = SlugField(index=True)
    integer = IntegerField(min=0, max=10, validators=[even])
    big = BigIntegerField(required=False, default=lambda: 3)
    float = FloatField(min=0)
    decimal = DecimalField(precision=12, scale=4, min=0, default=Decimal("1.5"))
    maybe_decimal = DecimalField(required=False)
    boolean = BooleanField(default=False)
    maybe_boolean = BooleanField(required=False)
    date = DateField(default=date.today)
    datetime = DateTimeField(default=datetime.now)
    maybe_datetime = DateTimeField(required=False)
    time = TimeField()
    interval = IntervalField(max=timedelta(days=1))
    json = JSONField(default=dict)
    status = EnumField(Status, default=Status.OPEN)
    maybe_status = EnumField(Status, required=False)
    bytes = BytesField(max_length=10)
    maybe_bytes = BytesField(required=False, sensitive=True)
    parent = ForeignKeyField("Everything", on_delete="cascade")
    maybe_parent = ForeignKeyField("everything.id", required=False, on_delete="set null")
    number = ForeignKeyField("numbered.id", type_=int)
    maybe_number = ForeignKeyField("numbered.id", type_=int, required=False)
    annotated: Mapped[str] = StringField()


def on_a_record(thing: Everything) -> None:
    assert_type(thing.id, UUID)
    assert_type(thing.string, str)
    assert_type(thing.text, str)
    assert_type(thing.email, str)
    assert_type(thing.url, str | None)
    assert_type(thing.slug, str)
    assert_type(thing.integer, int)
    assert_type(thing.big, int | None)
    assert_type(thing.float, float)
    assert_type(thing.decimal, Decimal)
    assert_type(thing.maybe_decimal, Decimal | None)
    assert_type(thing.boolean, bool)
    assert_type(thing.maybe_boolean, bool | None)
    assert_type(thing.date, date)
    assert_type(thing.datetime, datetime)
    assert_type(thing.maybe_datetime, datetime | None)
    assert_type(thing.time, time)
    assert_type(thing.interval, timedelta)
    assert_type(thing.json, Any)
    assert_type(thing.status, Status)
    assert_type(thing.maybe_status, Status | None)
    assert_type(thing.bytes, bytes)
    assert_type(thing.maybe_bytes, bytes | None)
    assert_type(thing.parent, UUID)
    assert_type(thing.maybe_parent, UUID | None)
    assert_type(thing.number, int)
    assert_type(thing.maybe_number, int | None)
    assert_type(thing.annotated, str)


class Tidied(Base):
    """With a method that sets its field, which to pyright is a second word on what it is."""

    __tablename__ = "tidied"

    id = UUIDField(primary_key=True, default=uuid4)
    name: Mapped[str] = StringField()

    def tidy(self) -> None:
        self.name = self.name.strip()


def on_the_class() -> None:
    assert_type(Everything.string, InstrumentedAttribute[str])
    assert_type(Everything.url, InstrumentedAttribute[str | None])
    assert_type(Everything.string == "x", ColumnElement[bool])
    assert_type(Tidied.name == "x", ColumnElement[bool])
    assert_type(Everything.status.in_([Status.OPEN]), BinaryExpression[bool])
    assert_type(select(Everything.string), Select[str])


def wrong(thing: Everything) -> None:
    thing.string = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  a str field
    thing.integer = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  it is required
    StringField(min=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  text has a min_length
    IntegerField(default="x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  no int
    EnumField(Status, default="open")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  no member
