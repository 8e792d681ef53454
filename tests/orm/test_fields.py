"""Fields as columns: what they keep and give back, how they are defined, and which definitions are refused."""

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData, create_engine, delete, func, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, relationship
from sqlalchemy.schema import CreateTable

from earnorm.errors import InvalidField, UnreadableValue
from earnorm.orm.fields import (
    BigIntegerField,
    BooleanField,
    BytesField,
    DateField,
    DateTimeField,
    DecimalField,
    EmailField,
    EnumField,
    FieldSpec,
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
from earnorm.orm.spec import spec_of
from tests import postgresql as postgres


class Status(enum.StrEnum):
    OPEN = "open"
    PAID = "paid"


class Priority(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Shape(enum.Enum):
    ROUND = ("any", "thing")
    SQUARE = 4.5


class Base(DeclarativeBase):
    pass


class Everything(Base):
    __tablename__ = "everything"

    id = IntegerField(primary_key=True)
    string = StringField(required=False, max_length=20)
    body = TextField(required=False)
    email = EmailField(required=False)
    url = URLField(required=False)
    slug = SlugField(required=False)
    integer = IntegerField(required=False)
    big = BigIntegerField(required=False)
    real = FloatField(required=False)
    price = DecimalField(required=False, precision=15, scale=4)
    wide = DecimalField(required=False, precision=40, scale=20)
    flag = BooleanField(required=False)
    day = DateField(required=False)
    moment = DateTimeField(required=False)
    clock = TimeField(required=False)
    span = IntervalField(required=False)
    uuid = UUIDField(required=False)
    json = JSONField(required=False)
    status = EnumField(Status, required=False)
    priority = EnumField(Priority, required=False)
    shape = EnumField(Shape, required=False)
    raw = BytesField(required=False)
    other = StringField(required=False, column="another_name")


@pytest.fixture(scope="session")
def postgresql_engine():
    with postgres.schema() as url:
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        yield engine
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def session(request):
    if request.param == "sqlite":
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
    else:
        engine = request.getfixturevalue("postgresql_engine")
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(delete(table))
    with Session(engine) as session:
        yield session
    if request.param == "sqlite":
        engine.dispose()


def stored(session, **values):
    """The record as another session would read it."""
    record = Everything(**values)
    session.add(record)
    session.flush()
    key = record.id
    session.commit()
    session.expunge_all()
    return session.get_one(Everything, key)


def fresh_base():
    class Fresh(DeclarativeBase):
        pass

    return Fresh


def spec(field) -> FieldSpec:
    found = spec_of(field.column)
    assert found is not None
    return found


VALUES = {
    "string": "naïve 🦊",
    "body": "line\nline",
    "email": "ada@example.com",
    "url": "https://example.com/a?b#c",
    "slug": "a-slug",
    "integer": -(2**31),
    "big": 2**63 - 1,
    "real": 0.1,
    "price": Decimal("12345678901.2345"),
    "wide": Decimal("-12345678901234567890.12345678901234567890"),
    "flag": False,
    "day": date(2024, 2, 29),
    "moment": datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
    "clock": time(23, 59, 59, 999999),
    "span": timedelta(days=-3, microseconds=1),
    "uuid": UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
    "json": {"a": [1, None, {"b": "ü"}]},
    "status": Status.PAID,
    "priority": Priority.HIGH,
    "shape": Shape.ROUND,
    "raw": b"\0\xff",
    "other": "x",
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_went_in(session, name):
    record = stored(session, **VALUES)

    assert (VALUES[name], type(VALUES[name])) == (getattr(record, name), type(getattr(record, name)))


@pytest.mark.parametrize("name", sorted(VALUES.keys() - {"json"}))  # databases disagree on what equal JSON is
def test_a_stored_value_is_found_by_itself(session, name):
    record = stored(session, **VALUES)

    assert [record] == session.scalars(select(Everything).where(getattr(Everything, name) == VALUES[name])).all()


@pytest.mark.parametrize("name", VALUES)
def test_a_field_that_is_not_required_keeps_nothing(session, name):
    record = stored(session, **{name: None})

    assert getattr(record, name) is None
    assert 1 == session.scalar(select(func.count()).where(getattr(Everything, name).is_(None)))


def test_all_fields_have_a_column_in_postgresql():
    ddl = str(CreateTable(Everything.__table__).compile(dialect=postgresql.dialect()))

    assert "id SERIAL" in ddl
    assert "moment TIMESTAMP WITH TIME ZONE" in ddl
    assert "price NUMERIC(15, 4)" in ddl
    assert "wide NUMERIC(40, 20)" in ddl
    assert "span INTERVAL" in ddl
    assert "uuid UUID" in ddl
    assert "json JSONB" in ddl
    assert "real FLOAT(53)" in ddl
    assert "another_name VARCHAR" in ddl


# --- moments ----------------------------------------------------------------------------------


def test_a_moment_of_another_zone_is_the_same_moment(session):
    moment = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=7)))

    assert moment == stored(session, moment=moment).moment


