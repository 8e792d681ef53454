"""The registry: who hears what, and in which order. Look-up costs the same whatever else is registered."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from earnorm.binding import RESERVED, Argument, Binding, Source, bind, session_named
from earnorm.errors import HandlerNameTaken, RegisteredOtherwise, SensitiveArgument, UnsatisfiableArgument, WrongColour
from earnorm.event import Changes
from earnorm.handler import Handler, Phase, describe
from earnorm.names import Pattern, Trie, canonical_view, field_view, qualify, validate_name
from earnorm.order import in_order, require_neighbours
from earnorm.strange import Strange

__all__ = ["ModelInfo", "Registry", "spellings"]

LIFECYCLE = frozenset({"created", "updated", "deleted", "saved"})
TRASHING = frozenset({"trashed", "restored"})
BATCHES = frozenset({"bulk_created", "bulk_updated", "bulk_deleted"})


BulkPolicy = Literal["rows", "batch", "refuse"]
"""How a model takes bulk writes: an event for each row, one for each statement, or not at all."""


@dataclass(slots=True, eq=False)
class ModelInfo:
    """What the bus knows of a model: its subject, its fields, its own hooks and handlers.

    `log` is what of it is kept ("all", or what is "subscribed" to), if the model and not its database says so;
    `trash` is the field that says of a record that it is in the trash. `strange` is there if some column may
    have values that no log holds.
    """

    cls: type
    subject: str
    fields: tuple[str, ...] = ()
    sensitive: frozenset[str] = frozenset()
    handlers: list[Handler] = field(default_factory=list)
    bubbles_to: str | None = None
    log: str | None = None
    trash: str | None = None
    bulk: BulkPolicy = "rows"
    strange: Strange | None = None

    @property
    def name(self) -> str:
        return self.cls.__name__

    def view_of(self, name: str) -> str | None:
        """The field whose view `name` is on this model, or None if it is a custom event there."""
        named = field_view(name.removeprefix(f"{self.subject}."))
        return named if named in self.fields else None

    def is_lifecycle(self, name: str) -> bool:
        """Whether only a save or a delete may raise `name`."""
        verb = name.removeprefix(f"{self.subject}.")
        return verb in LIFECYCLE or (self.trash is not None and verb in TRASHING)

    def kind_of(self, changes: Changes) -> Literal["updated", "trashed", "restored"]:
        """What an UPDATE with these changes is: into the trash, out of it, or neither."""
        moved = changes.get(self.trash) if self.trash is not None else None
        if moved is None or bool(moved.old) == bool(moved.new):
            return "updated"
        return "trashed" if moved.new else "restored"


def spellings(name: str) -> tuple[str, ...]:
    """`x.status_change`, `x.status_changed` and `x.status.changed` are one name."""
    subject, dot, verb = name.partition(".")
    named = field_view(verb) if dot else None
    if named is None:
        return (name,)
    return (f"{subject}.{named}_change", f"{subject}.{named}_changed", canonical_view(subject, named))


class Registry:
    """Patterns to handlers. `version` grows with every change, for whoever caches what it answered."""

    def __init__(self) -> None:
        self.version = 0
        self.models: dict[str, ModelInfo] = {}
        self._classes: dict[type, ModelInfo] = {}
        self._by_name: dict[str, Handler] = {}
        self._functions: dict[int, Handler] = {}
        self._all: dict[Handler, None] = {}
        self._exact: dict[str, dict[Handler, None]] = {}
        self._patterns: Trie[Handler] = Trie()
        self._excluded: dict[Handler, list[Pattern]] = {}
        self._by_class: dict[type, dict[Handler, None]] = {}
        self._bindings: dict[tuple[Handler, type | None], Binding] = {}
        self._placed = -1  # the last of those whose before= and after= were looked at
        self._changed: list[Callable[[], object]] = []

    def on_change(self, callback: Callable[[], object]) -> None:
        self._changed.append(callback)

    def _touch(self) -> None:
        self.version += 1
        for callback in self._changed:
            callback()

    # --- adding ------------------------------------------------------------------------------

    def add(self, handler: Handler, events: Sequence[Any]) -> Handler:
        """Register `handler` for `events`; the same function again is the same handler.

        Raises InvalidName, HandlerNameTaken, UnsatisfiableArgument.
        """
        known = self._known(handler)
        target = known if known is not None and known.target is handler.target else handler
        if known is not None and target is handler:
            self.remove(known)
        excluded = [Pattern.parse(event) for event in events if isinstance(event, str) and event.startswith("!")]
        wanted = [event for event in events if not (isinstance(event, str) and event.startswith("!"))]
        for event in wanted:
            self._listen(target, event)
        if excluded:
            self._excluded.setdefault(target, []).extend(excluded)
        self._remember(target)
        self._touch()
        return target

    def _known(self, handler: Handler) -> Handler | None:
        """The registered handler that `handler` is again (reloaded, imported twice, decorated twice)."""
        known = self._by_name.get(handler.name)
        if known is None or known is handler or not _is_anonymous(handler):
            return _require_same(known, handler)
        return self._functions.get(id(handler.target))

    def _remember(self, handler: Handler) -> None:
        self._all[handler] = None
        self._by_name.setdefault(handler.name, handler)
        if not _is_weak(handler):
            self._functions[id(handler.target)] = handler
        elif (target := handler.target) is not None:
            # A short-lived object takes its handlers with it.
            weakref.finalize(target.__self__, self.remove, handler).atexit = False  # type: ignore[attr-defined]  # a bound method has one

    def _listen(self, handler: Handler, event: Any) -> None:
        if isinstance(event, type):
            bucket = self._by_class.setdefault(event, {})
        elif "*" in event:
            Pattern.parse(event)
            self._patterns.add(event, handler)
            handler.events.append(event)
            return
        else:
            bucket = self._exact.setdefault(validate_name(event), {})
        if handler not in bucket:
            bucket[handler] = None
            handler.events.append(event)

    def remove(self, handler: Handler) -> None:
        """Forget a handler; nothing happens if it is not registered."""
        for event in handler.events:
            self._unlisten(handler, event)
        if self._by_name.get(handler.name) is handler:
            del self._by_name[handler.name]
        if not _is_weak(handler):
            self._functions.pop(id(handler.target), None)
        self._all.pop(handler, None)
        self._excluded.pop(handler, None)
        for key in [key for key in self._bindings if key[0] is handler]:
            del self._bindings[key]
        self._touch()

    def _unlisten(self, handler: Handler, event: Any) -> None:
        if isinstance(event, str) and "*" in event:
            self._patterns.remove(event, handler)
            return
        table: dict[Any, dict[Handler, None]] = self._by_class if isinstance(event, type) else self._exact
        bucket = table.get(event, {})
        bucket.pop(handler, None)
        if not bucket:
            table.pop(event, None)

    def add_model(self, info: ModelInfo) -> None:
        """Make a model known, its own handlers checked against its fields."""
        for handler in info.handlers:
            self.binding(handler, info)
        self.models[info.subject] = info
        self._classes[info.cls] = info
        self._touch()

    def model_of(self, cls: type) -> ModelInfo | None:
        return self._classes.get(cls)

    def model_in(self, name: str) -> ModelInfo | None:
        """The model that an event of this name is named after."""
        subject = name
        while (subject := subject.rpartition(".")[0]) and subject not in self.models:
            pass
        return self.models.get(subject)

    def batched(self, name: str) -> ModelInfo | None:
        """The model of whose batches `name` tells, which are about no record."""
        subject, _, verb = name.rpartition(".")
        return self.models.get(subject) if verb in BATCHES else None

    # --- look-up -----------------------------------------------------------------------------

    def hearing(self, name: str, cls: type | None = None, declared: type | None = None) -> list[Handler]:
        """Handlers of a logged or custom event `name` about a `cls`, in no particular order, each once."""
        found = [handler for spelled in spellings(name) for handler in self._exact.get(spelled, ())]
        found += self._patterns.match(name)
        info = self._classes.get(cls) if cls is not None else None
        if info is not None:
            found += self._of_class(info, name)
            found += _own(info, name)
        elif (about := self.model_in(name)) is not None:
            # Of no record, but `event_handler(User)` is `user.*`.
            found += self._of_class(about, name)
        if declared is not None:
            found += self._by_class.get(declared, ())
        return [handler for handler in dict.fromkeys(found) if not self._excludes(handler, name)]

    def viewing(self, name: str, cls: type) -> list[Handler]:
        """Handlers of a view (`user.saved`, `user.status.changed`) by its own names, wildcards aside."""
        found = [handler for spelled in spellings(name) for handler in self._exact.get(spelled, ())]
        info = self._classes.get(cls)
        if info is not None:
            found += _own(info, name)
        return [handler for handler in dict.fromkeys(found) if not self._excludes(handler, name)]

    def _of_class(self, info: ModelInfo, name: str) -> list[Handler]:
        if "." in name[len(info.subject) + 1 :]:
            return []
        return [handler for cls in info.cls.__mro__ for handler in self._by_class.get(cls, ())]

    def _excludes(self, handler: Handler, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self._excluded.get(handler, ()))

    def hooks(self, cls: type, decorators: Iterable[str]) -> list[Handler]:
        """A model's own hooks of these kinds, in order."""
        info = self._classes.get(cls)
        if info is None:
            return []
        return in_order([handler for handler in info.handlers if handler.decorator in decorators], cls)

    def all(self) -> list[Handler]:
        """Every handler once, models' own hooks included, in the order of registration."""
        own = [handler for info in self.models.values() for handler in info.handlers]
        every = dict.fromkeys([*own, *self._all])
        return sorted(every, key=lambda handler: handler.sequence)

    def durable(self) -> list[Handler]:
        return [handler for handler in self.all() if handler.phase is Phase.DURABLE]

    # --- arguments ---------------------------------------------------------------------------

    def binding(self, handler: Handler, info: ModelInfo | None) -> Binding:
        """The handler's arguments for events about this model. Raises UnsatisfiableArgument, SensitiveArgument."""
        key = (handler, info.cls if info is not None else None)
        found = self._bindings.get(key)
        if found is None:
            target = handler.target
            assert target is not None
            found = bind(target, info.fields if info is not None else ())
            check_binding(handler, found, info, handler.events)
            self._bindings[key] = found
        return found

    def check(self, handler: Handler, events: Sequence[Any], info: ModelInfo | None = None) -> None:
        """Refuse a handler of `events` that asks for what they never give, as far as their models are known by now."""
        target = handler.target
        assert target is not None
        named = [self.models.get(event.partition(".")[0]) for event in events if isinstance(event, str)]
        for model in dict.fromkeys([info, *named]):
            fields = model.fields if model is not None else ()
            check_binding(handler, bind(target, fields), model, events)
            if handler.options.when is not None:
                check_binding(handler, bind(handler.options.when, fields), model, events)

    def check_all(self) -> None:
        """`check` of every handler, now that all models are known; and that those it is to run before or after are.

        The latter once: that one of them is gone later on, or was made of a short-lived object, is no fault.
        """
        for handler in self._all:
            if handler.target is not None:
                self.check(handler, handler.events)
        every = self.all()
        new = [handler for handler in every if handler.sequence > self._placed]
        require_neighbours(new, every, [info.cls for info in self.models.values()])
        self._placed = max([self._placed, *(handler.sequence for handler in new)])

    def condition(self, handler: Handler, info: ModelInfo | None) -> Binding:
        """The arguments of the handler's `when=`, under the same rules."""
        assert handler.options.when is not None
        found = bind(handler.options.when, info.fields if info is not None else ())
        check_binding(handler, found, info, handler.events)
        return found


