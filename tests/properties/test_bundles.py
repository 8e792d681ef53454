"""A bundle's entries are those that would have been appended at once, to the byte."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm.bundle import PART, bundled
from earnorm.codec import MAX_BYTES
from earnorm.event import Entries
from earnorm.multitude import Multitude
from earnorm.records import Changed, Columns, Listed
from earnorm.registry import ModelInfo

HIDDEN = frozenset({"token"})


class Order:
    """A model, as far as anybody here looks at it."""


INFO = ModelInfo(cls=Order, subject="order", sensitive=HIDDEN)


def refer(_value):
    """No value here is a record."""


ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(seconds=3661))])
# Of each kind one column or more; NUL and what is not finite are met as well.
KINDS = [
    st.text(max_size=8),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.floats(allow_nan=False),
    st.none(),
    st.datetimes(timezones=ZONES),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(),
    st.binary(max_size=8),
]
VALUES = st.one_of(*KINDS)


# A NUL in a key is refused when the record is validated.
TEXT_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)


@st.composite
def tables(draw):
    count = draw(st.integers(1, 6))

    def column(kind):
        return draw(st.lists(st.one_of(kind, st.none()), min_size=count, max_size=count))

    names = ("id", "token", "name", "$odd", "more")
    columns = [
        draw(st.lists(st.one_of(st.integers(), TEXT_KEYS), min_size=count, max_size=count, unique=True)),
        column(st.text()),
        *(column(draw(st.sampled_from(KINDS))) for _ in range(2)),
        column(VALUES),
    ]
    changed = [
        Changed(name, column(VALUES), draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        for name in draw(st.lists(st.sampled_from(["name", "$odd", "more"]), unique=True))
    ]
    return Columns(names, columns, (0,), changed)


def multitude(columns):
    return Multitude("order.updated", "updated", INFO, columns)


def plain(entries: Entries):
    shared = (entries.name, entries.subject, entries.at, entries.correlation_id, entries.causation_id, entries.depth)
    return [*zip(entries.keys, map(bytes, entries.data), strict=True)], shared, entries.tenant, entries.version


@given(tables())
def test_the_entries_of_a_bundle_are_those_that_would_have_been_appended(columns):
    many = multitude(columns)
    bundles = many.bundles()
    if bundles is None:
        return
    (bundle,) = bundles
    ids = list(many.ids)

    later, at_once = bundle.entries(), many.entries(columns.written(refer, HIDDEN))

    assert plain(at_once) == plain(later)
    assert ids == list(later.ids)


@given(tables())
def test_what_is_sensitive_is_in_no_bundle(columns):
    marked = Columns(columns.names, [columns.columns[0], ["s3cret"] * len(columns), *columns.columns[2:]], (0,))
    content = bundled(marked, HIDDEN)

    assert content is None or b"s3cret" not in content


def test_a_key_that_no_log_takes_is_not_left_for_later():
    """The commit left it in a bundle, and no worker could make an entry of that, nor of anything after it."""
    assert bundled(Columns(("id",), [["\0"]], (0,)), HIDDEN) is None


def test_what_every_column_may_hold_is_bundled():
    """Or the properties above would hold of nothing."""
    values = ["a", 1, True, 1.5, None, datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), time(1), timedelta(1)]
    columns = Columns(("id", "name"), [list(range(12)), [*values, Decimal("1.0"), b"x", 2**70]], (0,))

    assert multitude(columns).bundles() is not None


def test_a_record_that_is_too_large_loses_the_same_values():
    columns = Columns(("id", "name"), [[1, 2], ["x" * (MAX_BYTES + 1), "y"]], (0,))
    (bundle,) = multitude(columns).bundles()

    assert columns.written(refer, HIDDEN) == bundle.entries().data


class Color(Enum):
    RED = 1


@pytest.mark.parametrize("value", [Color.RED, float("nan"), "\ud800", object(), [1], {"a": 1}])
def test_what_might_come_back_as_something_else_is_not_bundled(value):
    columns = Columns(("id", "name"), [[1, 2], ["a", value]], (0,))

    assert multitude(columns).bundles() is None


def test_rows_that_are_no_columns_are_not_bundled():
    assert multitude(Listed([(1,)], [{"id": 1}], [{}], [None])).bundles() is None


def test_a_sensitive_key_or_change_is_not_bundled():
    columns = [[1, 2], ["a", "b"]]

    assert bundled(Columns(("token", "name"), columns, (0,)), HIDDEN) is None
    assert (
        bundled(Columns(("id", "token"), columns, (0,), [Changed("token", ["c", "d"], [True, True])]), HIDDEN) is None
    )


def test_values_of_many_megabytes_are_not_bundled():
    columns = Columns(("id", "name"), [list(range(50)), ["x" * 200_000] * 50], (0,))

    assert multitude(columns).bundles() is None


def test_more_than_a_few_thousand_are_several_bundles():
    many = multitude(Columns(("id", "name"), [list(range(2 * PART + 1)), ["a"] * (2 * PART + 1)], (0,)))
    bundles = many.bundles()

    assert [PART, PART, 1] == [len(bundle) for bundle in bundles]
    assert list(many.ids) == [sixteen for bundle in bundles for sixteen in bundle.entries().ids]
    assert all(one < other for one, other in pairwise(many.ids))