def test_a_naive_moment_means_local_time(session):
    naive = datetime(2024, 1, 1, 12)
    record = stored(session, moment=naive)

    assert naive.astimezone(UTC) == record.moment
    assert UTC == record.moment.tzinfo
    assert [record] == session.scalars(select(Everything).where(Everything.moment == naive)).all()


def test_moments_sort_by_when_they_are_not_by_their_zone(session):
    later = datetime(2024, 1, 1, 10, tzinfo=UTC)
    earlier = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=7)))
    session.add_all([Everything(moment=later), Everything(moment=earlier)])
    session.flush()

    assert [earlier, later] == session.scalars(select(Everything.moment).order_by(Everything.moment)).all()


# --- decimals ---------------------------------------------------------------------------------


@given(st.decimals(min_value=-99999999999, max_value=99999999999, places=4))
def test_a_decimal_of_15_digits_survives_a_database_that_knows_doubles(value):
    kept = Everything.__table__.c.price.type
    dialect = create_engine("sqlite://").dialect

    assert value == kept.process_result_value(kept.process_bind_param(value, dialect), dialect)


def test_decimals_compare_and_sort_as_numbers(session):
    prices = [Decimal(9), Decimal("10.5"), Decimal(-2)]
    session.add_all([Everything(price=price) for price in prices])
    session.flush()

    assert sorted(prices) == session.scalars(select(Everything.price).order_by(Everything.price)).all()
    assert [Decimal("10.5")] == session.scalars(select(Everything.price).where(Everything.price > 9)).all()
    assert Decimal("17.5") == session.scalar(select(func.sum(Everything.price)))


def test_a_wide_decimal_is_found_however_it_is_written(session):
    stored(session, wide=Decimal("1.50"))

    assert 1 == session.scalar(select(func.count()).where(Everything.wide == Decimal("1.5")))
    assert 0 == session.scalar(select(func.count()).where(Everything.wide == Decimal(0)))


def test_a_negative_zero_is_zero(session):
    stored(session, wide=Decimal("-0.0"))

    assert 1 == session.scalar(select(func.count()).where(Everything.wide == 0))


def test_an_interval_adds_up(session):
    session.add_all([Everything(span=timedelta(hours=1)), Everything(span=timedelta(microseconds=1))])
    session.flush()

    assert timedelta(hours=1, microseconds=1) == session.scalar(select(func.sum(Everything.span)))


# --- enums ------------------------------------------------------------------------------------


def test_enums_of_strings_and_integers_are_kept_by_value_others_by_name(session):
    stored(session, status=Status.PAID, priority=Priority.HIGH, shape=Shape.SQUARE)

    assert ("paid", 10, "SQUARE") == session.execute(text("select status, priority, shape from everything")).one()


def test_an_enum_compares_with_what_its_column_keeps(session):
    record = stored(session, status=Status.PAID, priority=Priority.HIGH)

    matches = Everything.status.like("pa%") & (Everything.status == "paid") & (Everything.priority > 3)
    assert [record] == session.scalars(select(Everything).where(matches)).all()


@pytest.mark.parametrize("name, value", [("status", "'lost'"), ("priority", "7"), ("shape", "'LOST'")])
def test_a_member_that_no_longer_exists_is_named(session, name, value):
    session.execute(text(f"insert into everything ({name}) values ({value})"))

    with pytest.raises(UnreadableValue, match=r"(lost|7|LOST).*which is no (Status|Priority|Shape) \(known: "):
        session.scalars(select(getattr(Everything, name))).all()


def test_text_is_matched_like_any_text(session):
    record = stored(session, email="ada@example.com")

    assert [record] == session.scalars(select(Everything).where(Everything.email.ilike("%EXAMPLE%"))).all()


# --- specs ------------------------------------------------------------------------------------


