"""Validation: which values a field lets through, how its faults are told, and which attributes are looked at."""

import enum
import math
import time as clock
import traceback
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from earnorm.errors import ValidationFailed
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
from earnorm.orm.spec import spec_of
from earnorm.orm.validation import Validator, is_secret_looking, validate, validate_values


class Status(enum.StrEnum):
    OPEN = "open"
    PAID = "paid"


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id = IntegerField(primary_key=True)
    orders = relationship("Order", back_populates="customer")
    notes = relationship("Note")


class Order(Base):
    __tablename__ = "order"

    id = IntegerField(primary_key=True)
    email = EmailField()
    total = IntegerField(min=0, default=0)
    code = StringField(required=False, min_length=3, pattern="[A-Z]+")
    customer_id = ForeignKeyField("Customer", type_=int)
    customer = relationship("Customer", back_populates="orders")


class Note(Base):
    __tablename__ = "note"

    id = IntegerField(primary_key=True)
    customer_id = ForeignKeyField("Customer", type_=int)
    plain: Mapped[str] = mapped_column()


@pytest.fixture
def session():
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def messages(field, value, name="field"):
    """What is wrong with one value of one field."""
    try:
        validate_values("Thing", "", {name: spec_of(field.column)}, {name: value})
    except ValidationFailed as failed:
        return [fault.message for fault in failed.faults]
    return []


def rules(field, value):
    try:
        validate_values("Thing", "", {"field": spec_of(field.column)}, {"field": value})
    except ValidationFailed as failed:
        return [fault.rule for fault in failed.faults]
    return []


def faults_of(record, names=None):
    try:
        Validator.for_mapper(inspect(type(record))).check(record, names)
    except ValidationFailed as failed:
        return [(fault.field, fault.rule) for fault in failed.faults]
    return []


# --- types ------------------------------------------------------------------------------------

NOW = datetime(2024, 1, 1, tzinfo=UTC)
NAN = float("nan")
DEEP = reduce(lambda inner, _: [inner], range(500), [])
CIRCLE = {}
CIRCLE["itself"] = [CIRCLE]

GOOD = [
    (StringField(), "x"),
    (StringField(), ""),
    (StringField(), "🦊"),
    (StringField(), Status.OPEN),
    (StringField(choices=Status), "open"),
    (TextField(), "line\nline"),
    (IntegerField(), 2**31 - 1),
    (IntegerField(), -(2**31)),
    (BigIntegerField(), -(2**63)),
    (FloatField(), 0.5),
    (FloatField(), 3),
    (DecimalField(), Decimal("1.5")),
    (DecimalField(), 3),
    (DecimalField(), Decimal("1.500000")),
    (DecimalField(precision=3, scale=2), Decimal("9.99")),
    (DecimalField(precision=3, scale=3), Decimal("0.001")),
    (DecimalField(precision=3, scale=0), Decimal("1E+2")),
    (DecimalField(), Decimal("0E-30")),
    (BooleanField(), True),
    (DateField(), date(2024, 1, 1)),
    (DateTimeField(), NOW),
    (DateTimeField(), datetime(2024, 1, 1)),
    (DateTimeField(min=NOW), datetime(2024, 6, 1)),
    (DateTimeField(max=datetime(2030, 1, 1)), NOW),
    (TimeField(), time(12)),
    (IntervalField(), timedelta(days=1)),
    (UUIDField(), uuid4()),
    (JSONField(), {"a": [1, 2.5, None, True, "é"], "b": (1, {})}),
    (JSONField(), 2**63 - 1),
    (JSONField(), [2**80]),
    (EnumField(Status), Status.OPEN),
    (BytesField(max_length=2), b"ab"),
]

