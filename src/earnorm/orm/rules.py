"""Rules: what a value of each kind of field must be. A rule takes a value and says what is wrong with it, or None."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from earnorm.orm.json_rule import what_is_no_json
from earnorm.orm.spec import FieldSpec
from earnorm.orm.types import aware

__all__ = ["Broken", "Rule", "built_in_rules", "first_broken", "rules_of"]


class Broken(NamedTuple):
    """A broken rule: its name, and what to say after `field = value`. What it says never holds the value itself."""

    rule: str
    says: str


Rule = Callable[[Any], Broken | None]


@lru_cache(maxsize=4096)
def rules_of(spec: FieldSpec) -> tuple[Rule, ...]:
    """All rules of a field; the first one is about the type, and later ones are asked only if it holds."""
    return (*built_in_rules(spec), *(_user_rule(validator, spec.sensitive) for validator in spec.validators))


def first_broken(spec: FieldSpec, value: object) -> Broken | None:
    """What is wrong with a default, a bound or a choice, at the time a field is defined."""
    return next((broken for rule in built_in_rules(spec) if (broken := rule(value))), None)


def built_in_rules(spec: FieldSpec) -> tuple[Rule, ...]:
    return tuple(_built_in_rules(spec))


def _built_in_rules(spec: FieldSpec) -> Iterator[Rule]:
    rules = _SENSITIVE_TYPE_RULES if spec.sensitive and spec.kind in _SENSITIVE_TYPE_RULES else _TYPE_RULES
    yield rules.get(spec.kind) or _instance_of(spec.python_type)
    if spec.min is not None or spec.max is not None:
        yield _between(spec.min, spec.max, _aware if spec.python_type is datetime else None)
    if spec.min_length is not None or spec.max_length is not None:
        yield _as_long_as(spec.min_length or 0, spec.max_length, "bytes" if spec.python_type is bytes else "characters")
    if spec.precision is not None and spec.scale is not None:
        yield _with_digits(spec.precision, spec.scale)
    if spec.kind in _FORMS:
        yield _of_form(spec.kind, *_FORMS[spec.kind])
    if spec.pattern is not None:
        yield _of_form("pattern", spec.pattern, f"does not match {spec.pattern.pattern!r}")
    if spec.choices:
        yield _one_of(spec.choices)


# --- types ----------------------------------------------------------------------------------


def _wrong_type(value: object, expected: str, hint: str = "") -> Broken:
    return Broken("type", f" is {type(value).__name__}, not {expected}{hint}")


def _instance_of(python_type: type[Any]) -> Rule:
    def rule(value: Any) -> Broken | None:
        return None if isinstance(value, python_type) else _wrong_type(value, python_type.__name__)

    return rule


def _json(value: Any) -> Broken | None:
    why = what_is_no_json(value)
    return None if why is None else Broken("json", why)


def _sensitive_json(value: Any) -> Broken | None:
    # Where the fault lies would be told by keys of the secret.
    return None if what_is_no_json(value) is None else Broken("json", " is no JSON")


def _text(value: Any) -> Broken | None:
    if not isinstance(value, str):
        return _wrong_type(value, "str")
    if "\0" in value:
        return Broken("text", " contains a NUL character, which PostgreSQL refuses")
    if not value.isascii():
        return _surrogates(value)
    return None


def _surrogates(value: str) -> Broken | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return Broken("text", " contains half of a surrogate pair, which is no text")
    return None


def _boolean(value: Any) -> Broken | None:
    return None if value is True or value is False else _wrong_type(value, "bool")


def _is_integer(value: Any) -> bool:
    # True and False are integers to Python, and hardly ever to the person who wrote IntegerField.
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(value: Any) -> Broken | None:
    if not _is_integer(value):
        return _wrong_type(value, "int")
    if -(2**31) <= value < 2**31:
        return None
    return Broken("range", " does not fit into 32 bits; use BigIntegerField")


def _big_integer(value: Any) -> Broken | None:
    if not _is_integer(value):
        return _wrong_type(value, "int")
    return None if -(2**63) <= value < 2**63 else Broken("range", " does not fit into 64 bits")


def _float(value: Any) -> Broken | None:
    if not isinstance(value, float) and not _is_integer(value):
        return _wrong_type(value, "float")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        return Broken("range", " is too large for a float")
    # SQLite turns NaN into NULL, JSON has no word for either, and NaN != NaN: every save would look like a change.
    return None if finite else Broken("finite", " is no finite number")


def _decimal(value: Any) -> Broken | None:
    if isinstance(value, Decimal):
        return None if value.is_finite() else Broken("finite", " is no finite number")
    if _is_integer(value):
        return None
    hint = "; write Decimal('0.1'), since 0.1 is not exactly that" if isinstance(value, float) else ""
    return _wrong_type(value, "Decimal", hint)


def _date(value: Any) -> Broken | None:
    # A datetime is a date to Python, and would lose its time without a word.
    if isinstance(value, datetime):
        return _wrong_type(value, "date", "; write .date()")
    return None if isinstance(value, date) else _wrong_type(value, "date")


def _datetime(value: Any) -> Broken | None:
    if not isinstance(value, datetime):
        return _wrong_type(value, "datetime")
    return None if 1 < value.year < 9999 else _on_the_edge(value)


def _on_the_edge(value: datetime) -> Broken | None:
    try:
        value.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        return Broken("range", " is outside the years 1 to 9999 in UTC")
    return None


def _time(value: Any) -> Broken | None:
    if not isinstance(value, time):
        return _wrong_type(value, "time")
    return Broken("zone", " has a time zone, which a time of day does not keep") if value.tzinfo else None


_LONGEST = timedelta(microseconds=2**63 - 1)


def _interval(value: Any) -> Broken | None:
    if not isinstance(value, timedelta):
        return _wrong_type(value, "timedelta")
    return None if -_LONGEST <= value <= _LONGEST else Broken("range", " is longer than 292,000 years")


_TYPE_RULES: dict[str, Rule] = {
    "StringField": _text,
    "TextField": _text,
    "EmailField": _text,
    "URLField": _text,
    "SlugField": _text,
    "IntegerField": _integer,
    "BigIntegerField": _big_integer,
    "FloatField": _float,
    "DecimalField": _decimal,
    "BooleanField": _boolean,
    "DateField": _date,
    "DateTimeField": _datetime,
    "TimeField": _time,
    "IntervalField": _interval,
    "JSONField": _json,
}
_SENSITIVE_TYPE_RULES: dict[str, Rule] = {"JSONField": _sensitive_json}


# --- what options say -----------------------------------------------------------------------


def _aware(value: Any) -> Any:
    return aware(value)


def _between(low: Any, high: Any, read: Callable[[Any], Any] | None) -> Rule:
    def rule(value: Any) -> Broken | None:
        value = value if read is None else read(value)
        if low is not None and value < low:
            return Broken("min", f" is less than {low}")
        return Broken("max", f" is more than {high}") if high is not None and value > high else None

    return rule


def _as_long_as(shortest: int, longest: int | None, unit: str) -> Rule:
    def rule(value: Any) -> Broken | None:
        if len(value) < shortest:
            return Broken("min_length", f" is shorter than {shortest} {unit}")
        if longest is not None and len(value) > longest:
            return Broken("max_length", f" is longer than {longest} {unit}")
        return None

    return rule


def _with_digits(precision: int, scale: int) -> Rule:
    whole = precision - scale

    def rule(value: Any) -> Broken | None:
        number = Decimal(value)
        if number and number.adjusted() >= whole:
            return Broken("precision", f" has more than {whole} digits before the point (precision={precision})")
        if _places(number) > scale:
            return Broken("scale", f" has more than {scale} decimal places (scale={scale})")
        return None

    return rule


def _places(number: Decimal) -> int:
    """Decimal places that say something: 1.500 has one. Not `normalize()`, which rounds to the context."""
    _, digits, exponent = number.as_tuple()
    places = -int(exponent)
    zeros = next((at for at, digit in enumerate(reversed(digits)) if digit), places)
    return places - zeros


def _one_of(choices: tuple[Any, ...]) -> Rule:
    listed = ", ".join(repr(choice) for choice in choices)
    known: Iterable[Any] = frozenset(choices)

    def rule(value: Any) -> Broken | None:
        return None if value in known else Broken("choices", f" is none of {listed}")

    return rule


def _of_form(name: str, form: re.Pattern[str], says: str) -> Rule:
    rule_name, matches = name.removesuffix("Field").lower(), form.fullmatch

    def rule(value: Any) -> Broken | None:
        return None if matches(value) else Broken(rule_name, f" {says}")

    return rule


# --- what users say -------------------------------------------------------------------------


def _user_rule(validator: Callable[[Any], object], sensitive: bool) -> Rule:  # noqa: FBT001  the only flag it knows
    name = getattr(validator, "__name__", type(validator).__name__)
    refused = Broken("validator", f" is refused by {name}")

    def rule(value: Any) -> Broken | None:
        try:
            return refused if validator(value) is False else None
        except (ValueError, AssertionError) as error:
            # The words of a validator may quote the value, so those about a secret are not repeated.
            return Broken("validator", f": {error}") if str(error) and not sensitive else refused
        except Exception as error:
            error.add_note(f"raised by the validator {name}; to refuse a value, raise ValueError or return False")
            raise

    return rule


# --- forms of text --------------------------------------------------------------------------

# Linear-time: the parts of each form exclude the character that ends them, and labels are at most 63 long.
_LETTER = r"[A-Za-z0-9\u00a1-\U0010ffff]"
_LABEL = rf"{_LETTER}(?:[A-Za-z0-9\u00a1-\U0010ffff-]{{0,61}}{_LETTER})?"
_ATOM = r"""[^\s@.,:;<>()\[\]"\\\x00-\x20\x7f-\xa0]+"""
_PRINTABLE = r"(?=[^\s\x00-\x1f\x7f-\x9f]+\Z)"
_PORT = r"(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"

_EMAIL = re.compile(rf"(?=\S{{3,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+")
_URL = re.compile(
    rf"{_PRINTABLE}https?://(?:[^/?#@\\]*@)?(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(?::{_PORT})?(?:[/?#].*)?",
    re.IGNORECASE,
)
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

_FORMS = {
    "EmailField": (_EMAIL, "is no email address"),
    "URLField": (_URL, "is no http or https address"),
    "SlugField": (_SLUG, "is no slug: lower-case letters, digits, and single hyphens between them"),
}
