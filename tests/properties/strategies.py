"""What properties are tried on: names, patterns, and every kind of plain data."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from earnorm.codec import Reference


class Colour(enum.Enum):
    RED = "red"
    CMYK = (0, 1, 1, 0)


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


# --- names: few words, so that names and patterns meet --------------------------------------

segments = st.sampled_from(["a", "b", "user"])
names = st.lists(segments, min_size=1, max_size=8).map(".".join)
patterns = st.lists(segments | st.sampled_from(["*", "**"]), min_size=1, max_size=8).map(".".join)
pattern_lists = st.lists(patterns | patterns.map(lambda pattern: "!" + pattern), min_size=1, max_size=5).filter(
    lambda texts: any(not text.startswith("!") for text in texts)
)

# --- plain data -----------------------------------------------------------------------------

offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
moments = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31), timezones=offsets | st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["$", "$$", "$datetime", "$$ref", "\\u0000", "$5", "\u2028"]
)
uuids: st.SearchStrategy[UUID] = st.uuids()
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.binary(max_size=20),
    moments,
    st.dates(),
    st.times(timezones=st.none() | offsets),
    st.timedeltas(),
    st.decimals(allow_nan=False, allow_infinity=False),
    uuids,
    st.sampled_from([*Colour, *Size, *Access, Access.READ | Access.WRITE, Access(0)]),
    st.builds(Reference, st.sampled_from(["user", "order"]), st.tuples(st.integers() | uuids)),
)
values: st.SearchStrategy[Any] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)
payloads: st.SearchStrategy[dict[str, Any]] = st.dictionaries(texts, values, max_size=6)


# --- what nobody should send ----------------------------------------------------------------


class Grumpy:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


odd_leaves = st.one_of(
    leaves,
    st.text(max_size=5),
    st.text(st.sampled_from("a\0\ud800"), max_size=5),
    st.floats(),
    st.decimals(),
    st.datetimes(),
    st.complex_numbers(),
    st.sets(st.integers(), max_size=3),
    st.builds(object),
    st.builds(Grumpy),
    st.sampled_from([int, print, ..., Colour, range(3)]),
    st.builds(lambda kind: kind(300_000), st.sampled_from([bytes, "y".__mul__, [None].__mul__, (1).__lshift__])),
)
odd_values: st.SearchStrategy[Any] = st.recursive(
    odd_leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=15,
)
