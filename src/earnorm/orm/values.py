"""Values: what a bulk statement writes into a model's fields, checked before its SQL like a record's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Mapper

from earnorm.errors import InvalidValue
from earnorm.orm.column_screen import column_passes
from earnorm.orm.rules import rules_of
from earnorm.orm.screen import Passes, Screen, screen_of
from earnorm.orm.spec import MISSING, FieldSpec, spec_of, specs_of
from earnorm.orm.validation import _filled_later, _is_sql, validate_values

__all__ = ["ValuesValidator", "require_kind"]

_SCREENS = 256
# From here on columns pay.
_MANY = 20


def _never(_values: Mapping[str, Any]) -> bool:
    """Something is absent that must be given."""
    return False


def require_kind(model: str, door: str, column: Any, value: Any) -> None:
    """Raises InvalidValue for a value that its field can never hold: databases disagree on what to make of it."""
    if (
        column is None
        or (spec := spec_of(column)) is None
        or value is None
        or spec.kind == "EnumField"
        or _is_sql(value)
    ):
        return
    if (broken := rules_of(spec)[0](value)) is not None:
        shown = f"{column.key}: {spec.python_type.__name__}"
        raise InvalidValue(model, door, value, f"{shown}; it{broken.says}")


class ValuesValidator:
    """The rules of one model for values that are no record, compiled."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._mapper = mapper
        self._model = mapper.class_.__name__
        self._specs = specs_of(mapper)
        self._filled_later = _filled_later(mapper)
        self._required = frozenset(name for name in self._specs if self._must_be_given(name))
        # By what is given, which in a bulk write is the same for row after row.
        self._screens: dict[tuple[bool, tuple[str, ...]], Screen] = {}

    def _must_be_given(self, name: str) -> bool:
        spec = self._specs[name]
        return spec.required and not spec.has_default and name not in self._filled_later

    def check_all(self, rows: Sequence[Mapping[str, Any]], *, complete: bool, by_key: bool = False) -> None:
        """`check` of each."""
        if len(rows) >= _MANY and self._pass_together(rows, complete=complete):
            return
        for values in rows:
            self.check(values, complete=complete, by_key=by_key)

    def _pass_together(self, rows: Sequence[Mapping[str, Any]], *, complete: bool) -> bool:
        """Whether all pass, by the column; rows of unlike names are looked at one by one."""
        names = rows[0].keys()
        if {*map(len, rows)} != {len(names)} or (complete and not self._required <= names):
            return False
        try:
            columns = {name: [values[name] for values in rows] for name in names if name in self._specs}
        except KeyError:
            return False
        return all(column_passes(*self._rules(name), values) for name, values in columns.items())

    def check(self, values: Mapping[str, Any], *, complete: bool, by_key: bool = False) -> None:
        """Raise `ValidationFailed` with all faults; `complete` values are those of a new row, so none may be absent.

        Others update rows, `by_key` the one whose primary key is among them.
        """
        given = complete, tuple(values)
        screen = self._screens.get(given) or self._new_screen(*given)
        if not screen(values):
            self._refuse(values, complete=complete, by_key=by_key)

    def _new_screen(self, complete: bool, names: tuple[str, ...]) -> Screen:  # noqa: FBT001  # the two halves of a key
        if len(self._screens) >= _SCREENS:
            self._screens = {}
        whole = not complete or self._required <= set(names)
        fields = {name: self._rules(name) for name in names if name in self._specs}
        screen = screen_of(fields) if whole else _never
        self._screens[complete, names] = screen
        return screen

    def _rules(self, name: str) -> tuple[FieldSpec, bool, Passes]:
        spec = self._specs[name]
        may_be_none = name in self._filled_later or not spec.required
        rules = rules_of(spec)

        def passes(value: Any) -> bool:
            return may_be_none if value is None else all(rule(value) is None for rule in rules)

        return spec, may_be_none, passes

    def _refuse(self, values: Mapping[str, Any], *, complete: bool, by_key: bool) -> None:
        specs: dict[str, FieldSpec] = {
            name: spec
            for name, spec in self._specs.items()
            if values.get(name, MISSING) is not None or name not in self._filled_later
        }
        key = self._key(values) if by_key else ""
        validate_values(self._model, key, specs, values, self._required if complete else (), update=not complete)

    def _key(self, values: Mapping[str, Any]) -> str:
        identity = [values.get(self._mapper.get_property_by_column(column).key) for column in self._mapper.primary_key]
        return "" if None in identity else f"{self._model}:{'/'.join(map(str, identity))}"
