"""Columns of values pass together where each of them passes alone, and only there."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import BaseModel, BooleanField, DateField, EmailField, IntegerField, StringField, TextField, UUIDField
from earnorm.errors import ValidationFailed
from earnorm.orm.values import ValuesValidator

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31) - 1, 2**31),
    st.text(max_size=12),
    st.sampled_from(["ada@example.com", "a\0b", "x" * 11, "ok"]),
    st.dates(),
    st.just(datetime(2026, 1, 31, tzinfo=UTC)),
    st.just(Decimal("1.5")),
    st.just(UUID(int=7)),
)
FIELDS = ("number", "small", "text", "long", "email", "flag", "day", "place", "maybe")


def validator():
    class Thing(BaseModel):
        id = IntegerField(primary_key=True)
        number = IntegerField()
        small = IntegerField(min=0, max=9)
        text = StringField(max_length=10)
        long = TextField(min_length=2)
        email = EmailField()
        flag = BooleanField()
        day = DateField()
        place = UUIDField()
        maybe = StringField(required=False)

    return ValuesValidator(Thing.__mapper__)


def faults(check, rows):
    try:
        check(rows)
    except ValidationFailed as failed:
        return str(failed)
    return None


@given(st.data())
def test_a_column_passes_if_each_of_its_values_does(things, data):
    name = data.draw(st.sampled_from(FIELDS))
    few = data.draw(st.lists(VALUES, min_size=1, max_size=3))
    rows = [{name: few[number % len(few)]} for number in range(30)]

    def one_by_one(rows):
        for row in rows:
            things.check(row, complete=False)

    assert faults(one_by_one, rows) == faults(lambda rows: things.check_all(rows, complete=False), rows)


@pytest.fixture(scope="module")
def things():
    from earnorm.testing import isolated

    with isolated():
        yield validator()


def good(number):
    values = {"number": number, "small": 3, "text": "one", "long": "two", "email": "ada@example.com"}
    return values | {"flag": True, "day": date(2026, 1, 31), "place": UUID(int=number), "maybe": None}


def test_many_rows_without_fault_are_not_looked_at_one_by_one(things, monkeypatch):
    rows, looked = [good(number) for number in range(100)], []
    monkeypatch.setattr(things, "check", lambda values, **_: looked.append(values))

    things.check_all(rows, complete=True)

    assert [] == looked


def test_a_row_that_lacks_a_value_or_has_others_is_found_among_many(things):
    rows = [good(number) for number in range(100)]
    del rows[50]["email"]
    with pytest.raises(ValidationFailed, match="email"):
        things.check_all(rows, complete=True)
    with pytest.raises(ValidationFailed, match="email"):
        things.check_all([rows[50]] * 30, complete=True)
