"""Bulk writes of a Session, which fire no event of SQLAlchemy's: told row by row, as one event, or refused.

What executes an ORM-enabled INSERT, UPDATE or DELETE, and `Session._bulk_save_mappings`, are wrapped once for every
Session. That is below every `do_orm_execute` listener, so that the statement is the one that runs, and it costs a
SELECT nothing (docs/decisions/0013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Delete, Insert, Update
from sqlalchemy.engine import Result
from sqlalchemy.orm import Session
from sqlalchemy.orm.base import _class_to_mapper
from sqlalchemy.orm.bulk_persistence import _BulkORMDelete, _BulkORMInsert, _BulkORMUpdate

from earnorm.backends.sqlalchemy.bulk import methods, outside
from earnorm.backends.sqlalchemy.bulk.beside import followers_of_method, save_unattached, taken_along, write_unattached
from earnorm.backends.sqlalchemy.bulk.cascades import tell_cascades
from earnorm.backends.sqlalchemy.bulk.classes import require_classes
from earnorm.backends.sqlalchemy.bulk.followers import Followers
from earnorm.backends.sqlalchemy.bulk.given import attribute_named, inserted_values, is_sql, listed, updated_values
from earnorm.backends.sqlalchemy.bulk.resetting import by_key, of_statement, require_unfollowed, tell_followers
from earnorm.backends.sqlalchemy.bulk.shape import Shape, shape_of
from earnorm.backends.sqlalchemy.bulk.statements import (
    Execution,
    Outcome,
    deleted,
    inserted,
    kept,
    require_schema,
    updated,
)
from earnorm.backends.sqlalchemy.bulk.telling import CHANGES, Facts, hears, tell, tell_batch, vetoable
from earnorm.backends.sqlalchemy.bulk.upserts import is_upsert, set_values, upserted
from earnorm.backends.sqlalchemy.mapping import Mapping as Model
from earnorm.backends.sqlalchemy.mapping import mapping_of
from earnorm.errors import BulkRefused
from earnorm.occurrence import Kind

__all__ = ["listen"]


def listen() -> None:
    """Hear of every Session's bulk writes from now on."""
    _wrap(_BulkORMInsert, "an INSERT statement", _insert)
    _wrap(_BulkORMUpdate, "an UPDATE statement", _update)
    _wrap(_BulkORMDelete, "a DELETE statement", _delete)
    method: Any = _save_mappings
    Session._bulk_save_mappings = method  # type: ignore[method-assign]  # there is no event for it
    outside.listen()


# --- statements ------------------------------------------------------------------------------


def _wrap(compile_state: Any, verb: str, write: Callable[[Execution, Any], Any]) -> None:
    execute = compile_state.orm_execute_statement

    def orm_execute_statement(_cls: Any, session: Session, statement: Any, params: Any, *rest: Any) -> Any:
        options, bind_arguments, connection = rest

        def run(statement: Any, params: Any = params) -> Result[Any]:
            found: Result[Any] = execute(session, statement, params, options, bind_arguments, connection)
            return found

        mapper = bind_arguments.get("mapper")
        if mapper is None or "parententity" not in statement.table._annotations:
            return run(statement)
        shape = shape_of(mapper)
        many = statement._annotations.get("dml_strategy") == "bulk"
        execution = Execution(session, connection, shape, params, run, many, verb, options)
        return write(execution, statement) if shape.known else write_unattached(execution, statement)

    compile_state.orm_execute_statement = classmethod(orm_execute_statement)


def _insert(execution: Execution, statement: Insert) -> Any:
    shape, model = execution.shape, execution.model
    _refuse_if_asked(shape, model, execution.what)
    values = inserted_values(statement, execution.params, shape.mapper)
    upsert = is_upsert(statement)
    execution, values = _with_hooks(execution, values, upsert=upsert)
    _validate(model, values or (), complete=True)
    if upsert:
        named = {attribute_named(column, shape.mapper): value for column, value in set_values(statement).items()}
        _validate(model, [{name: value for name, value in named.items() if name is not None}], complete=False)
        require_unfollowed(execution, statement, [name for name in named if name is not None])
    kinds: tuple[Kind, ...] = ("created", *CHANGES) if upsert else ("created",)
    return _written(execution, statement, kinds, upserted if upsert else inserted, given=values)