def test_a_field_carries_its_spec():
    found = spec(StringField(min_length=2, max_length=5, pattern="a+", choices=["aa"], sensitive=True, required=False))

    assert ("StringField", str, False, True) == (found.kind, found.python_type, found.required, found.sensitive)
    assert (2, 5, "a+", ("aa",)) == (found.min_length, found.max_length, found.pattern.pattern, found.choices)


def test_a_field_that_was_called_not_sensitive_says_so():
    assert (False, True) == (spec(StringField()).sensitive_given, spec(StringField(sensitive=False)).sensitive_given)


def test_a_field_handed_down_by_a_mixin_or_an_abstract_base_keeps_its_spec():
    base = fresh_base()

    class Named:
        name = StringField(max_length=7)

    class Abstract(base):
        __abstract__ = True
        age = IntegerField(min=3)

    class Person(Named, Abstract):
        __tablename__ = "person"
        id = IntegerField(primary_key=True)

    assert 7 == spec_of(Person.__table__.c.name).max_length
    assert 3 == spec_of(Person.__table__.c.age).min


def test_a_field_may_be_annotated_as_sqlalchemy_does():
    base = fresh_base()

    class Person(base):
        __tablename__ = "person"
        id: Mapped[UUID] = UUIDField(primary_key=True)
        name: Mapped[str] = StringField(max_length=7)
        nick: Mapped[str | None] = StringField(required=False)
        boss_id: Mapped[UUID | None] = ForeignKeyField("Person", required=False)

    columns = Person.__table__.c
    assert (False, True, True) == (columns.name.nullable, columns.nick.nullable, columns.boss_id.nullable)
    assert 7 == spec_of(columns.name).max_length
    assert ("person", "id", None) == target_of(columns.boss_id)


def test_a_copied_table_has_each_foreign_key_once():
    base = fresh_base()

    class Person(base):
        __tablename__ = "person"
        id = UUIDField(primary_key=True)
        boss_id = ForeignKeyField("Person", required=False)

    copy = Person.__table__.to_metadata(MetaData())

    assert ["person.id"] == [key.target_fullname for key in copy.c.boss_id.foreign_keys]
    assert 1 == len(copy.foreign_key_constraints)


def test_a_default_reaches_core_inserts_as_well():
    base = fresh_base()

    class Thing(base):
        __tablename__ = "thing"
        id = UUIDField(primary_key=True, default=uuid4)
        tags = JSONField(default=list)
        count = IntegerField(default=3)

    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Thing))
        row = connection.execute(select(Thing.__table__)).one()

    assert (UUID, [], 3) == (type(row.id), row.tags, row.count)
    engine.dispose()


def test_a_callable_default_is_made_anew_for_each_record():
    field = spec(JSONField(default=list))

    assert [] == field.make_default()
    assert field.make_default() is not field.make_default()


def test_a_whole_number_as_default_of_a_decimal_is_a_decimal():
    assert Decimal is type(spec(DecimalField(default=3)).make_default())


def test_indexes_and_unique_constraints_reach_the_table():
    base = fresh_base()

    class Thing(base):
        __tablename__ = "thing"
        id = IntegerField(primary_key=True)
        code = StringField(unique=True)
        name = StringField(index=True)

    assert Thing.__table__.c.code.unique
    assert ["name"] == [column.name for index in Thing.__table__.indexes for column in index.columns]


def test_a_field_of_a_single_table_subclass_leaves_other_rows_alone():
    base = fresh_base()

    class Animal(base):
        __tablename__ = "animal"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id = IntegerField(primary_key=True)
        kind = StringField()

    class Dog(Animal):
        __mapper_args__ = {"polymorphic_identity": "dog"}
        tail = StringField()

    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Animal(), Dog(tail="long")])
        session.commit()
    assert spec_of(Dog.__table__.c.tail).required
    engine.dispose()


# --- definitions that are refused ---------------------------------------------------------------


