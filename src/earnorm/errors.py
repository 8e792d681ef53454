"""Every error EarnORM raises, in one tree, and the words a handler raises to steer its own outcome.

EarnORMError
├── ConfigurationError    how the library is set up
│   ├── AlreadyConnected, NotConnected (BindNotConnected), DatabaseClosed, UnsupportedDatabase
│   ├── MissingTables, SchemaTooNew, UnknownStep, MigrationWithoutConnection, NotCapturable,
│   ├── MissingExtra, InvalidDuration, NoOutcomes, InvalidSetting
├── ModelError            a model that cannot be defined so
│   ├── ReservedFieldName, SubjectTaken, InvalidField, UnmappedAnnotation
│   ├── NoPrimaryKey, UnmappedModel, NotAttachable, AttachedOtherwise
│   ├── InvalidBulkPolicy
├── HandlerError          a hook or handler that cannot be registered so
│   ├── UnknownOption, OptionWithoutMeaning, InvalidOption, OrderCycle, UnknownNeighbour
│   ├── UnsatisfiableArgument, SensitiveArgument
│   ├── HandlerNameTaken, HandlerNameNeeded, WrongColour, PreHookAfterCommit
│   ├── NoEvent, NotAMethod, NoTrash, NotAFunction, RegisteredOtherwise
│   └── UnknownHandler, HandlerTimedOut
├── EventError            an emit that cannot be right
│   ├── InvalidName, PayloadError, ReservedPayloadKey, MissingPayload
│   ├── UnsavedSubject, DeletedSubject, InvalidSubject, ViewEmitted, LifecycleEmitted
│   ├── EventLoopError, InvalidTenant, NotAnEvent, NotAnOption, InvalidEventType, InvalidReason
│   ├── InvalidEmit, KeyReused, KeyTaken, DelayedInProcess, EmitRolledBack, UnknownEvent
├── RecordError           a record that cannot be written or read so
│   ├── ValidationFailed, NotFound, UnknownField, InvalidValue, UnreadableValue
│   ├── SaveInPreHook, StaleRecord, ReadOnlySnapshot
├── TransactionError      a call that does not fit the transaction it stands in
│   ├── TransactionFailed, TransactionOpenAlready, SavepointInPreHook
│   ├── TransactionNotYours, SyncDoorInCoroutine, AsyncHandlerUnderSync
│   ├── AutocommitRefused, BulkRefused, DrainInTransaction, OutcomesTooEarly
│   ├── OverlappingTransactions, UnsupportedInTest
└── StoreError            the log refused
    ├── LeaseLost, ConnectionLost, OutcomesPending, EntriesPending
    ├── UnknownSubscription, AmbiguousName, StillKnown, NameTakenTwice, SubscriptionShared
    └── UnsoundLog

Control                   raised by handlers, caught by us
├── Abort                 veto the write (the caller sees it)
├── StopPropagation       later handlers of this phase do not run
├── Discard               do not retry, do not dead-letter
└── RetryLater            try again after a while
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import timedelta

__all__ = [
    "Abort",
    "AlreadyConnected",
    "AmbiguousName",
    "AsyncHandlerUnderSync",
    "AttachedOtherwise",
    "AutocommitRefused",
    "BindNotConnected",
    "BulkRefused",
    "ConfigurationError",
    "ConnectionLost",
    "Control",
    "DatabaseClosed",
    "DelayedInProcess",
    "DeletedSubject",
    "Discard",
    "DrainInTransaction",
    "EarnORMError",
    "EmitRolledBack",
    "EntriesPending",
    "EventError",
    "EventLoopError",
    "Fault",
    "HandlerError",
    "HandlerNameNeeded",
    "HandlerNameTaken",
    "HandlerTimedOut",
    "InvalidBulkPolicy",
    "InvalidDuration",
    "InvalidEmit",
    "InvalidEventType",
    "InvalidField",
    "InvalidName",
    "InvalidOption",
    "InvalidReason",
    "InvalidSetting",
    "InvalidSubject",
    "InvalidTenant",
    "InvalidValue",
    "KeyReused",
    "KeyTaken",
    "LeaseLost",
    "LifecycleEmitted",
    "MigrationWithoutConnection",
    "MissingExtra",
    "MissingPayload",
    "MissingTables",
    "ModelError",
    "NoEvent",
    "NoOutcomes",
    "NoPrimaryKey",
    "NoTrash",
    "NotAFunction",
    "NotAMethod",
    "NotAnEvent",
    "NotAnOption",
    "NotAttachable",
    "NotCapturable",
    "NotConnected",
    "NotFound",
    "OptionWithoutMeaning",
    "OrderCycle",
    "OutcomesPending",
    "OutcomesTooEarly",
    "OverlappingTransactions",
    "PayloadError",
    "PreHookAfterCommit",
    "ReadOnlySnapshot",
    "RecordError",
    "RegisteredOtherwise",
    "ReservedFieldName",
    "ReservedPayloadKey",
    "RetryLater",
    "SaveInPreHook",
    "SavepointInPreHook",
    "SchemaTooNew",
    "SensitiveArgument",
    "StaleRecord",
    "StillKnown",
    "StopPropagation",
    "StoreError",
    "SubjectTaken",
    "SubscriptionShared",
    "SyncDoorInCoroutine",
    "TransactionError",
    "TransactionFailed",
    "TransactionNotYours",
    "TransactionOpenAlready",
    "UnknownEvent",
    "UnknownField",
    "UnknownHandler",
    "UnknownNeighbour",
    "UnknownOption",
    "UnknownStep",
    "UnknownSubscription",
    "UnmappedAnnotation",
    "UnmappedModel",
    "UnreadableValue",
    "UnsatisfiableArgument",
    "UnsavedSubject",
    "UnsoundLog",
    "UnsupportedDatabase",
    "UnsupportedInTest",
    "ValidationFailed",
    "ViewEmitted",
    "WrongColour",
]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ";"


def _near_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three handlers of which the name, or its end as far as it was given, looks like this one."""
    parts = name.count(".") + 1
    by_end = {".".join(whole.split(".")[-parts:]): whole for whole in known}
    return tuple(by_end[end] for end in difflib.get_close_matches(name, by_end, n=3))


