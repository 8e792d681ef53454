"""Arguments of a handler, bound by name or type once, at registration; afterwards a call is one generated function.

The reserved names win wherever they stand; otherwise the first positional parameter is the subject; the rest
are payload keys; `**data` takes the keys nobody named.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

from earnorm.errors import ReservedPayloadKey
from earnorm.event import NO_PAYLOAD, Event

__all__ = [
    "RESERVED",
    "Argument",
    "Binding",
    "Context",
    "Moment",
    "Source",
    "bind",
    "compile_call",
    "refuse_reserved",
    "session_named",
]

RESERVED = frozenset({"event", "changes", "created", "session", "context"})


class Source(Enum):
    """Where an argument's value comes from."""

    SUBJECT = auto()
    EVENT = auto()
    CHANGES = auto()
    CREATED = auto()
    SESSION = auto()
    CONTEXT = auto()
    OLD = auto()
    NEW = auto()
    KEY = auto()
    REST = auto()
    DECLARED = auto()


@dataclass(frozen=True, slots=True)
class Argument:
    """One parameter and its source. `key` is the field of OLD and NEW, the payload key of KEY.

    `default` of one that is no payload key is what it is annotated with.
    """

    parameter: str
    source: Source
    key: str = ""
    keyword: bool = False
    optional: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Binding:
    """All arguments of one function."""

    arguments: tuple[Argument, ...]
    required: frozenset[str]
    declared: type | None = None

    def uses(self, *sources: Source) -> bool:
        return any(argument.source in sources for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Context:
    """What `context` gives a handler: who it is and under which event it runs."""

    handler: str
    event: Event
    database: str
    tenant: str | None
    attempt: int


@dataclass(slots=True)
class Moment:
    """What surrounds a call, besides event and subject."""

    session: Any = None
    created: bool = False
    declared: Any = None
    async_session: Callable[[], Any] | None = None


def refuse_reserved(event: str, payload: Mapping[str, Any]) -> None:
    """Raises ReservedPayloadKey for a key that means something else to every handler."""
    for key in payload:
        if key in RESERVED:
            raise ReservedPayloadKey(key, event)


def bind(function: Callable[..., Any], fields: Collection[str] = ()) -> Binding:
    """Read a signature. `fields` are the model's, so that `old_<field>` is told from a payload key."""
    if type(function) is FunctionType and _is_bare(function):
        return _bind_bare(_shape(function), frozenset(fields))
    return _binding(_arguments(function, frozenset(fields)))


def _binding(arguments: Sequence[Argument]) -> Binding:
    required = frozenset(a.key for a in arguments if a.source is Source.KEY and not a.optional)
    declared = next((a.default for a in arguments if a.source is Source.DECLARED), None)
    return Binding(tuple(arguments), required, declared)


class _Shape(NamedTuple):
    """The parameters of a plain function, but for defaults and annotations: many functions share one."""

    names: tuple[str, ...]
    positional: int
    keyword_only: int
    flags: int


def _shape(function: FunctionType) -> _Shape:
    code = function.__code__
    flags = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    count = code.co_argcount + code.co_kwonlyargcount
    return _Shape(code.co_varnames[: count + flags.bit_count()], code.co_argcount, code.co_kwonlyargcount, flags)


def _is_bare(function: FunctionType) -> bool:
    """Whether its shape says all of it: no defaults, no annotations, nothing that makes it look like another one."""
    said = function.__defaults__ or function.__kwdefaults__ or function.__annotations__
    return not said and _DISGUISES.isdisjoint(function.__dict__)


@lru_cache(maxsize=4096)
def _bind_bare(shape: _Shape, fields: frozenset[str]) -> Binding:
    return _binding(_chosen(_listed(shape), {}, fields))


def _arguments(function: Callable[..., Any], fields: frozenset[str]) -> list[Argument]:
    try:
        parameters = _parameters(function)
    except (TypeError, ValueError):
        # Built-ins such as list.append publish no signature; they get the subject.
        return [Argument("subject", Source.SUBJECT)]
    return _chosen(parameters, _hints(function), fields)


def _chosen(
    parameters: Sequence[inspect.Parameter | _Parameter], hints: dict[str, Any], fields: frozenset[str]
) -> list[Argument]:
    by_type = {p.name: source for p in parameters if (source := _source_by_type(hints.get(p.name))) is not None}
    found: list[Argument] = []
    subject_taken = Source.SUBJECT in by_type.values()
    for parameter in parameters:
        argument = _argument(parameter, by_type.get(parameter.name), hints, fields, subject_taken=subject_taken)
        if argument is None:
            continue
        subject_taken = subject_taken or argument.source is Source.SUBJECT
        found.append(argument)
    return found


class _Parameter(NamedTuple):
    name: str
    kind: Any
    default: Any


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter | _Parameter]:
    if type(function) is FunctionType and _DISGUISES.isdisjoint(function.__dict__):
        return _listed(_shape(function), function.__defaults__ or (), function.__kwdefaults__ or {})
    return list(inspect.signature(function).parameters.values())