def _with_hooks(
    execution: Execution, values: Sequence[Mapping[str, Any]] | None, *, upsert: bool
) -> tuple[Execution, Sequence[Mapping[str, Any]] | None]:
    """Pre hooks see a record made of each dictionary; what they cannot see is refused."""
    model, hooks = execution.model, _pre_hooks(execution.shape, "created")
    if upsert:
        hooks = hooks or _pre_hooks(execution.shape, "updated")
    if not hooks or model.info.bulk == "batch":
        return execution, values
    if upsert or not execution.many or values is None or any(is_sql(v) for given in values for v in given.values()):
        raise execution.refuse(
            f"the hook {hooks[0]} is to see each record before its SQL, and of these there is none; pass dictionaries "
            f"of plain values (session.execute(insert({model.info.name}), [...])), save the records, or say "
            f"__bulk__ = 'batch'"
        )
    made = [methods.prepared(execution.session, model, given) for given in values]
    return replace(execution, params=made, run=lambda statement: execution.run(statement, made)), made


def _update(execution: Execution, statement: Update) -> Any:
    shape, model = execution.shape, execution.model
    _refuse_if_asked(shape, model, execution.what)
    values = updated_values(statement, execution.params, shape.mapper) if statement._values else []
    if model.info.bulk != "batch":
        trash = model.info.trash
        trashing = trash is not None and any(trash in given for given in (*values, *listed(execution.params)))
        _refuse_hooks(execution, CHANGES if trashing else ("updated",))
    if execution.many:
        return _update_by_key(execution, statement)
    _validate(model, values, complete=False)
    sets = dict.fromkeys(name for given in values for name in given)
    followers, statement = of_statement(execution, statement, sets)
    return _written(execution, statement, CHANGES, lambda e, s: updated(e, s, sets), given=values, followers=followers)


def _update_by_key(execution: Execution, statement: Update) -> Any:
    values = listed(execution.params)
    _validate(execution.model, values, complete=False, by_key=True)
    followers = by_key(execution.session, execution.connection, execution.shape, values)

    def write(execution: Execution, statement: Update) -> Outcome:
        keys = methods.key_columns_of(execution.model, values)
        run = lambda: execution.run(statement)  # noqa: E731  # a thunk
        require = partial(require_classes, execution.model, execution.what, execution.shape.mapper, given=values)
        result, facts = methods.updated_by_key(execution.session, execution.shape, keys, run, require)
        return Outcome(result, facts, {})

    return _written(execution, statement, CHANGES, write, given=values, followers=followers)


def _delete(execution: Execution, statement: Delete) -> Any:
    session = execution.session
    _refuse_if_asked(execution.shape, execution.model, execution.what)
    cascades, statement = taken_along(execution, statement)
    result = _written(execution, statement, ("deleted",), deleted, given=())
    with vetoable(session):
        tell_cascades(session, cascades)
    return result


def _written(
    execution: Execution,
    statement: Any,
    kinds: Sequence[Kind],
    write: Callable[[Execution, Any], Outcome],
    *,
    given: Sequence[Mapping[str, Any]] | None,
    followers: Followers | None = None,
) -> Any:
    session, shape, model = execution.session, execution.shape, execution.model
    if model.info.bulk == "batch":
        result = execution.run(statement)
        payload = _batch(statement, given, result)
        with vetoable(session):
            tell_batch(session, execution.connection, model, kinds[0], payload)
            tell_followers(followers)
        return result
    if not any(hears(session, shape.known, kind) for kind in kinds) and not _pre_hooks(shape, kinds[0]):
        result = execution.run(statement)
        if followers is not None:
            result = kept(statement, result)
            with vetoable(session):
                tell_followers(followers)
        return result
    require_schema(execution, statement)
    outcome = write(execution, statement)
    with vetoable(session):
        tell(session, execution.connection, shape, outcome.facts, outcome.gone)
        tell_followers(followers, outcome.facts)
    return outcome.result


def _batch(statement: Any, given: Sequence[Mapping[str, Any]] | None, result: Any) -> dict[str, Any]:
    """What one event for a whole statement says: how many rows, which fields, and which rows they were."""
    counted = getattr(result, "rowcount", -1)
    payload: dict[str, Any] = {
        "count": counted if counted >= 0 else len(given or ()),
        "fields": sorted({name for values in given or () for name in values}),
    }
    where = getattr(statement, "whereclause", None)
    return payload if isinstance(statement, Insert) else {**payload, "criteria": "" if where is None else str(where)}


# --- what is asked of each before its SQL ----------------------------------------------------


def _refuse_if_asked(shape: Shape, model: Model, what: str) -> None:
    for known in (model, *shape.known):
        if known.info.bulk == "refuse":
            why = "its __bulk__ is 'refuse'; save or delete the records one by one, or say 'rows' or 'batch' there"
            raise BulkRefused(known.info.name, what, why)


def _pre_hooks(shape: Shape, *kinds: Kind) -> list[str]:
    flows = (model.bus.plans.flow(model.cls, kind) for model in shape.known for kind in kinds)
    found = (hook for flow in flows for hook in flow.before)
    return list(dict.fromkeys(hook.name for hook in found))