def _shown(value: object) -> str:
    """A short `repr` that no value can break: they may be huge, endless, or raise in their own."""
    try:
        shown = reprlib.repr(value) if not isinstance(value, Sized) or len(value) <= 1000 else _counted(value)
    except Exception:  # noqa: BLE001  a repr is code of the user
        return f"<{type(value).__name__}>"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else ""


def _counted(value: Sized) -> str:
    start = f" {value[:40]!r}..." if isinstance(value, (str, bytes)) else ""
    return f"<{type(value).__name__} of {len(value)}{start}>"


class EarnORMError(Exception):
    """The root: whoever catches this catches everything EarnORM itself raises."""


# --- set-up ---------------------------------------------------------------------------------


class ConfigurationError(EarnORMError):
    """The library is set up in a way that cannot work."""


class AlreadyConnected(ConfigurationError):
    """`connect()` was called twice under one name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a database named {name!r} is connected already; close() it first, "
            f"or connect(..., name=...) the second one under a name of its own"
        )
        self.name = name


class NotConnected(ConfigurationError):
    """A call needs a database and none is connected."""

    def __init__(self, what: str, name: str = "default") -> None:
        which = "no database is connected" if name == "default" else f"no database named {name!r} is connected"
        super().__init__(f"{what}: {which}; call earnorm.connect('sqlite:///app.db') first")
        self.what = what
        self.name = name


class BindNotConnected(NotConnected):
    """A model was written through an engine that belongs to no connected database, where nobody keeps its events."""

    def __init__(self, what: str, bind: str) -> None:
        EarnORMError.__init__(
            self,
            f"{what}: no database is connected on {bind}, so its events could not be kept; "
            f"connect that one too: earnorm.connect(engine, name='...')",
        )
        self.what = what
        self.bind = bind


class DatabaseClosed(ConfigurationError):
    """A database was used after its `close()`."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{what}: database {name!r} is closed; connect() again before using it")
        self.name = name
        self.what = what


class UnsupportedDatabase(ConfigurationError):
    """A database URL names a dialect or driver EarnORM cannot keep its promises on."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"cannot connect to {url!r}: {reason}; supported: sqlite:///file.db, postgresql+psycopg://user@host/name"
        )
        self.url = url
        self.reason = reason


class MissingTables(ConfigurationError):
    """`tables="check"` found tables missing or steps not yet applied."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"the database lacks {', '.join(missing)}; run `earnorm db upgrade` for steps of the log and your own "
            f"migrations for tables of models, or connect once with tables='create' to make what is missing"
        )
        self.missing = tuple(missing)


class SchemaTooNew(ConfigurationError):
    """The database was upgraded by a newer EarnORM than this one."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"the log's tables are at step {found}, this EarnORM knows {known}; upgrade the package")
        self.found = found
        self.known = known


class UnknownStep(ConfigurationError):
    """An upgrade was asked to stop behind a step that does not exist."""

    def __init__(self, step: object, known: int) -> None:
        super().__init__(f"there is no step {step!r}; this EarnORM knows the steps 1 to {known}")
        self.step = step
        self.known = known


class MigrationWithoutConnection(ConfigurationError):
    """`earnorm.alembic.upgrade` was given nothing it could work on, as in Alembic's offline mode."""

    def __init__(self, given: object) -> None:
        super().__init__(
            f"upgrade({_shown(given)}) needs the connection of the migration: upgrade(op.get_bind()); "
            f"offline (alembic upgrade --sql) there is none: add the output of `earnorm db sql` to your script"
        )
        self.given = given