def _refuse_other_session(handler: Handler, argument: Argument) -> None:
    """A coroutine that takes its AsyncSession for a Session awaits nothing of what it asks of it."""
    named, given = session_named(argument.default), "AsyncSession" if handler.is_async else "Session"
    if named is not None and named != given:
        kind = "an async handler" if handler.is_async else "a plain handler"
        remedy = f"{kind} is given {'an' if handler.is_async else 'a'} {given}; write {argument.parameter}: {given}"
        raise WrongColour(f"@{handler.decorator}", handler.name, remedy)


def check_binding(handler: Handler, binding: Binding, info: ModelInfo | None, events: Sequence[Any]) -> None:
    """Refuse, as early as it can be known, what no event will ever give."""
    durable = handler.phase in (Phase.DURABLE, Phase.AFTER_COMMIT)
    for argument in binding.arguments:
        if argument.source is Source.SESSION and durable and not handler.transactional:
            events = f"a handler that runs {handler.phase.value} without transactional=True"
            raise UnsatisfiableArgument(handler.name, argument.parameter, events, RESERVED - {"session"})
        if argument.source is Source.SESSION:
            _refuse_other_session(handler, argument)
        if info is None:
            continue
        if argument.source in (Source.OLD, Source.NEW) and durable and argument.key in info.sensitive:
            raise SensitiveArgument(handler.name, argument.parameter)
        unknown = argument.source is Source.KEY and not argument.optional and argument.key not in info.fields
        if unknown and only_lifecycle(handler, info, events):
            old_new = {f"{prefix}_{name}" for name in info.fields for prefix in ("old", "new")}
            available = {*info.fields, *RESERVED, *old_new}
            raise UnsatisfiableArgument(handler.name, argument.parameter, _heard(handler, events), available)


