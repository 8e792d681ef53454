"""Durations: how users write a length of time (`90`, `"90s"`, `"1h30m"`, a timedelta), read as seconds in one place."""

from __future__ import annotations

import re
from datetime import timedelta
from math import isfinite

from earnorm.errors import InvalidDuration

__all__ = ["LONGEST", "Duration", "seconds_of"]

Duration = float | timedelta | str
"""A number of seconds, a `timedelta`, or a text such as `"250ms"`, `"90s"`, `"5m"`, `"1h30m"`, `"2d"`, `"1w"`."""

# Ten years, in seconds: what is later overflows some database's idea of time.
LONGEST = 10 * 365 * 86_400.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*", re.ASCII)


def seconds_of(duration: object) -> float:
    """The duration in seconds, 0 to ten years. Raises InvalidDuration."""
    seconds = _seconds(duration)
    if seconds is None or not isfinite(seconds) or not 0.0 <= seconds <= LONGEST:
        raise InvalidDuration(duration)
    return seconds


def _seconds(duration: object) -> float | None:
    match duration:
        case bool():
            return None
        case int() | float():
            # Not float(duration): a huge int overflows.
            return float(duration) if abs(duration) <= LONGEST else None
        case timedelta():
            return duration.total_seconds()
        case str():
            return _parsed(duration.strip())
        case _:
            return None


def _parsed(text: str) -> float | None:
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)
