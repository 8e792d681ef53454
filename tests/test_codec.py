"""The codec by example: what is kept, what is refused and where, and what a reader makes of it."""

from __future__ import annotations

import dataclasses
import enum
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from earnorm import codec
from earnorm.codec import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_RECORD_BYTES,
    Reference,
    decode,
    encode,
    encode_values,
    fields_of,
    register_enum,
    register_type,
)
from earnorm.errors import PayloadError, UnsavedSubject


class Colour(enum.Enum):
    RED = 1
    BLUE = (0, 0, 255)


@dataclass(frozen=True)
class Item:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass
class Placed:
    total: Decimal
    items: list[Item]
    note: str | None = None
    count: int = field(init=False, default=0)


class Paid(msgspec.Struct, rename="camel"):
    paid_at: datetime
    colour: Colour = Colour.RED


class Point(msgspec.Struct, array_like=True):
    x: int
    y: int


class User:
    """Stands for a model; annotations with it are outside msgspec's words."""

    def __init__(self, key: int | None) -> None:
        self.key = key


@dataclass
class Greeted:
    user: Any
    by: User | None


class Pydantic:
    """Has the two methods by which a pydantic model is known."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pydantic) and self.fields == other.fields

    __hash__ = None

    def model_dump(self) -> dict[str, Any]:
        return self.fields

    @classmethod
    def model_validate(cls, fields: dict[str, Any]) -> Pydantic:
        if "bad" in fields:
            raise KeyError("bad")
        return cls(**fields)


def refer(value: object) -> tuple[str, list[Any]] | None:
    if not isinstance(value, User):
        return None
    if value.key is None:
        raise UnsavedSubject("order.paid", "User")
    return "user", [value.key]


def nested(levels: int) -> dict[str, Any]:
    """A payload of so many levels, itself the first."""
    payload: dict[str, Any] = {}
    for _ in range(levels - 1):
        payload = {"a": payload}
    return payload


def refused(payload: Any, **how: Any) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        encode(payload, **how)
    return caught.value


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Each test registers for itself alone."""
    for name in ("types", "_names", "enums"):
        monkeypatch.setattr(f"earnorm.codec._words.{name}", found := {})
        if hasattr(codec._read, name):
            monkeypatch.setattr(f"earnorm.codec._read.{name}", found)


