"""The rule of a JSONField: what every database keeps as JSON, and gives back as it was."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["what_is_no_json"]

# A JSON encoder goes down by recursion, and so would a reader; what holds itself has no end.
_DEEPEST = 200
_WIDEST = 2**63


def what_is_no_json(value: Any) -> str | None:
    """What is wrong with it and where, to be said after `field = value`; None if nothing is.

    Tuples pass, and are read as lists.
    """
    if type(value) is int and not -_WIDEST <= value < _WIDEST:
        return " does not fit into 64 bits, beyond which SQLite keeps no number to the digit; write it as text"
    try:
        _check(value, 0)
    except _NoJson as found:
        where = "".join(reversed(found.steps))
        return f" at {where} {found.why}" if where else f" {found.why}"
    return None


class _NoJson(Exception):
    """The place is put together on the way out, so that a good value pays nothing for it."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.steps: list[str] = []


def _check(value: Any, depth: int) -> None:
    if value is None or value is True or value is False:
        return
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        _check_members(value, depth)
    elif isinstance(value, (list, tuple)):
        _check_items(value, depth)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _NoJson("holds a number that is not finite, for which JSON has no word")
    elif not isinstance(value, int):
        kind = type(value).__name__
        raise _NoJson(f"is {kind}, which is no JSON{_ADVICE.get(kind, '')}")


_ADVICE = {
    "set": "; write a list",
    "frozenset": "; write a list",
    "datetime": "; write .isoformat()",
    "date": "; write .isoformat()",
    "time": "; write .isoformat()",
    "Decimal": "; write it as text",
    "UUID": "; write it as text",
    "bytes": "; write .hex(), or use a BytesField",
}


def _check_text(value: str) -> None:
    if "\0" in value:
        raise _NoJson("contains a NUL character, which PostgreSQL refuses")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _NoJson("contains half of a surrogate pair, which is no text") from None


def _check_members(value: dict[Any, Any], depth: int) -> None:
    _enter(depth)
    for key, member in value.items():
        if not isinstance(key, str):
            raise _NoJson(f"has the key {key!r:.40}, and keys of JSON are text; write str({key!r:.40})")
        try:
            _check_text(key)
            _check(member, depth + 1)
        except _NoJson as found:
            found.steps.append(f"[{key!r:.40}]")
            raise


def _check_items(value: list[Any] | tuple[Any, ...], depth: int) -> None:
    _enter(depth)
    for place, item in enumerate(value):
        try:
            _check(item, depth + 1)
        except _NoJson as found:
            found.steps.append(f"[{place}]")
            raise


def _enter(depth: int) -> None:
    if depth >= _DEEPEST:
        raise _NoJson(f"is nested deeper than {_DEEPEST} levels, or holds itself")