BAD = [
    (JSONField(), {"a": [{1}]}, "json", "field = {'a': [{1}]} at ['a'][0] is set, which is no JSON; write a list"),
    (JSONField(), NOW, "json", None),
    (JSONField(), {1: "a"}, "json", "field = {1: 'a'} has the key 1, and keys of JSON are text; write str(1)"),
    (JSONField(), [NAN], "json", "field = [nan] at [0] holds a number that is not finite, for which JSON has no word"),
    (
        JSONField(),
        {"a": "\0"},
        "json",
        "field = {'a': '\\x00'} at ['a'] contains a NUL character, which PostgreSQL refuses",
    ),
    (JSONField(), {"\ud800": 1}, "json", None),
    (JSONField(), 2**63, "json", None),
    (JSONField(), DEEP, "json", None),
    (JSONField(), CIRCLE, "json", None),
    (JSONField(sensitive=True), {"key": {1}}, "json", "field is no JSON"),
    (StringField(), 3, "type", "field = 3 is int, not str"),
    (StringField(), b"x", "type", "field = b'x' is bytes, not str"),
    (StringField(), "a\0", "text", "field = 'a\\x00' contains a NUL character, which PostgreSQL refuses"),
    (TextField(), "\ud800", "text", "field = '\\ud800' contains half of a surrogate pair, which is no text"),
    (StringField(min_length=2), "a", "min_length", "field = 'a' is shorter than 2 characters"),
    (StringField(max_length=2), "abc", "max_length", "field = 'abc' is longer than 2 characters"),
    (StringField(pattern="[a-z]+"), "abc1", "pattern", "field = 'abc1' does not match '[a-z]+'"),
    (StringField(choices=["a", "b"]), "c", "choices", "field = 'c' is none of 'a', 'b'"),
    (IntegerField(), "12", "type", "field = '12' is str, not int"),
    (IntegerField(), True, "type", "field = True is bool, not int"),
    (IntegerField(), 1.0, "type", "field = 1.0 is float, not int"),
    (IntegerField(), 2**31, "range", "field = 2147483648 does not fit into 32 bits; use BigIntegerField"),
    (BigIntegerField(), 2**63, "range", "field = 9223372036854775808 does not fit into 64 bits"),
    (IntegerField(min=0), -1, "min", "field = -1 is less than 0"),
    (IntegerField(max=5), 6, "max", "field = 6 is more than 5"),
    (FloatField(), "1.0", "type", "field = '1.0' is str, not float"),
    (FloatField(), False, "type", "field = False is bool, not float"),
    (FloatField(), math.nan, "finite", "field = nan is no finite number"),
    (FloatField(), -math.inf, "finite", "field = -inf is no finite number"),
    (FloatField(), 10**400, "range", None),
    (DecimalField(), "1.5", "type", "field = '1.5' is str, not Decimal"),
    (DecimalField(), 1.5, "type", None),
    (DecimalField(), Decimal("NaN"), "finite", "field = Decimal('NaN') is no finite number"),
    (DecimalField(), Decimal("1.005"), "scale", "field = Decimal('1.005') has more than 2 decimal places (scale=2)"),
    (DecimalField(precision=3, scale=2), Decimal(10), "precision", None),
    (DecimalField(precision=30, scale=2), Decimal("1234567890123456789012345678.001"), "scale", None),
    (DecimalField(min=1), Decimal("0.99"), "min", "field = Decimal('0.99') is less than 1"),
    (BooleanField(), 1, "type", "field = 1 is int, not bool"),
    (DateField(), NOW, "type", None),
    (DateField(), "2024-01-01", "type", "field = '2024-01-01' is str, not date"),
    (DateField(min=date(2024, 1, 1)), date(2023, 1, 1), "min", None),
    (DateTimeField(), date(2024, 1, 1), "type", None),
    (DateTimeField(min=NOW), datetime(2023, 6, 1), "min", None),
    (TimeField(), time(12, tzinfo=UTC), "zone", None),
    (TimeField(), 12, "type", "field = 12 is int, not time"),
    (IntervalField(), 3, "type", "field = 3 is int, not timedelta"),
    (IntervalField(), timedelta.max, "range", None),
    (UUIDField(), str(uuid4()), "type", None),
    (EnumField(Status), "open", "type", "field = 'open' is str, not Status"),
    (EnumField(Status, choices=[Status.PAID]), Status.OPEN, "choices", None),
    (BytesField(), "x", "type", "field = 'x' is str, not bytes"),
    (BytesField(max_length=1), b"ab", "max_length", "field = b'ab' is longer than 1 bytes"),
    (ForeignKeyField("x.id"), 3, "type", "field = 3 is int, not UUID"),
]


def kinds(cases):
    return [f"{spec_of(case[0].column).kind}-{place}" for place, case in enumerate(cases)]


@pytest.mark.parametrize("field, value", GOOD, ids=kinds(GOOD))
def test_a_value_of_the_right_kind_passes(field, value):
    assert [] == messages(field, value)


@pytest.mark.parametrize("field, value, rule, message", BAD, ids=kinds(BAD))
def test_a_value_of_the_wrong_kind_is_told_with_field_value_and_rule(field, value, rule, message):
    assert [rule] == rules(field, value)
    assert message is None or [message] == messages(field, value)