class TestTypes:
    @pytest.mark.parametrize(
        "value",
        [
            2**63,
            -(2**200),
            datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1))),
            timedelta(days=-1, microseconds=1),
            Decimal("1.10"),
            UUID(int=1),
            b"\0\xff",
            Colour.RED,
            Colour.BLUE,
            Reference("user", (1, "b")),
            {"$datetime": "not a date"},
            {"$": 1, "$$": 2},
            {},
            [],
            "\\u0000 is only text",
            "$5",
        ],
    )
    def test_a_value_comes_back_as_it_was(self, value):
        read = decode(encode({"value": value}))["value"]

        assert (type(value), value) == (type(read), read)

    def test_a_decimal_keeps_its_digits(self):
        assert str(decode(encode({"total": Decimal("1.10")}))["total"]) == "1.10"

    def test_a_datetime_keeps_its_offset(self):
        at = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))

        assert at.utcoffset() == decode(encode({"at": at}))["at"].utcoffset()

    def test_a_naive_datetime_means_local_time(self):
        at = datetime(2026, 1, 31, 12)

        assert at.astimezone() == decode(encode({"at": at}))["at"]

    def test_tuples_become_lists(self):
        class Change(NamedTuple):
            old: int
            new: int

        assert {"a": [1, [2]], "b": [1, 2]} == decode(encode({"a": (1, (2,)), "b": Change(1, 2)}))

    def test_a_subclass_is_kept_as_its_base(self):
        class Text(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "something else"

        class Number(int):
            __slots__ = ()

        class Data(dict):
            pass

        read = decode(encode(Data(a=Text("x"), b=Number(2**70), c=MappingProxyType({Text("$k"): 1}))))

        assert {"a": "x", "b": 2**70, "c": {"$k": 1}} == read

    def test_the_wire_reads_as_documented(self):
        payload = {"at": datetime(2026, 1, 31, tzinfo=UTC), "who": Reference("user", (42,)), "$x": 1}

        assert b'{"at":{"$datetime":"2026-01-31T00:00:00+00:00"},"who":{"$ref":["user",[42]]},"$$x":1}' == encode(
            payload
        )


class TestRefusals:
    @pytest.mark.parametrize(
        "value, why",
        [
            (float("nan"), "NaN"),
            (float("-inf"), "Infinity"),
            (Decimal("NaN"), "NaN"),
            ("a\0b", "NUL"),
            ("a\ud800", "lone surrogates"),
            ({1, 2}, r"sorted\(...\)"),
            ({1: "a"}, "keys are strings, not int"),
            ({"a\0": 1}, "NUL"),
            ({"a\udfff": 1}, "lone surrogates"),
            (object(), "object is not plain data"),
            (Item, "type is not plain data"),
            (bytearray(b"x"), "bytearray is not plain data"),
            (1 + 2j, "complex is not plain data"),
        ],
    )
    def test_a_value_that_cannot_be_kept_is_refused(self, value, why):
        with pytest.raises(PayloadError, match=why) as caught:
            encode({"value": value})

        assert caught.value.path.startswith("value")

    def test_the_error_names_the_path(self):
        payload = {"payment": {"lines": [{}, {}, {}, {"price": float("nan")}]}}

        assert refused(payload).path == "payment.lines[3].price"

    def test_a_path_quotes_keys_that_are_no_words(self):
        assert refused({"a b": {"c": Item("x", ("\0",))}}).path == "['a b'].c.sizes[0]"

    @pytest.mark.parametrize("payload", [None, [], "text", 5, Item("x")])
    def test_a_payload_is_a_dictionary(self, payload):
        assert "dictionary" in refused(payload).why

    def test_as_many_levels_as_the_log_has_are_kept(self):
        assert nested(MAX_DEPTH) == decode(encode(nested(MAX_DEPTH)))

    def test_one_level_more_is_refused(self):
        assert "deeper than 64" in refused(nested(MAX_DEPTH + 1)).why

    @pytest.mark.parametrize("deepest", [Colour.RED, Decimal(1)])
    def test_a_typed_value_may_stand_at_the_deepest_level(self, deepest):
        payload: dict[str, Any] = {"a": deepest}
        for _ in range(MAX_DEPTH - 1):
            payload = {"a": payload}

        assert payload == decode(encode(payload))

    def test_a_hundred_thousand_levels_are_refused_without_a_crash(self):
        assert "deeper than 64" in refused(nested(100_000)).why

    def test_a_circle_is_refused(self):
        circle: list[Any] = []
        circle.append({"again": circle})

        assert "holds itself" in refused({"circle": circle}).why

    def test_an_object_that_holds_itself_is_refused(self):
        loop = Greeted(None, None)
        loop.user = loop

        assert "holds itself" in refused({"loop": loop}).why

    def test_256_kib_are_kept_and_a_byte_more_refused(self):
        fits = "x" * (MAX_BYTES - len(b'{"a":""}'))

        assert len(encode({"a": fits})) == MAX_BYTES
        assert "262,145 bytes, 262,144 are allowed" in refused({"a": fits + "x"}).why

    @pytest.mark.parametrize(
        "huge",
        [
            list(range(10_000_000)),
            "x" * 100_000_000,
            b"x" * 100_000_000,
            1 << 100_000_000,
            ["x" * 200_000] * 1_000_000,
            [{"k" * 200_000: 1}] * 1_000_000,
        ],
        ids=["list", "text", "bytes", "number", "shared text", "shared key"],
    )
    def test_what_is_huge_fails_fast(self, huge):
        began = time.perf_counter()
        refused({"huge": huge})

        assert time.perf_counter() - began < 1

    def test_doubling_forty_times_fails_fast(self):
        doubled: list[Any] = []
        for _ in range(40):
            doubled = [doubled, doubled]

        assert "too many bytes" in refused({"doubled": doubled}).why

    def test_code_of_the_user_that_raises_is_named_as_the_cause(self):
        class Broken:
            def model_dump(self) -> None:
                raise LookupError("inside")

            model_validate = model_dump

        error = refused({"it": Broken()})

        assert error.why == "reading it raised LookupError"
        assert isinstance(error.__cause__, LookupError)

    def test_a_zone_that_raises_is_refused(self):
        class Nowhere(tzinfo):
            def utcoffset(self, when: datetime | None) -> timedelta:
                raise KeyError("nowhere")

        assert "offset from UTC" in refused({"at": datetime(2026, 1, 31, tzinfo=Nowhere())}).why


class TestReferences:
    def test_a_model_goes_by_reference(self):
        data = encode({"user": User(42), "users": [User(1)]}, refer=refer)

        assert {"user": Reference("user", (42,)), "users": [Reference("user", (1,))]} == decode(data)

    def test_a_reference_can_be_resolved(self):
        data = encode({"user": User(42), "n": 1}, refer=refer)

        assert {"user": "user 42", "n": 1} == decode(data, resolve=lambda it: f"{it.subject} {it.key[0]}")

    def test_a_key_keeps_its_type(self):
        data = encode({"it": Reference("order", (UUID(int=7), Decimal("1.0")))})

        assert Reference("order", (UUID(int=7), Decimal("1.0"))) == decode(data)["it"]

    def test_an_error_of_our_own_from_refer_passes_through(self):
        with pytest.raises(UnsavedSubject):
            encode({"user": User(None)}, refer=refer)

    def test_an_error_from_resolve_passes_through(self):
        """A lost connection says nothing about the bytes, and must not send them to the dead letters."""

        def lost(reference: Reference) -> None:
            raise ConnectionError("lost")

        with pytest.raises(ConnectionError):
            decode(encode({"user": User(1)}, refer=refer), resolve=lost)


class TestEnums:
    def test_an_enum_unknown_to_the_reader_is_its_value(self):
        data = encode({"colour": Colour.RED})
        codec._read.enums.clear()

        assert {"colour": 1} == decode(data)

    def test_a_reader_that_registered_it_gets_the_member(self):
        data = encode({"colour": Colour.RED})
        codec._read.enums.clear()
        register_enum(Colour)

        assert {"colour": Colour.RED} == decode(data)

    def test_a_member_that_is_gone_is_its_value(self):
        register_enum(Colour)
        path = f"{Colour.__module__}.Colour"

        assert {"c": 9} == decode(msgspec.json.encode({"c": {"$enum": [path, "GREEN", 9]}}))

    def test_a_member_whose_value_moved_is_found_by_name(self):
        register_enum(Colour)
        path = f"{Colour.__module__}.Colour"

        assert {"c": Colour.RED} == decode(msgspec.json.encode({"c": {"$enum": [path, "RED", 9]}}))


class TestObjects:
    @pytest.mark.parametrize(
        "value",
        [
            Item("desk", (1, 2)),
            Placed(Decimal("1.10"), [Item("desk", (3,))], note="soon"),
            Paid(datetime(2026, 1, 31, tzinfo=UTC), Colour.BLUE),
            Point(1, 2),
            Pydantic(a=1, b=Decimal("2.0")),
            Greeted(Reference("user", (1,)), None),
        ],
    )
    def test_a_registered_class_comes_back_as_itself(self, value):
        for cls in (Item, Placed, Paid, Point, Pydantic, Greeted):
            register_type(cls)

        assert value == decode(encode({"it": value}))["it"]

    def test_an_unregistered_class_is_the_dictionary_of_its_fields(self):
        placed = Placed(Decimal("1.10"), [Item("desk", (1,))])

        assert {
            "total": Decimal("1.10"),
            "items": [{"name": "desk", "sizes": [1]}],
            "note": None,
            "count": 0,
        } == decode(encode({"it": placed}))["it"]

    def test_a_registered_name_outlives_the_class(self):
        register_type(Item, "shop.item")

        assert b'{"it":{"$object":["shop.item",{"name":"desk","sizes":[]}]}}' == encode({"it": Item("desk")})

    def test_fields_of_another_version_are_dropped_or_defaulted(self):
        register_type(Item, "item")

        assert {"it": Item("desk")} == decode(b'{"it":{"$object":["item",{"name":"desk","weight":1}]}}')

    def test_a_field_that_became_required_is_refused_with_its_path(self):
        register_type(Item, "item")
        with pytest.raises(PayloadError, match="does not fit Item") as caught:
            decode(b'{"a":[{"$object":["item",{}]}]}')

        assert caught.value.path == "a[0]"

    def test_validation_that_raises_anything_is_refused(self):
        register_type(Pydantic)
        with pytest.raises(PayloadError, match="does not fit Pydantic"):
            decode(encode({"it": Pydantic(bad=1)}))

    def test_a_resolved_model_stands_in_its_field(self):
        register_type(Greeted)
        ada = User(1)
        read = decode(encode({"it": Greeted(ada, ada)}, refer=refer), resolve=lambda _: ada)["it"]

        assert (ada, ada) == (read.user, read.by)

    def test_the_fields_of_what_has_none_are_none(self):
        assert [None, None, None] == [fields_of(value) for value in (1, Item, {})]
        assert {"x": 1, "y": 2} == fields_of(Point(1, 2))


class TestMalformedBytes:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"null",
            b'"text"',
            b"{",
            b"\xff",
            b'{"a":NaN}',
            b'{"a":1e400}',
            b'{"a":"\xff"}',
            b'{"a":"\\ud800"}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"[" * 100_000 + b"]" * 100_000,
            b'{"$ref":["user",[1]]}',
            b'{"a":{"$unknown":1}}',
            b'{"a":{"$uuid":5}}',
            b'{"a":{"$uuid":"x"}}',
            b'{"a":{"$bytes":"?"}}',
            b'{"a":{"$decimal":"Infinity"}}',
            b'{"a":{"$datetime":"2026-01-31T12:00:00"}}',
            b'{"a":{"$timedelta":[9999999999,0,0]}}',
            b'{"a":{"$timedelta":[1,2,3,4,5,6,7,8]}}',
            b'{"a":{"$enum":["x",1]}}',
            b'{"a":{"$object":["x",[]]}}',
            b'{"a":{"$datetime":"x","b":1}}',
            b'{"a":' * 66 + b"1" + b"}" * 66,
        ],
    )
    def test_they_are_refused_as_payload_errors(self, data):
        with pytest.raises(PayloadError):
            decode(data)

    @pytest.mark.parametrize("data", [None, "{}", 5, bytearray(b"{}")])
    def test_what_is_no_bytes_is_refused(self, data):
        with pytest.raises(PayloadError, match="expected bytes"):
            decode(data)

    def test_enums_within_enums_are_limited_too(self):
        data = b"1"
        for _ in range(300):
            data = b'{"$enum":["x","A",' + data + b"]}"
        with pytest.raises(PayloadError, match="deeper"):
            decode(b'{"a":' + data + b"}")

    def test_a_tag_spelled_with_an_escape_is_a_tag(self):
        assert {"a": Decimal(1)} == decode(b'{"a":{"\\u0024decimal":"1"}}')

    def test_the_error_names_the_path(self):
        with pytest.raises(PayloadError) as caught:
            decode(b'{"a":{"b":[1,{"$uuid":"x"}]}}')

        assert caught.value.path == "a.b[1]"


