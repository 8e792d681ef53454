"""Values: what a bulk statement writes into a model's fields, checked before its SQL like a record's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Mapper

from earnorm.orm.rules import rules_of
from earnorm.orm.spec import MISSING, FieldSpec
from earnorm.orm.validation import _filled_later, _specs, validate_values

__all__ = ["ValuesValidator"]


class ValuesValidator:
    """The rules of one model for values that are no record, compiled."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._model = mapper.class_.__name__
        self._specs = _specs(mapper)
        self._filled_later = _filled_later(mapper)
        self._rules = {name: rules_of(spec) for name, spec in self._specs.items()}
        self._required = frozenset(name for name in self._specs if self._must_be_given(name))

    def _must_be_given(self, name: str) -> bool:
        spec = self._specs[name]
        return spec.required and not spec.has_default and name not in self._filled_later

    def check(self, values: Mapping[str, Any], *, complete: bool) -> None:
        """Raise `ValidationFailed` with all faults; `complete` values are those of a new row, so none may be absent."""
        for name, value in values.items():
            rules = self._rules.get(name)
            if rules is not None and any(rule(value) is not None for rule in rules):
                self._refuse(values, complete=complete)
                break
        if complete and not self._required <= values.keys():
            self._refuse(values, complete=complete)

    def _refuse(self, values: Mapping[str, Any], *, complete: bool) -> None:
        specs: dict[str, FieldSpec] = {
            name: spec
            for name, spec in self._specs.items()
            if values.get(name, MISSING) is not None or name not in self._filled_later
        }
        validate_values(self._model, "", specs, values, self._required if complete else ())