@pytest.mark.parametrize("field", [StringField(), IntegerField(), JSONField(), EnumField(Status)])
def test_none_in_a_required_field_is_a_fault(field):
    assert ["field is required"] == messages(field, None)


def test_none_in_a_field_that_is_not_required_skips_its_rules():
    assert [] == messages(StringField(required=False, min_length=3, validators=[lambda value: False]), None)


@pytest.mark.parametrize("edge", [datetime.min, datetime.max])
def test_a_moment_that_utc_has_no_year_for_is_a_fault_and_not_a_crash(edge):
    west, east = (datetime.fromisoformat(f"{edge.isoformat()}{offset}") for offset in ("+14:00", "-12:00"))

    assert [["range"]] == [found for moment in (west, east) if (found := rules(DateTimeField(), moment))]


def test_a_float_for_a_decimal_is_answered_with_the_remedy():
    assert "write Decimal('0.1')" in messages(DecimalField(), 0.1)[0]


def test_a_datetime_for_a_date_is_answered_with_the_remedy():
    assert "is datetime, not date; write .date()" in messages(DateField(), NOW)[0]


# --- forms of text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "ada@example.com",
        "a.b+tag@sub.example.co.uk",
        "o'hara@example.com",
        "müller@bücher.example",
        "x@1and1.com",
        f"{'a' * 64}@example.com",
    ],
)
def test_an_email_address_passes(value):
    assert [] == messages(EmailField(), value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nope",
        "@example.com",
        "ada@",
        "ada@localhost",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com.",
        "ada@-example.com",
        "ada@example-.com",
        "ada@exam_ple.com",
        "a@b@example.com",
        ".ada@example.com",
        "ada.@example.com",
        "a..b@example.com",
        "ada lovelace@example.com",
        "ada@example.com\n",
        "ada@example.com ",
        "Ada <ada@example.com>",
        "ada\r\nBcc: eve@example.com",
        "ada\x07@example.com",
        "a,b@example.com",
        f"{'a' * 65}@example.com",
        f"a@{'b' * 64}.com",
    ],
)
def test_what_is_no_email_address_is_told(value):
    assert ["email"] == rules(EmailField(), value)


def test_the_message_about_an_email_reads_as_a_sentence():
    assert ["email = 'nope' is no email address"] == messages(EmailField(), "nope", name="email")


@pytest.mark.parametrize(
    "value",
    [
        "http://example.com",
        "https://example.com:8080/a/b?c=d#e",
        "HTTPS://EXAMPLE.COM/",
        "http://localhost:3000",
        "http://127.0.0.1/",
        "http://[::1]:80/x",
        "https://user:secret@example.com/",
        "https://bücher.example/ü",
        "https://example.com?q",
        "https://example.com:65535",
    ],
)
def test_a_web_address_passes(value):
    assert [] == messages(URLField(), value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "example.com",
        "ftp://example.com",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http://exa mple.com",
        "http://example.com/a b",
        "http://example.com/\x00",
        "http://example.com/\n",
        "http://example.com:65536",
        "http://example.com:port",
        "http://-example.com",
        "http://example..com",
        "http://example.com\\@evil.com",
        "http://a@b@c.com",
        "//example.com",
    ],
)
def test_what_is_no_web_address_is_told(value):
    assert {"url", "text"} & set(rules(URLField(), value))


@pytest.mark.parametrize("value", ["a", "a-b", "2024-review", "abc-1-2"])
def test_a_slug_passes(value):
    assert [] == messages(SlugField(), value)


@pytest.mark.parametrize("value", ["", "A", "a--b", "-a", "a-", "a_b", "a b", "ü", "a\n"])
def test_what_is_no_slug_is_told(value):
    assert ["slug"] == rules(SlugField(), value)


@pytest.mark.parametrize(
    "field, value",
    [
        (EmailField(max_length=100_000), "a" * 50_000 + "@"),
        (EmailField(max_length=100_000), "a@" + "b-" * 25_000),
        (EmailField(max_length=100_000), "a." * 25_000 + "@x"),
        (URLField(max_length=100_000), "http://" + "a" * 50_000 + "\\"),
        (URLField(max_length=100_000), "http://" + "a-" * 25_000),
        (URLField(max_length=100_000), "http://" + "a." * 25_000 + "!"),
        (SlugField(max_length=100_000), "a-" * 50_000),
    ],
)
def test_a_hostile_text_is_judged_in_linear_time(field, value):
    started = clock.perf_counter()
    assert rules(field, value)
    assert 0.5 > clock.perf_counter() - started