REFUSED = {
    "min over max": lambda: IntegerField(min=3, max=2),
    "min of another type": lambda: IntegerField(min="1"),
    "min of a naive kind of number": lambda: IntegerField(min=True),
    "min that does not fit": lambda: IntegerField(min=-(2**40)),
    "min on text": lambda: StringField(min=1),
    "lengths crossed": lambda: StringField(min_length=3, max_length=2),
    "negative length": lambda: StringField(min_length=-1),
    "no length": lambda: StringField(max_length=0),
    "length of another type": lambda: StringField(max_length="3"),
    "length on a number": lambda: IntegerField(max_length=3),
    "broken pattern": lambda: StringField(pattern="("),
    "pattern of bytes": lambda: StringField(pattern=b"x"),
    "pattern on a number": lambda: IntegerField(pattern="x"),
    "choices of another type": lambda: StringField(choices=["a", 1]),
    "choices as pairs": lambda: StringField(choices=[("a", "A")]),
    "choices as text": lambda: StringField(choices="abc"),
    "no choices": lambda: StringField(choices=[]),
    "choice too long": lambda: StringField(choices=["abc"], max_length=2),
    "choices on a date": lambda: DateField(choices=[date(2024, 1, 1)]),
    "default not in choices": lambda: StringField(choices=["a"], default="b"),
    "default of another type": lambda: IntegerField(default="3"),
    "default out of range": lambda: IntegerField(min=1, default=0),
    "default that is no email": lambda: EmailField(default="nope"),
    "default None though required": lambda: StringField(default=None),
    "default shared": lambda: JSONField(default={}),
    "default in SQL": lambda: DateTimeField(default=func.now()),
    "default with arguments": lambda: StringField(default=lambda record: "x"),
    "one default for all keys": lambda: UUIDField(primary_key=True, default=uuid4()),
    "one default for a unique field": lambda: StringField(unique=True, default="x"),
    "key that may be None": lambda: IntegerField(primary_key=True, required=False),
    "key that is secret": lambda: StringField(primary_key=True, sensitive=True),
    "key that is unique": lambda: StringField(primary_key=True, unique=True),
    "flag of another type": lambda: StringField(unique="yes"),
    "required of another type": lambda: StringField(required=None),
    "unknown option": lambda: StringField(lenght=3),
    "unique json": lambda: JSONField(unique=True),
    "unique boolean": lambda: BooleanField(unique=True),
    "scale over precision": lambda: DecimalField(precision=2, scale=3),
    "no precision": lambda: DecimalField(precision=0, scale=0),
    "default with too many places": lambda: DecimalField(default=Decimal("1.005")),
    "float for a decimal": lambda: DecimalField(default=0.1),
    "not an enum": lambda: EnumField("open"),
    "enum without members": lambda: EnumField(enum.Enum("Empty", [])),
    "default of another enum": lambda: EnumField(Status, default=Priority.LOW),
    "async validator": lambda: StringField(validators=[_async_validator]),
    "validator that is none": lambda: StringField(validators=["x"]),
    "validators that are no list": lambda: StringField(validators=len),
    "column of another type": lambda: StringField(column=3),
    "set null though required": lambda: ForeignKeyField("a.id", on_delete="set null"),
    "unknown on_delete": lambda: ForeignKeyField("a.id", on_delete="explode"),
    "unknown key type": lambda: ForeignKeyField("a.id", type_=float),
    "no target": lambda: ForeignKeyField(""),
    "target that is no model": lambda: ForeignKeyField(int),
}


async def _async_validator(value):
    return True


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_definition_that_cannot_be_meant_is_refused(make):
    with pytest.raises(InvalidField):
        make()


def test_a_refusal_names_field_option_value_and_reason():
    with pytest.raises(InvalidField, match=r"IntegerField\(min=3\): is more than max=2"):
        IntegerField(min=3, max=2)


def test_a_shared_default_is_answered_with_the_remedy():
    with pytest.raises(InvalidField, match="shared by every record; pass a callable, such as default=list"):
        JSONField(default=[])


def test_a_misspelt_option_lists_those_there_are():
    with pytest.raises(InvalidField, match=r"no such option here; options: .*max_length"):
        StringField(lenght=3)


# --- foreign keys -------------------------------------------------------------------------------


def target_of(column):
    (key,) = column.foreign_keys
    return (key.column.table.name, key.column.name, key.ondelete)


def test_a_foreign_key_to_a_class_points_at_its_primary_key():
    base = fresh_base()

    class User(base):
        __tablename__ = "user"
        id = UUIDField(primary_key=True)

    class Order(base):
        __tablename__ = "order"
        id = UUIDField(primary_key=True)
        user_id = ForeignKeyField(User, on_delete="cascade")

    assert ("user", "id", "CASCADE") == target_of(Order.__table__.c.user_id)
    assert Order.__table__.c.user_id.index