def _refuse_hooks(execution: Execution, kinds: Iterable[Kind]) -> None:
    if hooks := _pre_hooks(execution.shape, *kinds):
        raise execution.refuse(_CANNOT_RUN.format(hooks[0]))


_CANNOT_RUN = (
    "the hook {} may change each record before its SQL, which one statement for many cannot do; save the records, make "
    "it a post_ hook, or say __bulk__ = 'batch'"
)


def _validate(model: Model, values: Sequence[Mapping[str, Any]], *, complete: bool, by_key: bool = False) -> None:
    if model.validate_values is not None:
        model.validate_values(values, complete=complete, by_key=by_key)


# --- methods ---------------------------------------------------------------------------------

_bulk_save_mappings = Session._bulk_save_mappings


def _save_mappings(session: Session, mapper: Any, mappings: Iterable[Any], **options: Any) -> None:
    mapper = _class_to_mapper(mapper)
    shape, values = shape_of(mapper), list(mappings)
    kind: Kind = "updated" if options["isupdate"] else "created"
    model = mapping_of(mapper.class_) or (shape.known[0] if shape.known and kind == "updated" else None)
    if model is None:
        save = partial(_bulk_save_mappings, session, mapper, values, **options)
        save_unattached(session, shape, values if kind == "updated" else [], save, isstates=options["isstates"])
        return
    what = _named(options)
    _refuse_if_asked(shape, model, what)
    if options["isstates"]:
        methods.before_objects(session, model, values, kind)
    else:
        _before_mappings(session, shape, model, values, kind)
    followers: Followers | None = None
    if kind == "updated":
        followers = followers_of_method(session, shape, values, isstates=options["isstates"])
    if model.info.bulk == "rows" and _heard(session, shape, kind):
        facts: Facts = _write_mappings(session, shape, model, values, options)
    else:
        _bulk_save_mappings(session, mapper, values, **options)
        facts = []
    if not facts and model.info.bulk != "batch" and followers is None:
        return
    connection = session.connection(bind_arguments={"mapper": mapper})
    with vetoable(session):
        if model.info.bulk == "batch":
            given = [_given(model, value, isstates=options["isstates"]) for value in values]
            fields = sorted({name for each in given for name in each})
            tell_batch(session, connection, model, kind, {"count": len(values), "fields": fields})
        tell(session, connection, shape, facts, {})
        tell_followers(followers, facts)


def _heard(session: Session, shape: Shape, kind: Kind) -> bool:
    return any(hears(session, shape.known, each) for each in (CHANGES if kind == "updated" else (kind,)))


def _named(options: Mapping[str, Any]) -> str:
    kind = "update_mappings" if options["isupdate"] else "insert_mappings"
    return f"session.bulk_{'save_objects' if options['isstates'] else kind}()"


def _before_mappings(
    session: Session, shape: Shape, model: Model, values: Sequence[dict[str, Any]], kind: Kind
) -> None:
    """Pre hooks of a record made of each dictionary, which gets what they set; and validation."""
    hooks = _pre_hooks(shape, kind) if model.info.bulk == "rows" else []
    if hooks and kind == "updated":
        raise BulkRefused(model.info.name, "session.bulk_update_mappings()", _CANNOT_RUN.format(hooks[0]))
    if not hooks:
        _validate(model, values, complete=kind == "created", by_key=kind == "updated")
        return
    for given in values:
        given.update(methods.prepared(session, model, given))


def _write_mappings(session: Session, shape: Shape, model: Model, values: list[Any], options: dict[str, Any]) -> Facts:
    isstates = options["isstates"]
    if options["isupdate"]:
        given = [_given(model, value, isstates=isstates) for value in values]
        keys = methods.key_columns_of(model, given)

        def write() -> None:
            _bulk_save_mappings(session, shape.mapper, values, **options)

        require = partial(require_classes, model, _named(options), shape.mapper, given=given)
        return methods.updated_by_key(session, shape, keys, write, require)[1]
    if options["return_defaults"]:
        _bulk_save_mappings(session, shape.mapper, values, **options)
        return methods.inserted_mappings(session, shape, model, [_given(model, v, isstates=isstates) for v in values])
    # The caller's own are left without the keys, as he expects them; the copies get theirs. Of an object all that it
    # has, its discriminator as well: SQLAlchemy sets no other than one whose attribute is called as its column.
    copies = [dict(value.dict if isstates else value) for value in values]
    asking = {**options, "isstates": False, "return_defaults": True}
    _bulk_save_mappings(session, shape.mapper, copies, **asking)
    return methods.inserted_mappings(session, shape, model, copies)


def _given(model: Model, value: Any, *, isstates: bool) -> Mapping[str, Any]:
    return model.values(value) if isstates else value
