"""Validation: all faults of a record at once, before any SQL is written for it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Table, inspect
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import ClauseElement, ColumnElement

from earnorm.errors import Fault, ValidationFailed, _shown
from earnorm.orm.rules import Broken, Rule, rules_of
from earnorm.orm.screen import Passes, screen_of
from earnorm.orm.spec import MISSING, FieldSpec, specs_of

__all__ = ["Validator", "is_secret_looking", "validate", "validate_values"]

_REQUIRED = Broken("required", " is required")


def validate(record: object) -> None:
    """Raise `ValidationFailed` with every fault of a record; attributes that are not loaded are not looked at."""
    Validator.for_mapper(_state(record).mapper).check(record)


def validate_values(
    model: str,
    key: str,
    specs: Mapping[str, FieldSpec],
    values: Mapping[str, Any],
    required: Collection[str] = (),
    *,
    update: bool = False,
) -> None:
    """The same for values that are no record, such as those of a bulk insert; with `update`, of records that exist.

    None in a required field is a fault; that one of them is absent, only for the names in `required`.
    """
    faults = [fault for name, spec in specs.items() for fault in _faults(name, spec, values.get(name, MISSING))]
    faults += [_fault(name, specs[name], None, _REQUIRED) for name in required if name not in values]
    if faults:
        raise ValidationFailed(model, key, faults, update=update)


class _Rules(NamedTuple):
    spec: FieldSpec
    filled_later: bool
    """Whether the database or SQLAlchemy gives the value, so that None before the SQL is no fault."""

    @property
    def may_be_none(self) -> bool:
        return self.filled_later or not self.spec.required


class Validator:
    """The rules of one model, compiled: a record without faults costs one call per field that has rules."""

    def __init__(self, model: str, fields: Mapping[str, FieldSpec], filled_later: Collection[str] = ()) -> None:
        self.model = model
        self._fields = {name: _Rules(spec, name in filled_later) for name, spec in fields.items()}
        self._passes = {name: _passing(rules) for name, rules in self._fields.items()}
        self.screen = screen_of(
            {name: (rules.spec, rules.may_be_none, self._passes[name]) for name, rules in self._fields.items()}
        )

    @classmethod
    def for_mapper(cls, mapper: Mapper[Any]) -> Validator:
        """The one validator of a model, built at first use."""
        if (known := _validators.get(mapper)) is None:
            known = _validators[mapper] = cls(mapper.class_.__name__, specs_of(mapper), _filled_later(mapper))
        return known

    def check(self, record: object, names: Collection[str] | None = None, *, key: str | None = None) -> None:
        """Raise `ValidationFailed` with all faults; with `names`, only of those attributes (what an update changed).

        `key` is how the message calls the record; without it, its class and primary key.
        """
        values = vars(record)
        if not (self.screen(values) if names is None else self._pass(values, names)):
            self._refuse(record, names, key)

    def _pass(self, values: Mapping[str, Any], names: Iterable[str]) -> bool:
        return all(self._passes[name](values.get(name)) for name in names if name in self._passes)

    def _refuse(self, record: object, names: Collection[str] | None, key: str | None) -> None:
        state = _state(record)
        checked = self._fields if names is None else [name for name in self._fields if name in names]
        faults = [fault for name in checked for fault in self._faults_of(name, state, vars(record))]
        if faults:
            raise ValidationFailed(self.model, _key(self.model, state) if key is None else key, faults)

    def _faults_of(self, name: str, state: InstanceState[Any], values: Mapping[str, Any]) -> Iterable[Fault]:
        spec, filled_later = self._fields[name]
        value = values.get(name, MISSING)
        if value is MISSING:
            # In a stored record it is not loaded; in a new one its default is applied by the INSERT.
            absent = spec.required and not (state.has_identity or spec.has_default)
            value = None if absent else MISSING
        if value is None and (filled_later or _comes_from_a_relationship(state, name)):
            return ()
        return _faults(name, spec, value)


_validators: WeakKeyDictionary[Mapper[Any], Validator] = WeakKeyDictionary()


def _state(record: object) -> InstanceState[Any]:
    state: InstanceState[Any] = inspect(record)
    return state


def _key(model: str, state: InstanceState[Any]) -> str:
    return f"{model}:{'/'.join(str(part) for part in state.identity)}" if state.identity else ""


# --- one field ------------------------------------------------------------------------------


def _passing(rules: _Rules) -> Passes:
    """Whether a value may pass without a closer look."""
    may_be_none = rules.may_be_none
    type_rule, *others = rules_of(rules.spec)
    if not others:
        return lambda value: may_be_none if value is None else type_rule(value) is None
    return lambda value: (
        may_be_none if value is None else type_rule(value) is None and all(rule(value) is None for rule in others)
    )


def _faults(name: str, spec: FieldSpec, value: Any) -> list[Fault]:
    if value is MISSING:
        return []
    if value is None:
        return [_fault(name, spec, None, _REQUIRED)] if spec.required else []
    type_rule, *others = rules_of(spec)
    if (broken := type_rule(value)) is not None:
        return [] if _is_sql(value) else [_fault(name, spec, value, broken)]
    return [_fault(name, spec, value, broken) for broken in _all_broken(others, value)]


def _all_broken(rules: Iterable[Rule], value: Any) -> Iterator[Broken]:
    return (broken for rule in rules if (broken := rule(value)) is not None)


def _fault(name: str, spec: FieldSpec, value: Any, broken: Broken) -> Fault:
    hidden = spec.sensitive or value is None
    subject = name if hidden else f"{name} = {_shown(value)}"
    return Fault(field=name, rule=broken.rule, value=None if hidden else value, message=f"{subject}{broken.says}")


def _is_sql(value: object) -> bool:
    """`user.visits = User.visits + 1` is for the database to judge."""
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


# --- what a mapper knows --------------------------------------------------------------------


def _filled_later(mapper: Mapper[Any]) -> frozenset[str]:
    given = (column for table in mapper.tables if isinstance(table, Table) for column in _given_by_database(table))
    columns = (*given, mapper.version_id_col, mapper.polymorphic_on)
    return frozenset(key for column in columns if (key := _attribute(mapper, column)) is not None)


def _given_by_database(table: Table) -> Iterator[Column[Any]]:
    if table.autoincrement_column is not None:
        yield table.autoincrement_column
    yield from (column for column in table.columns if column.server_default is not None)


def _attribute(mapper: Mapper[Any], column: ColumnElement[Any] | None) -> str | None:
    try:
        return mapper.get_property_by_column(column).key if isinstance(column, Column) else None
    except UnmappedColumnError:
        return None


def _comes_from_a_relationship(state: InstanceState[Any], name: str) -> bool:
    """Whether the flush will fill this foreign key, from `order.user = ada` or from `ada.orders.append(order)`."""
    columns = set(state.mapper.attrs[name].columns)
    if not any(column.foreign_keys for column in columns):
        return False
    return any(
        _leads_to(relation, state)
        for mapper in state.mapper.registry.mappers
        for relation in mapper.relationships
        if not relation.viewonly and any(filled in columns for _, filled in relation.synchronize_pairs)
    )


def _leads_to(relation: Any, state: InstanceState[Any]) -> bool:
    if state.mapper.isa(relation.parent) and state.dict.get(relation.key) is not None:
        return True
    parent = relation.parent.class_manager[relation.key]
    return bool(state.mapper.isa(relation.mapper) and parent.impl.trackparent and parent.hasparent(state))


# --- secrets --------------------------------------------------------------------------------

_SECRETS = re.compile(
    r"""(?:^|_)(?:
        [a-z]*(?:password|passwd|passphrase)s? | pwd | passcode | credentials? | secrets? | [a-z]*(?<!page_)token | otp
        | (?:api|private|secret|access|signing|encryption)_?keys? | ssn | social_security(?:_number)?
        | credit_?card(?:_?(?:number|no))? | card_?(?:number|no) | cvv2? | cvc2? | pin(?:_?code)? | iban
    )(?:_(?:hash|digest|salt|encrypted|value|plain|text|raw|[0-9]+))*$""",
    re.VERBOSE,
)
_ABOUT_ONE = re.compile(r"^(?:is|has|had|needs|requires|show|hide|allow|allows|can|must)_")


def is_secret_looking(name: str) -> bool:
    """Whether a field's name ends in a word for a secret: `password_hash`, not `password_changed_at`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
    return bool(_SECRETS.search(words)) and not _ABOUT_ONE.match(words)