class NotCapturable(ConfigurationError):
    """A table that triggers were to be put on cannot have them, or nobody could tell what they saw."""

    def __init__(self, what: type | str, why: str) -> None:
        name = what if isinstance(what, str) else what.__name__
        super().__init__(f"{name} cannot be captured: {why}")
        self.what = what
        self.why = why


class MissingExtra(ConfigurationError):
    """A feature needs an optional library that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra; install it with: pip install 'earnorm[{extra}]'")
        self.what = what
        self.extra = extra


class InvalidDuration(ConfigurationError, ValueError):
    """What was given for a length of time is none, or one that nobody can wait for."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"{value!r} is no duration: give a number of seconds, a timedelta, or a text such as "
            f'"90s", "5m", "1h30m" or "2d", between 0 and ten years'
        )
        self.value = value


class InvalidSetting(ConfigurationError):
    """A call that sets the library up was given an argument that cannot be meant so."""

    def __init__(self, call: str, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{call}({argument}={_shown(value)}): expected {expected}")
        self.call = call
        self.argument = argument
        self.value = value


class NoOutcomes(ConfigurationError):
    """The outcomes were asked of an event that no database delivers."""

    def __init__(self, event: str) -> None:
        super().__init__(
            f"event {event} was emitted in memory: its handlers have run and what they came to is not kept; "
            f"call earnorm.connect('sqlite:///app.db') first"
        )
        self.event = event


# --- models ---------------------------------------------------------------------------------


class ModelError(EarnORMError):
    """A model that cannot be defined so."""


class ReservedFieldName(ModelError):
    """A field would hide an attribute that EarnORM or SQLAlchemy needs."""

    def __init__(self, model: str, field: str) -> None:
        super().__init__(
            f"{model}.{field} would hide {field!r} of every model; name the field otherwise, "
            f"for instance {field}_value, and keep the column with column={field!r}"
        )
        self.model = model
        self.field = field


class SubjectTaken(ModelError):
    """Two models emit under the same name."""

    def __init__(self, subject: str, first: str, second: str) -> None:
        super().__init__(
            f"{second} would emit as {subject!r}, which {first} does already; set __event_name__ on one of them"
        )
        self.subject = subject
        self.first = first
        self.second = second


class InvalidField(ModelError):
    """A field was given an option that contradicts its kind."""

    def __init__(self, kind: str, option: str, value: object, why: str) -> None:
        super().__init__(f"{kind}({option}={value!r}): {why}")
        self.kind = kind
        self.option = option
        self.value = value


class InvalidBulkPolicy(ModelError):
    """`__bulk__` of a model is none of the three policies for bulk writes."""

    def __init__(self, model: str, value: object) -> None:
        super().__init__(
            f"{model}.__bulk__ = {value!r}: write 'rows' (an event for each row), 'batch' (one event for each "
            f"statement) or 'refuse' (bulk writes are errors)"
        )
        self.model = model
        self.value = value


class UnmappedAnnotation(ModelError):
    """A field carries an annotation that says what it is on a record alone, and not on the class."""

    def __init__(self, model: str, field: str, annotation: str) -> None:
        super().__init__(
            f"{model}.{field}: {annotation} = ... would be wrong for {model}.{field}, which is an SQL expression; "
            f"leave the annotation out (the type is known), or write {field}: Mapped[{annotation}]"
        )
        self.model = model
        self.field = field
        self.annotation = annotation


class NoPrimaryKey(ModelError):
    """A model whose records could not be told apart, so that no event could say which one it is about."""

    def __init__(self, model: str, table: str) -> None:
        super().__init__(
            f"{model} has no primary key: no column of {table} is one; mark a column primary_key=True, "
            f"or name columns in __mapper_args__ = {{'primary_key': [...]}}"
        )
        self.model = model
        self.table = table


class UnmappedModel(ModelError):
    """`attach` was given a class that SQLAlchemy does not map."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"attach({model}): SQLAlchemy knows no table of this class; attach its declarative base, the registry "
            f"that will map it, or the class itself once it is mapped"
        )
        self.model = model


class NotAttachable(ModelError):
    """`attach` was given something that is no class, or a class that has its hooks already."""

    def __init__(self, target: object, why: str) -> None:
        super().__init__(f"attach({_shown(target)}): {why}")
        self.target = target


class AttachedOtherwise(ModelError):
    """One base, registry or class was attached twice with different options."""

    def __init__(self, target: str, known: str, given: str) -> None:
        super().__init__(f"{target} is attached with {known} and cannot be again with {given}; keep one of the calls")
        self.target = target


# --- handlers -------------------------------------------------------------------------------


class HandlerError(EarnORMError):
    """A hook or handler that cannot be registered so."""


class UnknownOption(HandlerError):
    """A decorator was given an option that does not exist."""

    def __init__(self, decorator: str, option: str, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(
            f"{decorator}() has no option {option!r}{_did_you_mean(option, known)} options here: {_listed(known)}"
        )
        self.decorator = decorator
        self.option = option


class OptionWithoutMeaning(HandlerError):
    """An option that exists, on a handler whose phase gives it no meaning."""

    def __init__(self, decorator: str, option: str, value: object, why: str) -> None:
        super().__init__(f"{decorator}({option}={value!r}) means nothing here: {why}")
        self.decorator = decorator
        self.option = option
        self.value = value


class InvalidOption(HandlerError):
    """An option's value is of the wrong kind."""

    def __init__(self, decorator: str, option: str, value: object, expected: str) -> None:
        super().__init__(f"{decorator}({option}={value!r}): expected {expected}")
        self.decorator = decorator
        self.option = option
        self.value = value


class OrderCycle(HandlerError):
    """`before=`/`after=` contradict each other."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"before=/after= form a circle: {' -> '.join(names)}; drop one of them")
        self.names = tuple(names)


class UnknownNeighbour(HandlerError):
    """`before=`/`after=` names a handler that nobody has registered."""

    def __init__(self, handler: str, option: str, name: str, known: Iterable[str]) -> None:
        near = _near_names(name, known)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "is its module imported?"
        super().__init__(f"{handler} is to run {option} {name!r}, which no handler is called; {hint}")
        self.handler = handler
        self.option = option
        self.name = name
        self.near = near


class UnsatisfiableArgument(HandlerError):
    """A handler asks for an argument that its events can never give."""

    def __init__(self, handler: str, argument: str, events: str, available: Iterable[str]) -> None:
        available = list(available)
        super().__init__(
            f"{handler} takes {argument!r}, which {events} never gives{_did_you_mean(argument, available)}"
            f" it can take: {_listed(available)}"
        )
        self.handler = handler
        self.argument = argument
        self.available = tuple(available)


class SensitiveArgument(HandlerError):
    """A durable handler asks for the old or new value of a sensitive field, which never enters the log."""

    def __init__(self, handler: str, argument: str) -> None:
        super().__init__(
            f"{handler} takes {argument!r}, but a sensitive field's values never enter the log; "
            f"take the subject instead, or run it with delivery='transaction'"
        )
        self.handler = handler
        self.argument = argument


class HandlerNameTaken(HandlerError):
    """Two functions were registered under one durable name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(
            f"two handlers are named {name!r}: {first} and {second}; give one of them a name of its own with name=..."
        )
        self.name = name
        self.first = first
        self.second = second


class HandlerNameNeeded(HandlerError):
    """A lambda, partial or closure has no import path to be known by after a restart."""

    def __init__(self, handler: str) -> None:
        super().__init__(f"{handler} has no import path that survives a restart; give it one with name='...'")
        self.handler = handler


class NoEvent(HandlerError):
    """A decorator was used without an event, or with something that is none."""

    def __init__(self, decorator: str, given: object) -> None:
        super().__init__(
            f"@{decorator} needs the events to hear, such as @{decorator}('user.login'); it was given {given!r}"
        )
        self.decorator = decorator
        self.given = given


class NotAMethod(HandlerError):
    """A model's decorator on a function that belongs to no class."""

    def __init__(self, decorator: str, function: str) -> None:
        super().__init__(f"@{decorator} on {function}: it belongs on a method of a model; elsewhere use @event_handler")
        self.decorator = decorator
        self.function = function


class NotAFunction(HandlerError):
    """A decorator was put on something that cannot be called with an event."""

    def __init__(self, decorator: str, given: object, remedy: str = "") -> None:
        super().__init__(f"@{decorator} takes a function, not {_shown(given)}{remedy}")
        self.decorator = decorator
        self.given = given


class RegisteredOtherwise(HandlerError):
    """One function was registered twice under one name with different options."""

    def __init__(self, name: str, first: object, second: object) -> None:
        super().__init__(
            f"{name} is registered twice with different options: {first} and {second}; "
            f"give the second registration a name of its own with name=..."
        )
        self.name = name


class NoTrash(HandlerError):
    """A hook about the trash on a model that has none, where it would never run."""

    def __init__(self, decorator: str, model: str) -> None:
        super().__init__(
            f"@{decorator} in {model}, whose records have no trash; derive {model} from earnorm.SoftDelete, "
            f"or attach it with trash='the field'"
        )
        self.decorator = decorator
        self.model = model


class WrongColour(HandlerError):
    """A plain function where a coroutine function is needed, or the other way round; or one that yields."""

    def __init__(self, decorator: str, handler: str, remedy: str) -> None:
        super().__init__(f"{decorator} on {handler}: {remedy}")
        self.decorator = decorator
        self.handler = handler


class PreHookAfterCommit(HandlerError):
    """A `pre_*` hook was declared to run after the commit."""

    def __init__(self, decorator: str, handler: str, delivery: str) -> None:
        super().__init__(
            f"{decorator}(delivery={delivery!r}) on {handler}: a pre hook runs before the SQL and can veto it; "
            f"use the post_ hook of the same name to run after the commit"
        )
        self.decorator = decorator
        self.handler = handler
        self.delivery = delivery


class ProcessDied(HandlerError):
    """The process ended while this handler ran alone, so that nothing else can have ended it."""

    def __init__(self, handler: str, attempt: int) -> None:
        super().__init__(
            f"the process died while it ran nothing but {handler}, attempt {attempt}; look for a crash in native code, "
            f"for os._exit, or for memory that ran out"
        )
        self.handler = handler
        self.attempt = attempt


class UnknownHandler(HandlerError):
    """A delivery or a call names a handler this process has not registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no handler named {name!r}; import the module that defines it")
        self.name = name


class HandlerTimedOut(HandlerError, TimeoutError):
    """An attempt took longer than its handler's `timeout=`. What it returns or emits after that is refused."""

    def __init__(self, handler: str, seconds: float) -> None:
        super().__init__(
            f"{handler} was not done after its timeout of {seconds:g} s; give it more time with timeout=, "
            f"or let it do less at once"
        )
        self.handler = handler
        self.seconds = seconds


# --- events ---------------------------------------------------------------------------------


class EventError(EarnORMError):
    """An emit that cannot be right."""


class InvalidName(EventError):
    """An event name or pattern outside the allowed form."""

    def __init__(self, name: object, why: str) -> None:
        super().__init__(
            f"{_shown(name)} is no event name: {why}; write subject.verb in letters, digits and underscores, "
            f"such as 'user.login'"
        )
        self.name = name
        self.why = why


class PayloadError(EventError):
    """A payload value that cannot be stored and read back as it was."""

    def __init__(self, path: str, value: object, why: str) -> None:
        super().__init__(f"payload {path} = {_shown(value)}: {why}" if path else f"payload {_shown(value)}: {why}")
        self.path = path
        self.value = value
        self.why = why


class ReservedPayloadKey(EventError):
    """A payload key that handlers could never receive, since the name means something else."""

    def __init__(self, key: str, event: str) -> None:
        super().__init__(f"{event}: {key!r} is a reserved name; call the payload key something else")
        self.key = key
        self.event = event


class MissingPayload(EventError):
    """An emit lacks a key that a known handler takes."""

    def __init__(self, event: str, key: str, handler: str, given: Iterable[str]) -> None:
        super().__init__(
            f"{handler} takes {key!r}, which this emit of {event} does not give; given: {_listed(given)}; "
            f"add {key}=... to the emit or a default to the handler"
        )
        self.event = event
        self.key = key
        self.handler = handler


class UnsavedSubject(EventError):
    """`emit`, `delete` or `refresh` of a record that has never been saved."""

    def __init__(self, event: str, subject: str) -> None:
        super().__init__(f"{event}: {subject} is not saved yet; save() it first")
        self.event = event
        self.subject = subject


class DeletedSubject(EventError):
    """`emit`, `save`, `delete` or `refresh` of a record that is deleted."""

    def __init__(self, event: str, subject: str) -> None:
        super().__init__(f"{event}: {subject} is deleted; do it before delete() or in pre_delete, or make a new record")
        self.event = event
        self.subject = subject


class InvalidSubject(EventError):
    """With a database connected, `emit` was given a subject that no handler after the commit could be handed."""

    def __init__(self, event: str, subject: object) -> None:
        super().__init__(
            f"{event}: the subject {_shown(subject)} is {type(subject).__name__} and no record of a model, so the log "
            f"could not keep it; give data by name instead: emit({event!r}, key=...)"
        )
        self.event = event
        self.subject = subject


class LifecycleEmitted(EventError):
    """An event that only a write of a record may tell was emitted by hand."""

    def __init__(self, event: str) -> None:
        super().__init__(f"{event} is raised by save() and delete() alone; emit an event of another name")
        self.event = event


class NotAnEvent(EventError):
    """`emit` was given something that is neither a name nor a declared event."""

    def __init__(self, given: object) -> None:
        super().__init__(
            f"emit takes a name or an object of a class declared with @event_type, not {_shown(given)}; "
            f"write emit('user.login'), or declare its class"
        )
        self.given = given


class NotAnOption(EventError):
    """What `emit` was given does not belong at its place: a payload before the names, or options that are none."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class InvalidEventType(EventError):
    """`@event_type` declares a class, a name or a version that cannot be."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class InvalidReason(EventError):
    """`muted` was given no reason."""

    def __init__(self, reason: object) -> None:
        super().__init__(
            f"muted(reason={_shown(reason)}): say why in words, for whoever wonders later where the events went"
        )
        self.reason = reason


class ViewEmitted(EventError):
    """A view of `updated` was emitted by hand."""

    def __init__(self, event: str, field: str) -> None:
        super().__init__(
            f"{event} is a view: it is raised by itself when {field!r} changes; set the field and save(), "
            f"or emit an event of another name"
        )
        self.event = event
        self.field = field


class InvalidTenant(EventError):
    """A tenant is named by something that is no name."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"tenant({_shown(name)}): expected a text that is not empty, or None for nobody; "
            f"of a number write tenant(str(number))"
        )
        self.name = name


class InvalidEmit(EventError):
    """An option of an emit that cannot be meant so."""

    def __init__(self, option: str, value: object, why: str) -> None:
        super().__init__(f"Emit({option}={_shown(value)}): {why}")
        self.option = option
        self.value = value
        self.why = why


class KeyReused(EventError):
    """A second emit under an idempotency key says something else than the first."""

    def __init__(self, event: str, key: str, first: str) -> None:
        super().__init__(
            f"{event}: the key {_shown(key)} belongs to event {first}, which is about another record or has another "
            f"payload; give each thing that happens a key of its own"
        )
        self.event = event
        self.key = key
        self.first = first


class KeyTaken(EventError):
    """Another transaction committed an event under the key while this one's handlers ran for its own."""

    def __init__(self, event: str, key: str, first: str) -> None:
        super().__init__(
            f"{event}: another transaction has just committed event {first} under the key {_shown(key)}, and handlers "
            f"have run for this one in its own, which is rolled back; run the transaction again: the emit then gives "
            f"the handle of that event"
        )
        self.event = event
        self.key = key
        self.first = first


class DelayedInProcess(EventError):
    """A delayed emit is heard by handlers that run in this process now or at the commit, where nothing waits."""

    def __init__(self, event: str, handlers: Iterable[str]) -> None:
        names = sorted(handlers)
        super().__init__(
            f"{event} is emitted for later, but {_listed(names)} would hear it at once; make them durable (an "
            f"`on_event_async` or `event_handler`), exclude the name from their pattern ('!{event}'), or emit it "
            f"without at= and delay="
        )
        self.event = event
        self.handlers = tuple(names)


class EmitRolledBack(EventError):
    """The outcomes were asked of an event that went with its transaction, or with a handler's attempt that failed."""

    def __init__(self, event: str) -> None:
        super().__init__(
            f"event {event} was rolled back with its transaction, or with the handler's attempt that emitted it, "
            "so nothing heard it; emit it again"
        )
        self.event = event


class UnknownEvent(EventError):
    """An id that no event of the log has."""

    def __init__(self, event: str, database: str) -> None:
        super().__init__(
            f"database {database!r} has no event {event}: it was rolled back, not kept since nobody hears it, or "
            f"pruned; check the id, and that this is the database it was emitted to"
        )
        self.event = event
        self.database = database


class EventLoopError(EventError):
    """Handlers call each other in a circle, or deeper than 32 levels."""

    def __init__(self, why: str, chain: Sequence[str]) -> None:
        drawn = "\n".join(f"{'  ' * depth}└─ {link}" for depth, link in enumerate(chain))
        super().__init__(f"{why}; the chain was:\n{drawn}")
        self.chain = tuple(chain)


# --- records --------------------------------------------------------------------------------


class RecordError(EarnORMError):
    """A record that cannot be written or read so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One broken rule of one field. `value` is None for a sensitive field."""

    field: str
    rule: str
    value: object
    message: str


class ValidationFailed(RecordError):
    """A record breaks rules of its model; nothing was written. All its faults are in `faults`.

    `key` is empty for a new record, and for a statement's `update` of records that it does not name.
    """

    def __init__(self, model: str, key: str, faults: Sequence[Fault], *, update: bool = False) -> None:
        lines = "\n".join(f"  {model}.{fault.field}: {fault.message}" for fault in faults)
        what = f"an update of {key or model}" if update else key or f"a new {model}"
        if update:
            lines += "\nnothing was written; correct it and run the statement again"
        super().__init__(f"{what} cannot be saved:\n{lines}")
        self.model = model
        self.key = key
        self.faults = tuple(faults)


class NotFound(RecordError):
    """`get` found no row under that primary key."""

    def __init__(self, model: str, key: object) -> None:
        super().__init__(f"no {model} has the primary key {key!r}; find() returns an empty list instead of raising")
        self.model = model
        self.key = key


class InvalidValue(RecordError):
    """`get` or `find` was given a value that its column can never hold."""

    def __init__(self, model: str, door: str, value: object, expected: str) -> None:
        super().__init__(f"{model}.{door}({_shown(value)}): expected {expected}")
        self.model = model
        self.door = door
        self.value = value


class UnknownField(RecordError):
    """A constructor or `find` was given a name that is no field."""

    def __init__(self, model: str, field: str, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"{model} has no field {field!r}{_did_you_mean(field, known)} fields: {_listed(known)}")
        self.model = model
        self.field = field


class UnreadableValue(RecordError):
    """A column holds a value its field has no word for, such as a member an enum lost."""

    def __init__(self, value: object, expected: str, known: Iterable[object]) -> None:
        listed = ", ".join(_shown(each) for each in known)
        super().__init__(
            f"the database holds {_shown(value)}, which is no {expected} (known: {listed}); "
            f"add what is missing to {expected}, or migrate the rows"
        )
        self.value = value
        self.expected = expected


class StaleRecord(RecordError):
    """A versioned record was changed or deleted by somebody else since it was loaded here."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"{subject} was changed or deleted by somebody else since it was loaded; "
            f"refresh() it and apply your change again"
        )
        self.subject = subject


class SaveInPreHook(RecordError):
    """`save()` on a record inside its own `pre_*` hook."""

    def __init__(self, hook: str, subject: str) -> None:
        super().__init__(
            f"{hook} calls save() on {subject}, which is being saved already; set the attribute, "
            f"the running save writes it"
        )
        self.hook = hook
        self.subject = subject


class ReadOnlySnapshot(RecordError):
    """A write to the snapshot of a row that is gone."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject} is deleted; this object is a snapshot of its last values and cannot be changed")
        self.subject = subject


