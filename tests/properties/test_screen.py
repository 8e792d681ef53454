"""The screen lets through what the rules have nothing against, and nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from earnorm.orm.rules import rules_of
from earnorm.orm.screen import screen_of
from earnorm.orm.spec import FieldSpec

TYPES: dict[str, type[Any]] = {
    "StringField": str,
    "EmailField": str,
    "IntegerField": int,
    "BigIntegerField": int,
    "FloatField": float,
    "DecimalField": Decimal,
    "BooleanField": bool,
    "DateField": date,
    "DateTimeField": datetime,
    "UUIDField": UUID,
    "JSONField": object,
    "BytesField": bytes,
}


class Text(str):
    __slots__ = ()


VALUES = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.text(max_size=8).map(Text),
    st.sampled_from(["a\0b", "\ud800", "ada@example.com", "é" * 6]),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.sampled_from([2**31 - 1, 2**31, -(2**31) - 1, 2**63]),
    st.floats(),
    st.decimals(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.uuids(),
    st.binary(max_size=6),
)
SPECS = st.builds(
    FieldSpec,
    kind=st.sampled_from(sorted(TYPES)),
    python_type=st.just(object),
    required=st.booleans(),
    max_length=st.none() | st.integers(0, 6),
    min_length=st.none() | st.integers(0, 3),
    validators=st.just(()) | st.just((lambda value: str(value) != "no",)),
)


def typed(spec: FieldSpec) -> FieldSpec:
    """Lengths only where they mean something."""
    long = spec.kind in ("StringField", "EmailField", "BytesField")
    return FieldSpec(
        kind=spec.kind,
        python_type=TYPES[spec.kind],
        required=spec.required,
        max_length=spec.max_length if long else None,
        min_length=spec.min_length if long else None,
        validators=spec.validators,
    )


def passes(spec: FieldSpec, value: object) -> bool:
    """The rules one by one, as they are written."""
    if value is None:
        return not spec.required
    return all(rule(value) is None for rule in rules_of(spec)[:1]) and all(r(value) is None for r in rules_of(spec)[1:])


@given(st.lists(st.tuples(SPECS.map(typed), VALUES), max_size=4))
def test_values_pass_together_if_each_passes_alone(fields: list[tuple[FieldSpec, object]]) -> None:
    asked = {
        f"field{number}": (spec, not spec.required, lambda value, spec=spec: passes(spec, value))
        for number, (spec, _) in enumerate(fields)
    }
    values = {f"field{number}": value for number, (_, value) in enumerate(fields)}

    assert all(passes(spec, value) for spec, value in fields) == screen_of(asked)(values)
