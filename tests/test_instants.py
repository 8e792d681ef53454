"""Instants: the same however they are come by."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from earnorm.instants import microseconds, microseconds_of, to_time

TIMES = st.datetimes(timezones=st.just(UTC))
# Of the clock, as floats of seconds have it, and right between two microseconds.
SECONDS = st.floats(0, 4e9) | st.integers(0, 2**33).map(lambda number: number / 2) | st.just(1_795_820_320.0000005)


@given(TIMES)
def test_a_time_comes_back_as_it_was(at):
    assert at == to_time(microseconds(at))


@given(SECONDS)
def test_a_clock_s_seconds_are_the_instant_of_their_datetime(seconds):
    assert microseconds(datetime.fromtimestamp(seconds, UTC)) == microseconds_of(seconds)