# --- transactions ---------------------------------------------------------------------------


class TransactionError(EarnORMError):
    """A call that does not fit the transaction it stands in."""


class TransactionNotYours(TransactionError):
    """A transaction was used by a task or thread other than the one that opened it."""

    def __init__(self, opened_by: str, used_by: str) -> None:
        super().__init__(
            f"this transaction belongs to {opened_by} and was used from {used_by}; "
            f"open one of its own there (with db.transaction()), or pass the data and save it here"
        )
        self.opened_by = opened_by
        self.used_by = used_by


class TransactionFailed(TransactionError):
    """A transaction was used on after one of its writes had failed, which has rolled all of it back."""

    def __init__(self, what: str, reason: BaseException | None) -> None:
        why = "" if reason is None else f" ({type(reason).__name__}: {_first_line(reason)})"
        super().__init__(
            f"{what}: an earlier write of this transaction failed{why}, and all of it is rolled back; let that error "
            f"leave the block, or put what may fail into a `with db.transaction()` of its own, which is a savepoint"
        )
        self.what = what
        self.reason = reason


class TransactionOpenAlready(TransactionError):
    """One `db.transaction()` was entered twice."""

    def __init__(self) -> None:
        super().__init__("this transaction is open already; call db.transaction() for each block")


class SavepointInPreHook(TransactionError):
    """A transaction was opened in a pre hook, amid the save that the hook belongs to."""

    def __init__(self) -> None:
        super().__init__("db.transaction() in a pre hook would be a savepoint amid a save; open it in a post hook")