# What makes `inspect.signature` answer something else than the function's own parameters.
_DISGUISES = frozenset({"__wrapped__", "__signature__", "__text_signature__", "_partialmethod", "__partialmethod__"})


def _listed(shape: _Shape, defaults: tuple[Any, ...] = (), by_name: Mapping[str, Any] = NO_PAYLOAD) -> list[_Parameter]:
    """What `inspect.signature` says of such a function, in a tenth of its time."""
    names, parameter, empty = shape.names, inspect.Parameter, inspect.Parameter.empty
    count, end = shape.positional, shape.positional + shape.keyword_only
    given = (*[empty] * (count - len(defaults)), *defaults)
    rest = list(names[end:])
    found = [_Parameter(names[i], parameter.POSITIONAL_OR_KEYWORD, given[i]) for i in range(count)]
    if shape.flags & inspect.CO_VARARGS:
        found.append(_Parameter(rest.pop(0), parameter.VAR_POSITIONAL, empty))
    found += [_Parameter(name, parameter.KEYWORD_ONLY, by_name.get(name, empty)) for name in names[count:end]]
    found += [_Parameter(name, parameter.VAR_KEYWORD, empty) for name in rest]
    return found


def _argument(  # noqa: PLR0911  # one return a rule, in the rules' order
    parameter: inspect.Parameter | _Parameter,
    by_type: Source | None,
    hints: dict[str, Any],
    fields: frozenset[str],
    *,
    subject_taken: bool,
) -> Argument | None:
    name, kind = parameter.name, parameter.kind
    keyword = kind is inspect.Parameter.KEYWORD_ONLY
    if kind is inspect.Parameter.VAR_KEYWORD:
        return Argument(name, Source.REST, keyword=True)
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return None if subject_taken else Argument(name, Source.SUBJECT)
    if (source := _reserved_source(name, fields)) is not None:
        return Argument(name, source[0], source[1], keyword, default=hints.get(name))
    if by_type is Source.DECLARED or by_type is Source.SESSION:
        return Argument(name, by_type, keyword=keyword, default=hints[name])
    if by_type is not None:
        return Argument(name, by_type, keyword=keyword)
    if not subject_taken and not keyword:
        return Argument(name, Source.SUBJECT)
    optional = parameter.default is not inspect.Parameter.empty
    return Argument(name, Source.KEY, name, keyword, optional, parameter.default if optional else None)


def _reserved_source(name: str, fields: frozenset[str]) -> tuple[Source, str] | None:
    if name in RESERVED:
        return Source[name.upper()], ""
    for prefix, source in (("old_", Source.OLD), ("new_", Source.NEW)):
        if name.startswith(prefix) and name[4:] in fields:
            return source, name[4:]
    return None


def _source_by_type(hint: Any) -> Source | None:
    if not isinstance(hint, type):
        return None
    if issubclass(hint, Event):
        return Source.EVENT
    if "__earnorm_event__" in hint.__dict__:
        return Source.DECLARED
    if hasattr(hint, "__earnorm_model__"):
        return Source.SUBJECT
    return Source.SESSION if session_named(hint) is not None else None


