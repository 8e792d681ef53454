"""Lengths of time as users write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm.durations import LONGEST, seconds_of
from earnorm.errors import EarnORMError, InvalidDuration


@pytest.mark.parametrize(
    "written, seconds",
    [
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=2), 120.0),
        ("250ms", 0.25),
        ("90s", 90.0),
        ("1.5 s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5_400.0),
        (" 1h 30m ", 5_400.0),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
    ],
)
def test_a_duration_is_a_number_a_timedelta_or_a_text(written, seconds):
    assert seconds == seconds_of(written)


TEXTS = ["", "soon", "5", "5 minutes", "m5", "1h30", "-5m", "5m -1s", "\N{ARABIC-INDIC DIGIT FIVE}m", "4000d"]
NUMBERS = [-1, math.nan, math.inf, 10**400, LONGEST + 1, timedelta(-1)]


@pytest.mark.parametrize("wrong", [*TEXTS, *NUMBERS, True, None, b"5m", ["5m"]])
def test_what_is_no_duration_is_named_with_what_would_be_one(wrong):
    with pytest.raises(InvalidDuration) as caught:
        seconds_of(wrong)

    assert isinstance(caught.value, (EarnORMError, ValueError))
    assert repr(wrong) in str(caught.value)
    assert '"1h30m"' in str(caught.value)


@given(st.integers(0, 1_000_000))
def test_a_text_of_seconds_is_its_number(number):
    assert float(number) == seconds_of(f"{number}s")