def only_lifecycle(handler: Handler, info: ModelInfo, events: Sequence[Any]) -> bool:
    """Whether everything the handler hears is a lifecycle event or view of the model, whose payload is its fields."""
    if handler.decorator not in ("on_event", "on_event_async", "event_handler", "event_handler_async", "on"):
        return True
    return all(isinstance(event, str) and _is_lifecycle(event, info) for event in events)


def _is_lifecycle(event: str, info: ModelInfo) -> bool:
    verb = qualify(event, info.subject).removeprefix(f"{info.subject}.")
    return info.is_lifecycle(verb) or field_view(verb) in info.fields


def _heard(handler: Handler, events: Sequence[Any]) -> str:
    return ", ".join(map(describe, events)) or handler.decorator


def _own(info: ModelInfo, name: str) -> list[Handler]:
    names = spellings(name)
    return [handler for handler in info.handlers if any(_hears(event, info, names) for event in handler.events)]


def _hears(event: Any, info: ModelInfo, names: tuple[str, ...]) -> bool:
    if not isinstance(event, str):
        return False
    qualified = qualify(event, info.subject)
    return qualified in names or ("*" in qualified and Pattern.parse(qualified).matches(names[0]))


def _is_anonymous(handler: Handler) -> bool:
    """Closures, lambdas, bound methods: many functions may share one import path."""
    return handler.options.name is None and ("<" in handler.name or _is_weak(handler))


def _is_weak(handler: Handler) -> bool:
    return isinstance(handler.function, weakref.ref)


def _require_same(known: Handler | None, handler: Handler) -> Handler | None:
    if known is None or known is handler:
        return known
    first, second = known.target, handler.target
    same_place = _place(first) == _place(second)
    if first is not second and not same_place:
        raise HandlerNameTaken(handler.name, known.source, handler.source)
    if first is second and known.options != handler.options:
        raise RegisteredOtherwise(handler.name, known.options, handler.options)
    return known


def _place(function: Any) -> tuple[Any, Any]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)