def session_named(hint: Any) -> str | None:
    """Which of SQLAlchemy's sessions an annotation names: "Session", "AsyncSession", or none."""
    if not isinstance(hint, type) or hint.__name__ not in ("Session", "AsyncSession"):
        return None
    return hint.__name__ if hint.__module__.startswith("sqlalchemy.") else None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations, those written as text resolved where that is possible without running anything but a name."""
    inner = getattr(function, "__func__", function)
    raw = getattr(inner, "__annotations__", None) or {}
    if not any(isinstance(hint, str) for hint in raw.values()):
        return dict(raw)
    names = dict(vars(sys.modules.get(inner.__module__, sys)))
    names.update(_closure_names(inner))
    return {name: names.get(hint, hint) if isinstance(hint, str) else hint for name, hint in raw.items()}


def _closure_names(function: Any) -> dict[str, Any]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return {}
    return {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True) if _is_set(cell)}


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  reading an empty cell raises
    except ValueError:
        return False
    return True


# --- calls -----------------------------------------------------------------------------------


def old_value(event: Event, field: str) -> Any:
    """The field before the change; for an event that did not change it, its value."""
    change = event.changes.get(field)
    return change.old if change is not None else event.payload.get(field)


def new_value(event: Event, field: str) -> Any:
    """The field after the change; for an event that did not change it, its value."""
    change = event.changes.get(field)
    return change.new if change is not None else event.payload.get(field)


_EXPRESSIONS = {
    Source.SUBJECT: "s",
    Source.EVENT: "e",
    Source.CHANGES: "e.changes",
    Source.CREATED: "m.created",
    Source.SESSION: "m.session",
    Source.CONTEXT: "Context(handler_name, e, e.database, e.tenant, e.attempt)",
    Source.DECLARED: "m.declared",
}


def _expression(argument: Argument, default: str, named: frozenset[str]) -> str:
    """The source text of one argument's value."""
    source, key = argument.source, argument.key
    if source is Source.OLD:
        return f"(None if m.created else old_value(e, {key!r}))"
    if source is Source.NEW:
        return f"new_value(e, {key!r})"
    if source is Source.REST:
        return f"{{k: v for k, v in p.items() if k not in {set(named)!r}}}" if named else "p"
    if source is not Source.KEY:
        return _EXPRESSIONS[source]
    if argument.optional:
        return f"p.get({key!r}, {default})"
    return f"p[{key!r}]"


def arguments_text(binding: Binding, prefix: str = "") -> tuple[str, dict[str, Any]]:
    """The call's argument list as source text, and the defaults it refers to."""
    named = frozenset(a.key for a in binding.arguments if a.source is Source.KEY)
    parts: list[str] = []
    defaults: dict[str, Any] = {}
    for index, argument in enumerate(binding.arguments):
        default = f"{prefix}d{index}"
        text = _expression(argument, default, named)
        if argument.optional:
            defaults[default] = argument.default
        if argument.source is Source.CONTEXT:
            text = text.replace("handler_name", f"{prefix}handler_name")
        if argument.source is Source.REST:
            text = f"**{text}"
        elif argument.keyword:
            text = f"{argument.parameter}={text}"
        parts.append(text)
    return ", ".join(parts), defaults


def compile_call(
    function: Callable[..., Any], binding: Binding, name: str, *, awaited: bool = False
) -> Callable[..., Any]:
    """One function `call(s, p, e, m)` that hands `function` what it asked for: subject, payload, event, moment.

    An `awaited` one gets an AsyncSession for `session`.
    """
    text, names = arguments_text(binding)
    if awaited:
        text = text.replace("m.session", "m.async_session()")
    names.update(f=function, handler_name=name, Context=Context, old_value=old_value, new_value=new_value)
    source = f"def call(s, p, e, m):\n    return f({text})\n"
    # The text is made of parameter names, which the compiler has accepted as identifiers already.
    exec(compile(source, f"<earnorm call of {name}>", "exec"), names)  # noqa: S102  see above
    return names["call"]  # type: ignore[no-any-return]  # what exec defined