class SyncDoorInCoroutine(TransactionError):
    """A blocking call inside a running event loop."""

    def __init__(self, door: str, instead: str) -> None:
        remedy = instead if instead.startswith("async ") else f"await {instead}()"
        super().__init__(f"{door}() would block the running event loop; write: {remedy}")
        self.door = door
        self.instead = instead


class AsyncHandlerUnderSync(TransactionError):
    """A coroutine function has to run inside a transaction that nobody awaits."""

    def __init__(self, handler: str, door: str, instead: str) -> None:
        super().__init__(
            f"{handler} is async and runs inside the transaction, which {door}() cannot await; "
            f"write: await {instead}(), or make the hook a plain function"
        )
        self.handler = handler
        self.door = door
        self.instead = instead


class AutocommitRefused(TransactionError):
    """An AUTOCOMMIT connection has no transaction to bind events to."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} on an AUTOCOMMIT connection: without a transaction an event could outlive or miss its change; "
            f"use the default isolation level for models with events"
        )
        self.what = what


class BulkRefused(TransactionError):
    """A bulk write that the model refuses, or whose rows could not be told as its hooks demand; nothing is written."""

    def __init__(self, model: str, what: str, why: str) -> None:
        super().__init__(f"{what} of {model} is refused, and nothing is written: {why}")
        self.model = model
        self.what = what


class DrainInTransaction(TransactionError):
    """`drain` or `close` inside a transaction or a handler would wait for itself."""

    def __init__(self, where: str, door: str = "drain") -> None:
        super().__init__(f"{door}() inside {where} would wait for itself; call it after the commit")
        self.where = where
        self.door = door


class OutcomesTooEarly(TransactionError):
    """Whoever waits for an event's outcomes in a transaction or handler waits for what comes after it."""

    def __init__(self, event: str, where: str, door: str = "outcomes") -> None:
        super().__init__(f"{door}() of event {event} inside {where} would wait for itself; call it after the commit")
        self.event = event
        self.where = where
        self.door = door


