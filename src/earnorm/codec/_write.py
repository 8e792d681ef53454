"""Plain data → what JSON can hold."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any
from uuid import UUID

from earnorm.codec._words import (
    MAX_BYTES,
    MAX_DEPTH,
    TOO_DEEP,
    Refer,
    Reference,
    Refusal,
    Stored,
    fields_of,
    name_of,
    path_of,
    register_enum,
    too_large,
)
from earnorm.errors import EarnORMError

_NO_NUMBER = "JSON has no NaN and no Infinity; send None or a text"
_NO_TEXT = "NUL characters and lone surrogates cannot be stored by every database; strip or encode them"


class Writer:
    """Walks one payload. `room` bounds the work: what cannot fit any more is not walked.

    Text is checked by a `careful` writer only: others leave it to the encoder, in C, to notice.
    """

    __slots__ = ("careful", "refer", "room")

    def __init__(self, refer: Refer, *, careful: bool = False) -> None:
        self.refer = refer
        self.careful = careful
        self.room = MAX_BYTES

    def value(self, value: Any, depth: int) -> Any:
        write = _WRITE.get(type(value))
        return self._other(value, depth) if write is None else write(self, value, depth)

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self._enter(value, depth, 4 * len(value))
        depth += 1
        written: dict[str, Any] = {}
        key: Any = None
        try:
            for key, item in value.items():
                plain = type(key) is str and len(key) <= 64 and key[:1] != "$" and not self.careful
                name = key if plain else self._key(key)
                # As in `value`: the call saved here is a fifth of a flat payload's time.
                write = _WRITE.get(type(item))
                written[name] = self._other(item, depth) if write is None else write(self, item, depth)
        except Refusal as refusal:
            refusal.passing(key)
            raise
        return written

    def members(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the names of a record's attributes, which need no look; their sizes are left to the caller."""
        return {
            name: item
            if (kind := type(item)) is str
            or item is None
            or kind is bool
            or (kind is int and -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF)
            else self.value(item, 2)
            for name, item in values.items()
        }

    def parts(self, key: Iterable[Any]) -> list[Any]:
        """The parts of a record's key, as `members`."""
        return [
            part
            if (kind := type(part)) is str or (kind is int and -0x8000_0000_0000_0000 <= part <= 0x7FFF_FFFF_FFFF_FFFF)
            else self.value(part, 2)
            for part in key
        ]

    def sequence(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        self._enter(value, depth, 2 * len(value))
        written: list[Any] = []
        try:
            for item in value:
                written.append(self.value(item, depth + 1))  # noqa: PERF401  its length is the index of a fault
        except Refusal as refusal:
            refusal.steps.append(f"[{len(written)}]")
            raise
        return written

    def text(self, value: str, _depth: int = 0) -> str:
        if len(value) > 64:
            self._take(value, len(value))
        if self.careful and ("\0" in value or not _is_unicode(value)):
            raise Refusal(value, _NO_TEXT)
        return value

    def number(self, value: int, _depth: int) -> Any:
        if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
            return value
        self._take(value, value.bit_length() // 4)
        return {"$int": hex(value)}  # decimal digits are limited in number, and slow

    def real(self, value: float, _depth: int) -> float:
        if isfinite(value):
            return value
        raise Refusal(value, _NO_NUMBER)

    def decimal(self, value: Decimal, _depth: int) -> Any:
        if not value.is_finite():
            raise Refusal(value, _NO_NUMBER)
        return {"$decimal": self.text(Decimal.__str__(value))}

    def moment(self, value: datetime, _depth: int) -> Any:
        try:
            # Naive datetimes mean local time.
            aware = value.astimezone() if value.utcoffset() is None else value
            return {"$datetime": datetime.isoformat(aware)}
        except Exception as error:
            raise Refusal(value, "its offset from UTC cannot be told; give it a time zone that can") from error

    def blob(self, value: bytes, _depth: int) -> Any:
        self._take(value, len(value) * 4 // 3)
        return {"$bytes": b64encode(value).decode()}

    def _other(self, value: Any, depth: int) -> Any:
        try:
            return self._model_or_object(value, depth)
        except (Refusal, EarnORMError):
            raise
        except Exception as error:  # a property, a serializer: code of the user
            raise Refusal(value, f"reading it raised {type(error).__name__}") from error

    def _model_or_object(self, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):  # before int and str, which it may be as well
            return self._enum(value, depth)
        if isinstance(value, Stored):
            return {"$stored": self.value(value.value, depth + 1)}
        if isinstance(value, Reference):
            return self._reference(value.subject, value.key, depth)
        found = self.refer(value)
        if found is not None:
            return self._reference(found[0], found[1], depth)
        fields = fields_of(value)
        if fields is not None:
            return {"$object": [self.text(name_of(type(value))), self.mapping(fields, depth)]}
        for kind, write in _SUBCLASSED:
            if isinstance(value, kind):
                return write(self, value, depth)
        raise Refusal(value, _advice(value))

    def _enum(self, value: Enum, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Refusal(value, TOO_DEEP)
        cls = register_enum(type(value))
        return {"$enum": [self.text(path_of(cls)), self.text(value.name or ""), self.value(value.value, depth + 1)]}

    def _reference(self, subject: str, key: Any, depth: int) -> Any:
        return {"$ref": [self.text(subject), self.sequence(list(key), depth)]}

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise Refusal(key, f"JSON keys are strings, not {type(key).__name__}; write str(key)")
        plain = self.text(str.__str__(key))
        return "$" + plain if plain[:1] == "$" else plain

    def _enter(self, value: Any, depth: int, least: int) -> None:
        if depth >= MAX_DEPTH:
            raise Refusal(value, TOO_DEEP)
        self._take(value, least)

    def _take(self, value: Any, least: int) -> None:
        """Set aside what `value` takes at least, so that huge and shared structures fail before they are copied."""
        self.room -= least
        if self.room < 0:
            raise Refusal(value, too_large("with it the payload takes too many bytes"))


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _advice(value: object) -> str:
    if isinstance(value, (set, frozenset)):
        return "a set has no order to be kept; send sorted(...) of it"
    return f"{type(value).__name__} is not plain data; send its key, or a dictionary of what handlers need"


Write = Callable[[Writer, Any, int], Any]

_WRITE: dict[type[Any], Write] = {
    str: Writer.text,
    int: Writer.number,
    float: Writer.real,
    bool: lambda _writer, value, _depth: value,
    type(None): lambda _writer, value, _depth: value,
    datetime: Writer.moment,
    date: lambda _writer, value, _depth: {"$date": date.isoformat(value)},
    time: lambda _writer, value, _depth: {"$time": time.isoformat(value)},
    timedelta: lambda _writer, value, _depth: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    Decimal: Writer.decimal,
    UUID: lambda _writer, value, _depth: {"$uuid": UUID.__str__(value)},
    bytes: Writer.blob,
    dict: Writer.mapping,
    list: Writer.sequence,
    tuple: Writer.sequence,
}

# A subclass is written as its base, by value; datetime stands before date, which it derives from.
_SUBCLASSED: list[tuple[type[Any], Write]] = [
    (str, lambda writer, value, depth: writer.text(str.__str__(value), depth)),
    (int, lambda writer, value, depth: writer.number(int.__int__(value), depth)),
    (float, lambda writer, value, depth: writer.real(float.__float__(value), depth)),
    *((kind, _WRITE[kind]) for kind in (datetime, date, time, timedelta, Decimal, UUID, bytes, list, tuple)),
    (Mapping, Writer.mapping),
]
