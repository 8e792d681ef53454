"""A handler: a function, the events it hears, the phase it runs in, and how it is known after a restart."""

from __future__ import annotations

import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from types import FunctionType, MethodType
from typing import Any, Literal, TypeVar, get_args

from earnorm.backoff import RetryRules
from earnorm.durations import seconds_of
from earnorm.errors import (
    HandlerNameNeeded,
    InvalidOption,
    NotConnected,
    OptionWithoutMeaning,
    PreHookAfterCommit,
    UnknownOption,
    WrongColour,
)
from earnorm.names import real_module
from earnorm.store import Since

__all__ = ["DeliveryMode", "Handler", "Options", "Phase", "describe", "identity_of", "make_handler"]

F = TypeVar("F", bound=Callable[..., Any])
_YIELDS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
DeliveryMode = Literal["transaction", "after_commit", "durable"]


class Phase(StrEnum):
    """When a handler runs, seen from the transaction."""

    BEFORE = "before the SQL"
    TRANSACTION = "in the transaction"
    AFTER_COMMIT = "after the commit"
    DURABLE = "durable"
    ROLLBACK = "after the rollback"


_PHASE_OF: dict[str, Phase] = {
    "transaction": Phase.TRANSACTION,
    "after_commit": Phase.AFTER_COMMIT,
    "durable": Phase.DURABLE,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a decorator may be told. Each is read in one place; one without meaning in a phase is an error.

    name      the handler's durable name (default: import path and qualified name)
    priority  higher runs earlier within a phase; durable: starts earlier within a batch
    before, after   names of handlers this one must run before or after, in its phase
    when      a function with injected arguments; the handler runs only if it returns true
    delivery  "transaction", "after_commit" or "durable", where the decorator leaves a choice
    ordered   durable only: later events of a record wait while an earlier one is set aside (default True)
    retry     durable only: how often and how patiently a failed attempt is made again, for all errors or by their class
    timeout   durable only: how long one attempt may take
    delay     durable only: how long after the event the first attempt is made
    concurrency  durable only: how many events the handler works on side by side, in one worker
    transactional  durable only: what it writes to the database commits together with the mark that it is done
    group     durable only: with which others it is worked, paused and deployed (default "default")
    since     durable only: where it starts when it is new: "beginning", a time, or a position (default: now)
    formerly  durable only: names that it had before, under which it is known to the log
    """

    name: str | None = None
    priority: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    when: Callable[..., Any] | None = None
    delivery: DeliveryMode | None = None
    ordered: bool | None = None
    retry: RetryRules | None = None
    timeout: float | None = None
    delay: float | None = None
    concurrency: int | None = None
    transactional: bool | None = None
    group: str | None = None
    since: Since | None = None
    formerly: tuple[str, ...] = ()

    @classmethod
    def parse(cls, decorator: str, given: Mapping[str, Any]) -> Options:
        """Raises UnknownOption or InvalidOption."""
        if not given:
            return _DEFAULT_OPTIONS
        known = {f.name for f in fields(cls)}
        for option in given:
            if option not in known:
                raise UnknownOption(decorator, option, _meaningful(decorator, given.get("delivery")))
        return cls(**{option: _checked(decorator, option, value) for option, value in given.items()})


_DEFAULT_OPTIONS = Options()


def _checked(decorator: str, option: str, value: Any) -> Any:
    check, expected = _CHECKS[option]
    try:
        read = _READERS.get(option, _as_it_is)(value)
    except ValueError as error:
        raise InvalidOption(decorator, option, value, f"{expected} ({error})") from None
    if not check(read):
        raise InvalidOption(decorator, option, value, expected)
    return read


def _as_it_is(value: Any) -> Any:
    return value


def _handler_names(value: Any) -> Any:
    if isinstance(value, str) or callable(value):
        value = (value,)
    if not isinstance(value, Sequence):
        return value
    return tuple(identity_of(one) if callable(one) else one for one in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable() and not value.isspace()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_since(value: Any) -> bool:
    if isinstance(value, datetime):
        return value.utcoffset() is not None
    return value == "beginning" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_plain_function(value: Any) -> bool:
    return callable(value) and not inspect.iscoroutinefunction(value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, "a printable name of 1 to 200 characters"),
    "priority": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "before": (lambda v: isinstance(v, tuple) and all(map(_is_name, v)), "a handler, its name, or a list of them"),
    "after": (lambda v: isinstance(v, tuple) and all(map(_is_name, v)), "a handler, its name, or a list of them"),
    "when": (_is_plain_function, "a plain function that returns true or false"),
    "delivery": (lambda v: v in get_args(DeliveryMode), "one of 'transaction', 'after_commit', 'durable'"),
    "ordered": (lambda v: isinstance(v, bool), "True or False"),
    "retry": (
        lambda v: isinstance(v, RetryRules),
        "a number of attempts, a Backoff, False, or a mapping from classes of errors to any of these",
    ),
    "timeout": (lambda v: v > 0, 'a duration above 0, such as 30 or "30s"'),
    "delay": (lambda v: v > 0, 'a duration above 0, such as 3600 or "1h"'),
    "concurrency": (_is_count, "a whole number of at least 1"),
    "transactional": (lambda v: isinstance(v, bool), "True or False"),
    "group": (_is_name, "a printable name of 1 to 200 characters"),
    "since": (_is_since, "'beginning', a datetime with a time zone, or a position (a whole number of at least 0)"),
    "formerly": (lambda v: isinstance(v, tuple) and all(map(_is_name, v)), "a name, or a list of names"),
}

# What is kept in another form than it is given.
_READERS: dict[str, Callable[[Any], Any]] = {
    "before": _handler_names,
    "after": _handler_names,
    "formerly": _handler_names,
    "retry": RetryRules.parse,
    "timeout": seconds_of,
    "delay": seconds_of,
}

_DURABLE_ONLY = {
    "ordered": "have set-aside events to wait for",
    "retry": "are tried again",
    "timeout": "can be given up and tried again",
    "delay": "can wait",
    "concurrency": "are run by a worker",
    "transactional": "have a mark to commit with",
    "group": "belong to a group",
    "since": "have a place in the log",
    "formerly": "are known to the log by a name",
}


def _meaningful(decorator: str, delivery: object) -> list[str]:
    """The options that could be meant there."""
    by_itself = decorator.startswith("pre_") or decorator in ("post_commit", "post_rollback")
    durable = decorator.endswith("_async") or decorator in ("event_handler", "on")
    is_durable = not by_itself and (durable if delivery is None else delivery == "durable")
    without = (set() if is_durable else set(_DURABLE_ONLY)) | ({"delivery"} if by_itself else set())
    return [f.name for f in fields(Options) if f.name not in without]


_sequence = itertools.count()


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Handler:
    """One registered function. `function` is held strongly, a bound method through its object weakly."""

    function: Callable[..., Any] | weakref.WeakMethod[Callable[..., Any]]
    name: str
    phase: Phase
    decorator: str
    options: Options = _DEFAULT_OPTIONS
    is_async: bool = False
    events: list[Any] = field(default_factory=list)
    model: type | None = None
    sequence: int = field(default_factory=lambda: next(_sequence))

    @property
    def ordered(self) -> bool:
        return self.options.ordered is not False

    @property
    def transactional(self) -> bool:
        return self.options.transactional is True

    @property
    def target(self) -> Callable[..., Any] | None:
        """The function itself, or None once its object is gone."""
        if isinstance(self.function, weakref.WeakMethod):
            return self.function()
        return self.function

    @property
    def source(self) -> str:
        """`file:line` of the definition."""
        code = getattr(_unwrapped(self.target), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else "built in"

    @property
    def module(self) -> str:
        return getattr(_unwrapped(self.target), "__module__", None) or ""

    def __repr__(self) -> str:
        return f"<Handler {self.name} of {', '.join(map(describe, self.events))}, {self.phase.value}>"


def describe(event: Any) -> str:
    """An event a handler was registered for, as text."""
    return event if isinstance(event, str) else getattr(event, "__name__", repr(event))


def make_handler(
    function: Callable[..., Any], decorator: str, phase: Phase, options: Options, *, model: type | None = None
) -> Handler:
    """Build a handler; raises OptionWithoutMeaning or PreHookAfterCommit if an option does not fit its phase."""
    _refuse_generator(function, decorator)
    chosen = _choose_phase(function, decorator, phase, options)
    return Handler(
        function=weakref.WeakMethod(function) if isinstance(function, MethodType) else function,
        name=options.name or identity_of(function),
        phase=chosen,
        decorator=decorator,
        options=options,
        is_async=is_async(function),
        model=model,
    )


def _choose_phase(function: Callable[..., Any], decorator: str, phase: Phase, options: Options) -> Phase:
    delivery = options.delivery
    if delivery is not None:
        if phase is Phase.BEFORE and delivery != "transaction":
            raise PreHookAfterCommit(decorator, identity_of(function), delivery)
        if phase is Phase.ROLLBACK or decorator == "post_commit":
            why = f"{decorator} names its own moment"
            raise OptionWithoutMeaning(decorator, "delivery", delivery, why)
        if phase is not Phase.BEFORE:
            phase = _PHASE_OF[delivery]
    if phase is not Phase.DURABLE:
        _refuse_durable_options(decorator, options, phase)
    if options.transactional and options.concurrency is not None:
        why = "deliveries of a transactional handler run one after another, in one transaction"
        raise OptionWithoutMeaning(decorator, "concurrency", options.concurrency, why)
    return phase


def _refuse_durable_options(decorator: str, options: Options, phase: Phase) -> None:
    for option, what in _DURABLE_ONLY.items():
        if (value := getattr(options, option)) not in (None, ()):
            why = f"only durable handlers {what}, this one runs {phase.value}"
            given = value.given if isinstance(value, RetryRules) else value
            raise OptionWithoutMeaning(decorator, option, given, why)


def is_async(function: Callable[..., Any]) -> bool:
    inner = _unwrapped(function)
    if type(inner) is FunctionType and not inner.__dict__:
        # What `inspect` asks as well, behind several calls.
        return bool(inner.__code__.co_flags & inspect.CO_COROUTINE)
    if isinstance(inner, FunctionType):
        return inspect.iscoroutinefunction(inner)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004  asks for the colour of the call, not for callability


def _refuse_generator(function: Callable[..., Any], decorator: str) -> None:
    """Calling one only makes a generator, whose code nobody would run."""
    inner = _unwrapped(function)
    call = inner if isinstance(inner, FunctionType) else getattr(inner, "__call__", None)  # noqa: B004  as above
    code = getattr(_unwrapped(call), "__code__", None)
    if code is not None and code.co_flags & _YIELDS:
        remedy = "it yields, so that its code would never run; let it do its work and return"
        raise WrongColour(f"@{decorator}", identity_of(function), remedy)


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)


def identity_of(function: Any) -> str:
    """Import path and qualified name: what a function is known by if it is given no name."""
    inner = _unwrapped(function)
    qualname = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return f"{real_module(getattr(inner, '__module__', None) or '')}.{qualname}"


def is_importable(function: Any) -> bool:
    """Whether import path and qualified name lead to this function in another process."""
    if not isinstance(function, FunctionType):
        return False
    return "<lambda>" not in function.__qualname__ and function.__closure__ is None


def require_log(*handlers: Handler) -> None:
    """Raises NotConnected for one whose effects would commit with its mark, where there is no log to mark it in."""
    for handler in handlers:
        if handler.transactional:
            raise NotConnected(f"{handler.name} is transactional")


def require_durable_name(handler: Handler) -> None:
    """Raises HandlerNameNeeded if nothing could find the handler's work again after a restart."""
    if handler.options.name is None and not is_importable(handler.target):
        raise HandlerNameNeeded(f"{handler.name} ({handler.source})")