# --- validators of the user ---------------------------------------------------------------------


def even(value):
    if value % 2:
        raise ValueError("must be even")


def test_the_words_of_a_validator_are_the_fault():
    assert ["field = 3: must be even"] == messages(IntegerField(validators=[even]), 3)
    assert [] == messages(IntegerField(validators=[even]), 4)


def test_a_validator_may_refuse_by_assertion_or_false():
    def small(value):
        if value >= 10:
            raise AssertionError  # as a bare `assert` does, which pytest would put words into

    def positive(value):
        return value > 0

    assert ["field = 20 is refused by small"] == messages(IntegerField(validators=[small, positive]), 20)
    assert ["field = -1 is refused by positive"] == messages(IntegerField(validators=[small, positive]), -1)


def test_all_validators_that_refuse_are_heard():
    field = IntegerField(max=2, validators=[even, lambda value: False])

    assert ["max", "validator", "validator"] == rules(field, 3)


def test_a_validator_is_not_asked_about_a_value_of_the_wrong_type():
    assert ["type"] == rules(IntegerField(validators=[even]), "3")


def test_another_error_of_a_validator_comes_through_with_a_note():
    def broken(value):
        raise KeyError("bug")

    with pytest.raises(KeyError) as raised:
        messages(IntegerField(validators=[broken]), 3)

    assert ["raised by the validator broken; to refuse a value, raise ValueError or return False"] == (
        raised.value.__notes__
    )


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        StringField(sensitive=True, max_length=3),
        StringField(sensitive=True, pattern="x"),
        StringField(sensitive=True, choices=["x"]),
        EmailField(sensitive=True),
        IntegerField(sensitive=True),
        StringField(sensitive=True, validators=[int]),
    ],
)
def test_the_value_of_a_sensitive_field_is_never_told(field):
    try:
        validate_values("User", "user:1", {"password": spec_of(field.column)}, {"password": "hunter2"})
    except ValidationFailed as failed:
        told = "".join(traceback.format_exception(failed)) + repr(failed.faults)
        assert "hunter2" not in told.replace('"password": "hunter2"', "")
        assert "password" in told
    else:
        pytest.fail("the value should have been refused")


SECRETS = """
password passwd pwd user_password userPassword password_hash hashed_password passphrase secret client_secret
token access_token refreshToken api_key apiKey apikey api_keys private_key secret_key ssn credit_card
credit_card_number creditCard card_number cvv cvc pin otp webhook_secret encryption_key credentials
"""

NO_SECRETS = """
name email password_changed_at token_count tokens_used max_tokens is_secret has_password secret_santa_id
password_reset_required token_expires_at next_page_token pinned spin public_key key primary_key keyboard discard
compass passenger secretary shipping card_brand api_key_id needs_password expiry broken
"""


@pytest.mark.parametrize(
    "name",
    SECRETS.split(),
)
def test_a_name_that_sounds_secret_is_noticed(name):
    assert is_secret_looking(name)


@pytest.mark.parametrize(
    "name",
    NO_SECRETS.split(),
)
def test_a_name_that_is_only_about_a_secret_is_not(name):
    assert not is_secret_looking(name)


# --- records ------------------------------------------------------------------------------------


def test_all_faults_of_a_record_are_told_at_once():
    with pytest.raises(ValidationFailed) as failed:
        validate(Order(email="nope", total=-1, code="ab", customer_id=1))

    assert [("email", "email"), ("total", "min"), ("code", "min_length"), ("code", "pattern")] == [
        (fault.field, fault.rule) for fault in failed.value.faults
    ]
    assert "Order.email: email = 'nope' is no email address" in str(failed.value)
    assert ("Order", "") == (failed.value.model, failed.value.key)


def test_a_good_record_passes():
    validate(Order(email="ada@example.com", total=3, customer_id=1))


def test_a_missing_required_field_is_a_fault_unless_it_has_a_default():
    assert [("email", "required"), ("customer_id", "required")] == faults_of(Order())


def test_none_where_a_default_would_stand_is_a_fault():
    assert [("total", "required")] == faults_of(Order(email="a@b.cd", customer_id=1, total=None))


def test_a_key_that_the_database_numbers_may_be_missing():
    assert [] == faults_of(Order(id=None, email="a@b.cd", customer_id=1))


def test_a_foreign_key_that_a_relationship_fills_may_be_missing():
    customer = Customer()
    by_parent = Note()
    customer.notes.append(by_parent)

    assert [] == faults_of(Order(email="a@b.cd", customer=customer))
    assert [] == faults_of(by_parent)
    assert [("customer_id", "required")] == faults_of(Note())