class OverlappingTransactions(TransactionError):
    """Two transactions inside `rolled_back()` have written at once, where all share one connection."""

    def __init__(self, holder: str) -> None:
        super().__init__(
            f"this transaction would write while one of {holder} has written and not ended; inside rolled_back() all "
            f"share one connection: commit or close the first one before, or run the test on a database of its own"
        )
        self.holder = holder


class UnsupportedInTest(TransactionError):
    """Something that cannot be undone was asked for inside `rolled_back()`."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} inside rolled_back(): {why}; run the test on a database of its own")
        self.what = what
        self.why = why


# --- the log --------------------------------------------------------------------------------


class StoreError(EarnORMError):
    """The log refused."""


class LeaseLost(StoreError):
    """This worker's lease passed to someone else; what it wanted to write down was not written."""

    def __init__(self, worker: str, lease: str) -> None:
        super().__init__(f"worker {worker} lost its lease of {lease}; whoever has it works on from the last settle")
        self.worker = worker
        self.lease = lease


class NameTakenTwice(StoreError):
    """A handler has been renamed, and both its names are recorded as subscriptions of their own."""

    def __init__(self, name: str, former: str) -> None:
        super().__init__(
            f"handler {name!r} says formerly={former!r}, and both are recorded as subscriptions, each with a cursor; "
            f"take formerly= away, and retire {former!r} once nothing of it is open"
        )
        self.name = name
        self.former = former


