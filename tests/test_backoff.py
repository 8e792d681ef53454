"""How long to wait, and when to give up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm.backoff import Backoff, RetryRules
from earnorm.errors import Discard, StopPropagation

backoffs = st.builds(
    lambda attempts, first, factor, more, jitter: Backoff(attempts, first, factor, first + more, jitter),
    st.integers(1, 1000),
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(0, 1e8),
    st.floats(0, 10),
)
chances = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 10_000)


def test_a_wait_doubles_from_five_seconds_to_six_hours():
    waits = [Backoff().wait(attempt, 0.0) for attempt in range(1, 16)]

    assert [5, 10, 20, 40] == waits[:4]
    assert [20_480, 21_600, 21_600] == waits[-3:]


def test_the_default_gives_about_a_day_to_notice():
    assert 23 <= sum(Backoff().wait(attempt, 0.0) for attempt in range(1, 16)) / 3600 <= 24


def test_the_sixteenth_attempt_is_the_last():
    assert not Backoff().exhausted(15)
    assert Backoff().exhausted(16)


def test_one_attempt_means_no_retry():
    assert Backoff(attempts=1).exhausted(1)


def test_no_first_wait_means_at_once_however_often():
    assert [0.0, 0.0] == [Backoff(first=0.0).wait(attempt, 0.9) for attempt in (1, 100_000)]


@given(backoffs, attempts, chances)
def test_jitter_only_lengthens(backoff, attempt, chance):
    plain = backoff.wait(attempt, 0.0)

    assert plain <= backoff.wait(attempt, chance) <= plain * (1 + backoff.jitter)


@given(backoffs, attempts, chances)
def test_a_wait_is_never_shorter_than_the_one_before(backoff, attempt, chance):
    assert backoff.wait(attempt, chance) <= backoff.wait(attempt + 1, chance)


@given(backoffs, attempts)
def test_a_wait_before_jitter_lies_between_first_and_longest(backoff, attempt):
    assert backoff.first <= backoff.wait(attempt, 0.0) <= backoff.longest


@pytest.mark.parametrize(
    "field, value",
    [
        ("attempts", 0),
        ("attempts", 1.5),
        ("attempts", True),
        ("first", -1.0),
        ("first", math.nan),
        ("factor", 0.5),
        ("longest", math.inf),
        ("longest", 1.0),
        ("jitter", -0.1),
        ("jitter", "much"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        Backoff(**{field: value})


@pytest.mark.parametrize("attempt, chance", [(0, 0.5), (1, 1.0), (1, -0.1), (1, math.nan)])
def test_a_wait_outside_its_range_is_refused(attempt, chance):
    with pytest.raises(ValueError, match=r"attempt=|chance="):
        Backoff().wait(attempt, chance)


def test_waits_may_be_written_as_durations():
    backoff = Backoff(attempts=4, first="1m", longest="1h")

    assert (60.0, 3_600.0) == (backoff.first, backoff.longest)
    assert [60, 120, 240] == [backoff.wait(attempt, 0.0) for attempt in (1, 2, 3)]


@pytest.mark.parametrize("given, attempts", [(3, 3), (False, 1), (Backoff(attempts=7), 7)])
def test_rules_for_all_errors_are_a_number_of_attempts_a_backoff_or_none(given, attempts):
    assert attempts == RetryRules.parse(given).backoff(ValueError, Backoff()).attempts


def test_of_several_classes_the_most_specific_decides():
    rules = RetryRules.parse({OSError: 9, TimeoutError: Backoff(attempts=3), ValueError: False})
    attempts = [
        rules.backoff(cls, Backoff(attempts=16)).attempts
        for cls in (TimeoutError, ConnectionError, UnicodeError, KeyError)
    ]

    assert [3, 9, 1, 16] == attempts


@pytest.mark.parametrize("wrong", [True, 0, "often", None, {}, {"ValueError": 3}, {ValueError: "often"}, {int: 3}])
def test_other_rules_are_refused(wrong):
    with pytest.raises(ValueError, match=r"attempts=|is no class of errors|is empty"):
        RetryRules.parse(wrong)


@pytest.mark.parametrize("control", [Discard, StopPropagation])
def test_there_is_no_rule_for_what_ends_a_delivery(control):
    """It was taken, and never read."""
    with pytest.raises(ValueError, match=f"{control.__name__} ends a delivery"):
        RetryRules.parse({control: 3})