def test_only_the_named_attributes_are_checked():
    order = Order(email="nope", total=-1)

    assert [("total", "min")] == faults_of(order, {"total"})
    assert [] == faults_of(order, set())


def test_what_is_not_a_field_of_ours_is_not_checked():
    assert [] == faults_of(Note(customer_id=1, plain=3), None)
    assert [] == faults_of(Note(customer_id=1), {"plain", "unheard_of"})


def test_an_sql_expression_is_for_the_database_to_judge():
    assert [] == faults_of(Order(email="a@b.cd", customer_id=1, total=Order.total + 1))
    assert [] == faults_of(Order(email="a@b.cd", customer_id=text("1"), code=Order.email))


def test_an_attribute_that_is_not_loaded_is_not_a_fault(session):
    order = Order(email="a@b.cd", customer=Customer())
    session.add(order)
    session.commit()

    assert [] == faults_of(order)


def test_a_stored_record_is_named_by_its_key(session):
    order = Order(email="a@b.cd", customer=Customer())
    session.add(order)
    session.flush()
    order.total = -1

    with pytest.raises(ValidationFailed, match="Order:1 cannot be saved"):
        validate(order)


def test_a_caller_may_name_the_record():
    with pytest.raises(ValidationFailed, match="order number 3 cannot be saved"):
        Validator.for_mapper(inspect(Order)).check(Order(), key="order number 3")


def test_a_validator_is_compiled_once_per_model():
    assert Validator.for_mapper(inspect(Order)) is Validator.for_mapper(inspect(Order))


def test_a_model_can_be_compiled_before_those_it_relates_to():
    class Fresh(DeclarativeBase):
        pass

    class Early(Fresh):
        __tablename__ = "early"
        id = IntegerField(primary_key=True)
        later_id = ForeignKeyField("Later", type_=int)
        later = relationship("Later")

    validator = Validator.for_mapper(inspect(Early))

    class Later(Fresh):
        __tablename__ = "later"
        id = IntegerField(primary_key=True)

    validator.check(Early(later=Later()))


def test_a_joined_subclass_takes_its_key_and_rules_from_both_tables():
    class Fresh(DeclarativeBase):
        pass

    class Person(Fresh):
        __tablename__ = "person"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person", "version_id_col": None}
        id = IntegerField(primary_key=True)
        kind = StringField()
        name = StringField()

    class Manager(Person):
        __tablename__ = "manager"
        __mapper_args__ = {"polymorphic_identity": "manager"}
        id = ForeignKeyField(Person, type_=int, primary_key=True)
        level = IntegerField()

    assert {("name", "required"), ("level", "required")} == set(faults_of(Manager()))


def test_a_version_that_sqlalchemy_counts_may_be_missing():
    class Fresh(DeclarativeBase):
        pass

    class Counted(Fresh):
        __tablename__ = "counted"
        id = IntegerField(primary_key=True)
        version = IntegerField()
        __mapper_args__ = {"version_id_col": version.column}

    assert [] == faults_of(Counted())


# --- values -------------------------------------------------------------------------------------


def test_values_without_a_record_are_checked_by_the_same_rules():
    specs = {"email": spec_of(EmailField().column), "total": spec_of(IntegerField(min=0).column)}

    with pytest.raises(ValidationFailed, match="order:1 cannot be saved") as failed:
        validate_values("Order", "order:1", specs, {"total": -1}, required=["email", "total"])

    assert [("total", "min"), ("email", "required")] == [(fault.field, fault.rule) for fault in failed.value.faults]


def test_absent_values_that_are_not_asked_for_are_no_fault():
    validate_values("Order", "", {"email": spec_of(EmailField().column)}, {})


def test_a_valid_record_costs_microseconds():
    """A guard against an accidental slow path, an order of magnitude above what it takes."""

    class Fresh(DeclarativeBase):
        pass

    class Five(Fresh):
        __tablename__ = "five"
        id = IntegerField(primary_key=True)
        name = StringField()
        email = EmailField()
        age = IntegerField(min=0)
        moment = DateTimeField()

    check = Validator.for_mapper(inspect(Five)).check
    record = Five(id=1, name="Ada", email="ada@example.com", age=36, moment=NOW)
    started = clock.perf_counter()
    for _ in range(1000):
        check(record)

    assert 0.050 > clock.perf_counter() - started
