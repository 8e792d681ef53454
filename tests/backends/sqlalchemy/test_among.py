"""Conditions on many keys at once: however they are written, they hold for the rows with these keys and no others."""

from contextlib import ExitStack

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Numeric, Table, Text, create_engine, insert, select

from earnorm.backends.sqlalchemy.bulk.shape import is_among
from tests import postgresql

numbers = Table("numbers", MetaData(), Column("number", BigInteger, primary_key=True))
texts = Table("texts", numbers.metadata, Column("text", Text, primary_key=True))
points = Table("points", numbers.metadata, Column("point", Numeric(10, 2), primary_key=True))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def connection(request):
    with ExitStack() as stack:
        url = "sqlite://" if request.param == "sqlite" else stack.enter_context(postgresql.schema())
        engine = create_engine(url)
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.connect())
        numbers.metadata.create_all(connection)
        connection.execute(insert(numbers), [{"number": number} for number in range(-500, 500)])
        connection.execute(insert(texts), [{"text": str(number)} for number in range(500)])
        connection.execute(insert(points), [{"point": half / 2} for half in range(500)])
        yield connection


def found(connection, column, keys):
    condition = is_among(column, keys, connection.dialect.name)
    return condition, connection.scalars(select(column).where(condition).order_by(column)).all()


@pytest.mark.parametrize(
    "keys",
    [
        list(range(-5, 200)),
        list(range(200, -5, -1)),
        list(range(0, 400, 2)),
        [*range(200), 200, 202, 202],
        [*range(200), 2**40, 2**62],
        [3],
        [],
    ],
    ids=["a row", "backwards", "gaps", "twice", "large", "one", "none"],
)
def test_numbers(connection, keys):
    assert sorted({*map(int, keys)} & {*range(-500, 500)}) == found(connection, numbers.c.number, keys)[1]


def test_numbers_that_follow_each_other_are_two_values(connection):
    condition, _ = found(connection, numbers.c.number, list(range(10_000)))

    assert [0, 9_999] == [*condition.compile().params.values()]


def test_what_is_no_whole_number(connection):
    assert sorted(map(str, range(200))) == found(connection, texts.c.text, [*map(str, range(200))])[1]
    assert [*range(200)] == found(connection, points.c.point, [*range(200)])[1]
