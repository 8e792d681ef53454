"""A screen: one generated function a model that lets values without faults pass, written out since every save pays.

It looks at the values of the exact types and asks the rules themselves about all others, so it never decides alone
that something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from earnorm.orm.rules import rules_of
from earnorm.orm.spec import FieldSpec

__all__ = ["Passes", "Screen", "screen_of"]

Screen = Callable[[Mapping[str, Any]], bool]
"""Whether all values of a record pass; of those absent, whether None would."""
Passes = Callable[[Any], object]

_IS_TEXT = "v.__class__ is str and v.isascii() and '\\0' not in v"
# By kind of field: what holds for a value that its type rule has nothing against.
_TYPES: dict[str, str] = {
    **dict.fromkeys(("StringField", "TextField", "EmailField", "URLField", "SlugField"), _IS_TEXT),
    "IntegerField": f"v.__class__ is int and {-(2**31)} <= v < {2**31}",
    "BigIntegerField": f"v.__class__ is int and {-(2**63)} <= v < {2**63}",
    "FloatField": "v.__class__ is float and v - v == 0.0",
    "DecimalField": "v.__class__ is Decimal and v.is_finite()",
    "BooleanField": "(v is True or v is False)",
    "DateField": "v.__class__ is date",
    "DateTimeField": "v.__class__ is datetime and 1 < v.year < 9999",
    "UUIDField": "v.__class__ is UUID",
}


def screen_of(fields: Mapping[str, tuple[FieldSpec, bool, Passes]]) -> Screen:
    """The screen for fields by name: each with its spec, whether it may be None, and what its rules say of a value."""
    names: dict[str, Any] = {"Decimal": Decimal, "UUID": UUID, "date": date, "datetime": datetime}
    lines = ["def screen(values):", "    get = values.get"]
    for number, (name, (spec, may_be_none, passes)) in enumerate(fields.items()):
        names[f"passes{number}"] = passes
        lines += [f"    v = get({name!r})", f"    if not ({_condition(spec, number, names, may_be_none=may_be_none)}):"]
        lines.append("        return False")
    lines.append("    return True")
    # The text is made of attribute names, which Python has accepted as such, and of numbers.
    exec(compile("\n".join(lines), "<earnorm screen>", "exec"), names)  # noqa: S102  see above
    return names["screen"]  # type: ignore[no-any-return]  # what exec defined


def _condition(spec: FieldSpec, number: int, names: dict[str, Any], *, may_be_none: bool) -> str:
    asked = f"passes{number}(v)"
    if spec.kind not in _TYPES:
        return asked
    parts, rules = [_TYPES[spec.kind]], rules_of(spec)[1:]
    if _TYPES[spec.kind] is _IS_TEXT and spec.max_length is not None and not spec.min_length:
        # Of a text's rules, that of its length stands behind that of its type.
        parts, rules = [*parts, f"len(v) <= {spec.max_length}"], rules[1:]
    for place, rule in enumerate(rules):
        names[f"rule{number}_{place}"] = rule
        parts.append(f"rule{number}_{place}(v) is None")
    absent = "v is None or " if may_be_none else ""
    return f"{absent}{' and '.join(parts)} or {asked}"
