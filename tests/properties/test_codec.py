"""Whatever is written comes back as it was; whatever else is given is refused in one way only."""

from __future__ import annotations

import enum
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from earnorm.codec import MAX_BYTES, decode, encode, encode_flat, encode_values
from earnorm.errors import PayloadError
from tests.properties.strategies import odd_values, payloads, values


def typed(value: Any) -> Any:
    """A value with the type of each of its parts, since 1 == 1.0 == True."""
    match value:
        case enum.Enum():
            return value
        case dict():
            return {key: typed(item) for key, item in value.items()}
        case list():
            return [typed(item) for item in value]
        case float() | Decimal():
            return type(value), str(value)
        case _:
            return type(value), value, getattr(value, "utcoffset", lambda: None)()


@given(payloads)
@example({"$datetime": "2026-01-31"})
@example({"a": {"$": 1}, "$$b": {"$ref": ["user", [1]]}})
def test_what_is_encoded_is_decoded_with_its_types(payload):
    assert typed(payload) == typed(decode(encode(payload)))


@given(payloads)
def test_encoding_is_json_that_others_can_read(payload):
    assert isinstance(msgspec.json.decode(encode(payload)), dict)


@given(st.lists(values, max_size=2), payloads)
@example([1], {"number": 1, "name": "Ada", "share": 0.5, "open": True, "none": None})
@example([], {"text": "\0"})
@example([], {"$text": "half \ud800"})
def test_what_is_flat_is_written_as_anything_is(identity, payload):
    flat = encode_flat(tuple(identity), payload)

    assert flat is None or encode({"identity": identity, "payload": payload}) == flat


@given(st.dictionaries(st.text(max_size=5) | st.integers(), odd_values, max_size=4))
def test_what_is_refused_is_not_flat(payload):
    refused = attempt(encode, payload)[1]

    assert refused is None or encode_flat((), payload) is None


@given(payloads)
def test_what_was_decoded_encodes_the_same(payload):
    assert encode(payload) == encode(decode(encode(payload)))


@given(payloads)
def test_values_that_can_be_kept_are_all_kept(payload):
    assert (encode(payload), []) == encode_values(payload)


@given(st.dictionaries(st.text(max_size=5), odd_values, max_size=4) | odd_values)
def test_only_payload_errors_refuse(thing):
    data, refusal = attempt(encode, thing)

    assert len(data or b"") <= MAX_BYTES
    assert refusal is None or (refusal.why and len(str(refusal)) < 1000)


@given(st.dictionaries(st.text("abc$", min_size=1, max_size=3), odd_values, max_size=4))
def test_a_record_keeps_what_can_be_kept_and_names_the_rest(record):
    data, omitted = encode_values(record)

    assert set(record) == set(decode(data)) | set(omitted)
    assert not set(decode(data)) & set(omitted)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(data):
    readable(data)


def tagged(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tags = ["$datetime", "$date", "$time", "$timedelta", "$decimal", "$uuid", "$bytes", "$int"]
    tags += ["$enum", "$object", "$ref", "$", "$$", "$x", "a"]
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(tags), inner, max_size=2)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("1-:TZ aN", max_size=12)


@given(st.recursive(plain, tagged, max_leaves=10))
@example({"a": {"$enum": [["x"], "A", 1]}})
@example({"a": {"$timedelta": [1e300, 0, 0]}})
@example({"a": {"$decimal": "sNaN"}})
@example({"a": {"$decimal": 1.5}})
@example({"a": {"$datetime": "2026-01-31"}})
@example({"a": {"$int": "1" * 10_000}})
def test_random_tags_are_refused_or_read(tree):
    readable(msgspec.json.encode(tree))


@given(payloads, st.data())
def test_truncated_and_bent_bytes_are_refused_or_read(payload, data):
    whole = encode(payload)
    at = data.draw(st.integers(0, len(whole) - 1))
    readable(whole[:at])
    readable(whole[:at] + data.draw(st.binary(min_size=1, max_size=1)) + whole[at + 1 :])


def readable(data: bytes) -> None:
    read, refusal = attempt(decode, data)

    assert isinstance(read, dict) or (refusal and refusal.why)


def attempt(call: Callable[[Any], Any], thing: Any) -> tuple[Any, PayloadError | None]:
    """What it gave, or how it refused; anything else it raises is a fault."""
    try:
        return call(thing), None
    except PayloadError as refusal:
        return None, refusal


@given(values)
def test_every_value_may_stand_anywhere(value):
    assert typed([value, {"x": value}]) == typed(decode(encode({"payload": [value, {"x": value}]}))["payload"])