class SubscriptionShared(StoreError):
    """Two handlers of one program, by the names that they have or had, are the same subscription."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(
            f"handlers {first!r} and {second!r} are one subscription, recorded as {name!r}: its name, or a former one, "
            f"is that of both, and each event would go to one of them alone; say formerly= at one of them only, and "
            f"give the other a name that was never in use"
        )
        self.name = name
        self.first = first
        self.second = second


class ConnectionLost(StoreError):
    """The connection broke, and what was under way on it is not known to have happened; the store is asked anew."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the connection to the database broke: {reason}; what was under way is done again")
        self.reason = reason


class OutcomesPending(StoreError, TimeoutError):
    """The time to wait for an event's outcomes is over and some handlers are not done.

    `outcomes` has those that are, `pending` the names of the others; none, if the event is not in the log yet.
    """

    def __init__(self, event: str, seconds: float, pending: Iterable[str], outcomes: Mapping[str, object]) -> None:
        names = sorted(pending)
        waits = f"{_listed(names)} did not end" if names else "it did not reach the log"
        super().__init__(
            f"event {event}: {waits} within {seconds:g} s; wait longer (timeout=), or see that a worker runs which "
            f"has its handlers"
        )
        self.event = event
        self.seconds = seconds
        self.pending = tuple(names)
        self.outcomes = dict(outcomes)


