"""Times and lengths of time, as they are written on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from earnorm.durations import seconds_of
from earnorm.errors import InvalidDuration

__all__ = ["length", "moment"]


def length(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Of an option: `30`, `30s`, `12h`, `30d`, in seconds."""
    if value is None:
        return None
    try:
        return _seconds(value)
    except InvalidDuration as error:
        raise click.BadParameter(str(error)) from None


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Of an option: `2026-03-01`, `2026-03-01T09:30`, or how long ago: `2h`. Without a zone it is local time."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - timedelta(seconds=_seconds(value))
    except InvalidDuration:
        what = f"{value!r} is no moment; write 2026-03-01, 2026-03-01T09:30+00:00, or how long ago: 2h"
        raise click.BadParameter(what) from None


def _seconds(value: str) -> float:
    return seconds_of(float(value) if value.replace(".", "", 1).isdecimal() else value)
