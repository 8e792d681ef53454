"""Records of a bulk write: columns say what a list of each would."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from msgspec import json

from earnorm.codec import Reference
from earnorm.event import Change
from earnorm.records import Changed, Columns, Listed, changed_between

NAMES = ("id", "name", "extra")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def no_model(_value):
    return None


def columns(*extra, old=None):
    count = len(extra)
    ids, words = range(1, count + 1), [f"n{number}" for number in range(count)]
    changed = [] if old is None else changed_between(NAMES, [ids, words, old], [ids, words, extra])
    return Columns(NAMES, [list(ids), words, list(extra)], (0,), changed)


def listed(records):
    return Listed(records.identities, records.payloads, records.changes, records.subjects)


def decoded(written):
    return [json.decode(data) for data in written]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        ["a", None, "ü\n"],
        [True, 1, None],
        [NOON, None, NOON],
        [Decimal("1.50"), date(2026, 1, 31), UUID(int=7)],
        [2**70, -(2**70), 0],
        [{"a": [1, (2, NOON)]}, [], {}],
        ["\0", "a", "b"],
        ["\ud800", "a", "b"],
        [float("nan"), 1.5, 2.0],
        ["x" * 300_000, "a", "b"],
        [object(), "a", "b"],
        [Reference("user", (1,)), None, 1],
    ],
)
@pytest.mark.parametrize("hidden", [frozenset(), frozenset({"extra"}), frozenset({"name"})])
def test_columns_write_what_a_list_of_each_writes(values, hidden):
    for old in (None, [0, *values[1:]], list(reversed(values))):
        records = columns(*values, old=old)

        assert decoded(listed(records).written(no_model, hidden)) == decoded(records.written(no_model, hidden))


def test_a_thousand_come_in_their_order_and_one_misfit_among_them_is_written_alone():
    records = columns(*["a"] * 700, "\0", *["b"] * 500)

    found = decoded(records.written(no_model, frozenset()))

    assert list(range(1, 1202)) == [data["identity"][0] for data in found]
    assert ["extra"] == found[700]["omitted"]


def test_a_change_is_another_value_or_another_type():
    found = changed_between(["a", "b", "c"], [[1, 1], [1, None], ["x", "y"]], [[1, 2], [True, None], ["x", "y"]])

    assert [Changed("a", [1, 1], [False, True]), Changed("b", [1, None], [True, False])] == found


def test_a_record_has_only_its_own_changes():
    records = columns("a", "b", "c", old=["a", "B", "c"])

    assert [{}, {"extra": Change("B", "b")}, {}] == records.changes
    assert [{}, {"extra": ["B", "b"]}, {}] == [
        data["changes"] for data in decoded(records.written(no_model, frozenset()))
    ]
    assert [(2,)] == records.where([False, True, False]).identities


def test_keys_are_those_of_each():
    composite = Columns(("a", "b"), [[1, 2], ["x/y", "z"]], (0, 1))

    assert ["user:1", "user:2"] == columns("a", "b").keys("user")
    assert ["line:1/x%2Fy", "line:2/z"] == composite.keys("line") == listed(composite).keys("line")