class EntriesPending(StoreError):
    """Events of bulk writes are still on their way into the log, held up by a transaction of somebody else's."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what} needs the whole log, and for {seconds:.0f} s others have been at events of bulk writes that are "
            f"not in it yet; run it again when they are done, or end the session that holds rows of earnorm_bundle"
        )
        self.seconds = seconds


class UnsoundLog(StoreError):
    """The log as it stands would skip events or repeat positions; a restore or a switch of servers can leave it so."""

    def __init__(self, reason: str, repair: str) -> None:
        super().__init__(f"the log cannot be relied on: {reason}; repair it with:\n{repair}")
        self.reason = reason
        self.repair = repair


class UnknownSubscription(StoreError):
    """A handler or group that the database knows nothing of."""

    def __init__(self, name: str, kind: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"no {kind} named {name!r} is recorded here{_did_you_mean(name, names)} recorded are: {_listed(names)}"
        )
        self.name = name
        self.kind = kind
        self.known = tuple(names)


class AmbiguousName(StoreError):
    """A handler and a group have the same name, and either may be meant."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is the name of a handler and of a group; say which: kind='handler' or kind='group', on the "
            f"command line --handler or --group"
        )
        self.name = name


class StillKnown(StoreError):
    """A subscription was to be retired that a worker would record again at once."""

    def __init__(self, name: str, workers: Iterable[str]) -> None:
        names = sorted(workers)
        super().__init__(
            f"{name} is known to workers that are alive and would record it again: {_listed(names)}; "
            f"take its handler away there first"
        )
        self.name = name
        self.workers = tuple(names)


# --- control --------------------------------------------------------------------------------


class Control(Exception):
    """What a handler raises to steer its own outcome."""


class Abort(Control):
    """Veto the write this handler runs in. The caller sees it, with its reason, and nothing is stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StopPropagation(Control):
    """The later handlers of this event in this in-process phase do not run. In a durable handler it is an error."""


class Discard(Control):
    """Give this delivery up for good: it is not retried and not dead-lettered, and counts as skipped."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Control):
    """Run this delivery again after a while (seconds, a timedelta, or "5m"). It counts as an attempt."""

    def __init__(self, after: float | timedelta | str, reason: str = "asked to be retried") -> None:
        when = f"{after:g} s" if isinstance(after, (int, float)) else str(after)
        super().__init__(f"{reason} (in {when})")
        self.after = after
        self.reason = reason
