"""What JSON held → plain data, with its types."""

from __future__ import annotations

import dataclasses
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from earnorm.codec._words import MAX_DEPTH, TOO_DEEP, Reference, Refusal, Resolve, Stored, enums, is_pydantic, types


class Reader:
    """Walks one parsed document. What `resolve` raises is not about the bytes and passes through."""

    __slots__ = ("resolve",)

    def __init__(self, resolve: Resolve) -> None:
        self.resolve = resolve

    def value(self, value: Any, depth: int) -> Any:
        if type(value) is dict:
            tag = _tag(value)
            return self.mapping(value, depth) if tag is None else self._tagged(tag, value[tag], depth)
        return self.sequence(value, depth) if type(value) is list else value

    def mapping(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        _enter(value, depth)
        read: dict[str, Any] = {}
        key = ""
        try:
            for key, item in value.items():
                name = _unescaped(key) if key[:1] == "$" else key
                read[name] = self.value(item, depth + 1) if type(item) in (dict, list) else item
        except Refusal as refusal:
            refusal.passing(key)
            raise
        return read

    def sequence(self, value: list[Any], depth: int) -> list[Any]:
        _enter(value, depth)
        read: list[Any] = []
        try:
            for item in value:
                read.append(self.value(item, depth + 1))  # noqa: PERF401  its length is the index of a fault
        except Refusal as refusal:
            refusal.steps.append(f"[{len(read)}]")
            raise
        return read

    def _tagged(self, tag: str, raw: Any, depth: int) -> Any:
        if tag in _PARSE:
            return _parsed(tag, raw)
        match tag, raw:
            case "$enum", [str(path), str(name), value]:
                return self._enum(path, name, value, depth)
            case "$object", [str(name), dict(fields)]:
                return _built(name, self.mapping(fields, depth))
            case "$ref", [str(subject), list(key)]:
                return self.resolve(Reference(subject, tuple(self.sequence(key, depth))))
            case "$stored", value:
                return Stored(self.value(value, depth + 1))
            case _:
                raise Refusal({tag: raw}, f"{tag} is no tag this version knows, or holds something else")

    def _enum(self, path: str, name: str, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Refusal(value, TOO_DEEP)
        plain = self.value(value, depth + 1)
        cls = enums.get(path)
        return plain if cls is None else _member(cls, name, plain)


def _enter(value: object, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Refusal(value, TOO_DEEP)


def _tag(value: dict[str, Any]) -> str | None:
    if len(value) != 1:
        return None
    key = next(iter(value))
    return key if key[:1] == "$" and key[:2] != "$$" else None


def _unescaped(key: str) -> str:
    if key[:2] != "$$":
        raise Refusal(key, 'a tag stands alone in its object; a key that starts with "$" is written "$$"')
    return key[1:]


def _parsed(tag: str, raw: Any) -> Any:
    kind, parse = _PARSE[tag]
    try:
        if type(raw) is kind:
            return parse(raw)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise Refusal(raw, f"it is no {tag[1:]}") from error
    raise Refusal(raw, f"it is no {tag[1:]}")


def _moment(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError("it has no offset")
    return value


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError("it is not finite")
    return value


def _uuid(text: str) -> UUID:
    try:
        # In a fifth of the time of UUID's own questions.
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        return UUID(text)


_PARSE: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "$datetime": (str, _moment),
    "$date": (str, date.fromisoformat),
    "$time": (str, time.fromisoformat),
    "$timedelta": (list, lambda parts: timedelta(*parts)),
    "$decimal": (str, _decimal),
    "$uuid": (str, _uuid),
    "$bytes": (str, lambda text: b64decode(text, validate=True)),
    "$int": (str, lambda text: int(text, 16)),
}


def _member(cls: type[Enum], name: str, value: Any) -> Any:
    """By value, which is what data means; by name where JSON changed the value (a tuple); else the value itself."""
    try:
        return cls(value)
    except Exception:  # noqa: BLE001  `_missing_` is code of the user
        return cls.__members__.get(name, value)


def _built(name: str, fields: dict[str, Any]) -> Any:
    cls = types.get(name)
    if cls is None:
        return fields
    try:
        return cls.model_validate(fields) if is_pydantic(cls) else _converted(cls, fields)
    except Exception as error:  # validation is code of the user
        raise Refusal(fields, f"it does not fit {cls.__qualname__} ({type(error).__name__}: see its cause)") from error


def _converted(cls: type[Any], fields: dict[str, Any]) -> Any:
    """Lists become tuples, unknown fields are dropped: as the class's annotations say, where msgspec knows them."""
    if issubclass(cls, msgspec.Struct):
        names = cls.__struct_fields__
        stored = dict(zip(names, cls.__struct_encode_fields__, strict=True))
    else:
        names = tuple(field.name for field in dataclasses.fields(cls) if field.init)
        stored = {name: name for name in names}
    known = {name: fields[name] for name in names if name in fields}
    if _is_array(cls):
        return cls(**known)
    try:
        return msgspec.convert({stored[name]: value for name, value in known.items()}, cls)
    except TypeError:  # an annotation outside msgspec's words, such as a model
        return cls(**known)


def _is_array(cls: type[Any]) -> bool:
    return issubclass(cls, msgspec.Struct) and cls.__struct_config__.array_like
