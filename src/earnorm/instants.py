"""Instants: times as whole microseconds since 1970, UTC. They are exact both ways, and compare as numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import modf

__all__ = ["microseconds", "microseconds_of", "to_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def microseconds_of(seconds: float) -> int:
    """Of `time.time()`: `microseconds(datetime.fromtimestamp(seconds, UTC))`, in a fifth of the time."""
    part, whole = modf(seconds)
    return int(whole) * 1_000_000 + round(part * 1e6)


def to_time(at: int) -> datetime:
    # Not fromtimestamp: a float of seconds is exact to the microsecond for some centuries only.
    return _EPOCH + timedelta(0, 0, at)