def test_a_foreign_key_by_name_may_come_before_its_model():
    base = fresh_base()

    class Order(base):
        __tablename__ = "order"
        id = UUIDField(primary_key=True)
        user_id = ForeignKeyField("User", on_delete="restrict")
        parent_id = ForeignKeyField("Order", required=False, on_delete="set null")
        user = relationship("User")

    class User(base):
        __tablename__ = "user"
        id = UUIDField(primary_key=True)

    assert ("user", "id", "RESTRICT") == target_of(Order.__table__.c.user_id)
    assert ("order", "id", "SET NULL") == target_of(Order.__table__.c.parent_id)
    configure_mappers()


def test_a_foreign_key_by_name_may_come_after_its_model():
    base = fresh_base()

    class User(base):
        __tablename__ = "user"
        id = IntegerField(primary_key=True)

    class Order(base):
        __tablename__ = "order"
        id = IntegerField(primary_key=True)
        user_id = ForeignKeyField("User", type_=int)

    assert ("user", "id", None) == target_of(Order.__table__.c.user_id)


def test_a_foreign_key_by_name_may_be_the_key_of_a_joined_subclass():
    base = fresh_base()

    class Person(base):
        __tablename__ = "person"
        id = IntegerField(primary_key=True)

    class Manager(Person):
        __tablename__ = "manager"
        id = ForeignKeyField("Person", type_=int, primary_key=True)

    assert ("person", "id", None) == target_of(Manager.__table__.c.id)


def test_a_foreign_key_to_a_column_is_the_databases_own():
    base = fresh_base()

    class User(base):
        __tablename__ = "user"
        id = IntegerField(primary_key=True)

    class Order(base):
        __tablename__ = "order"
        id = IntegerField(primary_key=True)
        user_id = ForeignKeyField("user.id", type_=int)

    assert ("user", "id", None) == target_of(Order.__table__.c.user_id)


def test_a_foreign_key_of_a_mixin_points_from_every_model_that_takes_it():
    base = fresh_base()

    class Owned:
        owner_id = ForeignKeyField("User")

    class First(Owned, base):
        __tablename__ = "first"
        id = UUIDField(primary_key=True)

    class User(base):
        __tablename__ = "user"
        id = UUIDField(primary_key=True)

    class Second(Owned, base):
        __tablename__ = "second"
        id = UUIDField(primary_key=True)

    assert ("user", "id", None) == target_of(First.__table__.c.owner_id) == target_of(Second.__table__.c.owner_id)


def test_a_foreign_key_holds_in_the_database():
    base = fresh_base()

    class User(base):
        __tablename__ = "user"
        id = UUIDField(primary_key=True, default=uuid4)

    class Order(base):
        __tablename__ = "order"
        id = UUIDField(primary_key=True, default=uuid4)
        user_id = ForeignKeyField("User")

    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with Session(engine) as session:
        session.execute(text("pragma foreign_keys=on"))
        session.add(Order(user_id=uuid4()))
        with pytest.raises(IntegrityError):
            session.flush()
    engine.dispose()


def test_a_key_of_another_type_is_refused_with_the_type_to_pass():
    base = fresh_base()

    class User(base):
        __tablename__ = "user"
        id = IntegerField(primary_key=True)

    with pytest.raises(InvalidField, match="has a primary key of type int; pass type_=int"):
        ForeignKeyField(User)


def test_a_target_of_two_keys_asks_for_the_column():
    base = fresh_base()

    class Pair(base):
        __tablename__ = "pair"
        a = IntegerField(primary_key=True)
        b = IntegerField(primary_key=True)

    with pytest.raises(InvalidField, match="has 2 primary key columns"):
        ForeignKeyField(Pair)


def test_a_name_that_no_model_has_is_refused_before_its_table_is_made():
    base = fresh_base()

    class Order(base):
        __tablename__ = "order"
        id = UUIDField(primary_key=True)
        user_id = ForeignKeyField("Usr")

    engine = create_engine("sqlite://")
    with pytest.raises(InvalidField, match=r"'Usr'.*no model that order.user_id could point at; known: Order"):
        base.metadata.create_all(engine)
    with pytest.raises(InvalidField):
        base.registry.configure()
    engine.dispose()


def test_a_name_that_two_models_share_asks_for_more():
    base = fresh_base()
    made = [
        type("User", (base,), {"__tablename__": name, "__module__": name, "id": UUIDField(primary_key=True)})
        for name in ("first", "second")
    ]

    with pytest.raises(InvalidField, match="models in first and second"):
        type("Order", (base,), {"__tablename__": "o", "id": UUIDField(primary_key=True), "u": ForeignKeyField("User")})
    assert 2 == len(made)