class TestFieldValues:
    def test_a_value_that_would_be_refused_is_left_out_and_named(self):
        data, omitted = encode_values({"id": 1, "photo": b"x" * 300_000, "tags": {1}, "$n": 2})

        assert ({"id": 1, "$n": 2}, ["photo", "tags"]) == (decode(data), omitted)

    def test_values_that_are_large_together_are_kept(self):
        values = {"a": "x" * 200_000, "b": "y" * 200_000}
        data, omitted = encode_values(values)

        assert (values, []) == (decode(data), omitted)

    def test_what_is_too_large_together_loses_its_last_values(self):
        data, omitted = encode_values({f"f{i:02}": "x" * 200_000 for i in range(30)})

        assert len(data) <= MAX_RECORD_BYTES
        assert [f"f{i}" for i in range(20, 30)] == omitted

    def test_nothing_is_raised_whatever_a_value_does(self):
        def broken(value: object) -> None:
            raise RuntimeError("no")

        assert (b'{"n":1}', ["user"]) == encode_values({"n": 1, "user": User(1)}, broken)

    def test_models_among_the_values_are_referred_to(self):
        data, omitted = encode_values({"user": User(1), "lost": User(None)}, refer)

        assert ({"user": Reference("user", (1,))}, ["lost"]) == (decode(data), omitted)

    def test_nothing_is_something(self):
        assert (b"{}", []) == encode_values({})


def test_a_class_is_registered_as_a_decorator_too():
    assert dataclasses.is_dataclass(register_type(Item))
    assert register_enum(Colour) is Colour
