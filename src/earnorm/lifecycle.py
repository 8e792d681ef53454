"""Lifecycle: the words a model is written with (pre_save … post_delete, on_event), and how changes compose.

A decorator only marks its function; the model collects the marks when its class is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from earnorm.errors import NoEvent, NotAFunction, NotAMethod, NoTrash, WrongColour
from earnorm.handler import Handler, Options, Phase, is_async, make_handler
from earnorm.names import Pattern
from earnorm.occurrence import Kind

__all__ = [
    "HOOK_KINDS",
    "Mark",
    "collect_handlers",
    "on_event",
    "on_event_async",
    "post_commit",
    "post_create",
    "post_create_async",
    "post_delete",
    "post_delete_async",
    "post_restore",
    "post_restore_async",
    "post_rollback",
    "post_save",
    "post_save_async",
    "post_trash",
    "post_trash_async",
    "post_update",
    "post_update_async",
    "pre_create",
    "pre_create_async",
    "pre_delete",
    "pre_delete_async",
    "pre_restore",
    "pre_restore_async",
    "pre_save",
    "pre_save_async",
    "pre_trash",
    "pre_trash_async",
    "pre_update",
    "pre_update_async",
]

F = TypeVar("F", bound=Callable[..., Any])

_MARKS = "__earnorm_marks__"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator wrote on a function: to be hooked in when its class becomes a model."""

    decorator: str
    phase: Phase
    events: tuple[str, ...]
    options: Options


class HookDecorator(Protocol):
    """A hook decorator: bare, or with options."""

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, **options: Any) -> Callable[[F], F]: ...


def _hook(decorator: str, phase: Phase, doc: str) -> HookDecorator:
    wants_async = decorator.endswith("_async")

    def hook(function: Any = None, /, **options: Any) -> Any:
        chosen = Options.parse(decorator, options)

        def mark(target: F) -> F:
            _require_colour(decorator, target, wants_async=wants_async)
            return _marked(target, Mark(decorator, phase, (), chosen))

        return mark if function is None else mark(function)

    hook.__name__ = hook.__qualname__ = decorator
    hook.__doc__ = doc
    return hook


def _require_colour(decorator: str, function: Any, *, wants_async: bool) -> None:
    if not callable(function):
        raise NotAFunction(decorator, function, f"; options go by name: @{decorator}(priority=1)")
    if wants_async == is_async(function):
        return
    plain = decorator.removesuffix("_async")
    remedy = f"write `async def`, or use @{plain}" if wants_async else f"the function is async; use @{plain}_async"
    if decorator in ("post_commit", "post_rollback"):
        remedy = "it takes a plain function; for async work after the commit use @post_save_async"
    raise WrongColour(f"@{decorator}", _name_of(function), remedy)


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _marked(function: F, mark: Mark) -> F:
    qualname = _name_of(function)
    if "." not in qualname.rpartition("<locals>.")[2] and "<lambda>" not in qualname:
        raise NotAMethod(mark.decorator, qualname)
    make_handler(function, mark.decorator, mark.phase, mark.options)  # refuses what does not fit, here and now
    setattr(function, _MARKS, (*getattr(function, _MARKS, ()), mark))
    return function


pre_save = _hook(
    "pre_save", Phase.BEFORE, "Runs before the SQL of a create or update; may set attributes; veto by raising."
)
pre_create = _hook("pre_create", Phase.BEFORE, "Runs before the INSERT; veto by raising.")
pre_update = _hook("pre_update", Phase.BEFORE, "Runs before the UPDATE; veto by raising.")
pre_delete = _hook("pre_delete", Phase.BEFORE, "Runs before the DELETE; veto by raising.")
post_save = _hook("post_save", Phase.TRANSACTION, "Runs after the SQL of a create or update, before the commit.")
post_create = _hook("post_create", Phase.TRANSACTION, "Runs after the INSERT, before the commit; veto by raising.")
post_update = _hook("post_update", Phase.TRANSACTION, "Runs after the UPDATE, before the commit; veto by raising.")
post_delete = _hook("post_delete", Phase.TRANSACTION, "Runs after the DELETE, before the commit; veto by raising.")
pre_save_async = _hook("pre_save_async", Phase.BEFORE, "`pre_save`, awaited: needs `asave`.")
pre_create_async = _hook("pre_create_async", Phase.BEFORE, "`pre_create`, awaited: needs `asave`.")
pre_update_async = _hook("pre_update_async", Phase.BEFORE, "`pre_update`, awaited: needs `asave`.")
pre_delete_async = _hook("pre_delete_async", Phase.BEFORE, "`pre_delete`, awaited: needs `adelete`.")
post_save_async = _hook("post_save_async", Phase.DURABLE, "Runs after the commit, durably: at least once, retried.")
post_create_async = _hook("post_create_async", Phase.DURABLE, "Runs after the commit of a create, durably.")
post_update_async = _hook("post_update_async", Phase.DURABLE, "Runs after the commit of an update, durably.")
post_delete_async = _hook("post_delete_async", Phase.DURABLE, "Runs after the commit of a delete, durably.")
pre_trash = _hook("pre_trash", Phase.BEFORE, "Runs before a record goes into the trash; veto by raising.")
pre_restore = _hook("pre_restore", Phase.BEFORE, "Runs before a record comes out of the trash; veto by raising.")
post_trash = _hook("post_trash", Phase.TRANSACTION, "Runs when a record is in the trash, before the commit.")
post_restore = _hook("post_restore", Phase.TRANSACTION, "Runs when a record is out of the trash, before the commit.")
pre_trash_async = _hook("pre_trash_async", Phase.BEFORE, "`pre_trash`, awaited: needs `atrash`.")
pre_restore_async = _hook("pre_restore_async", Phase.BEFORE, "`pre_restore`, awaited: needs `arestore`.")
post_trash_async = _hook("post_trash_async", Phase.DURABLE, "Runs after the commit of a trashing, durably.")
post_restore_async = _hook("post_restore_async", Phase.DURABLE, "Runs after the commit of a restoring, durably.")
post_commit = _hook("post_commit", Phase.AFTER_COMMIT, "Runs in this process after the outermost commit; at most once.")
post_rollback = _hook(
    "post_rollback", Phase.ROLLBACK, "Runs in this process after the outermost rollback; at most once."
)

# What each hook hears, as kinds of change.
HOOK_KINDS: dict[str, tuple[Kind, ...]] = {
    "save": ("created", "updated"),
    "create": ("created",),
    "update": ("updated",),
    "trash": ("trashed",),
    "restore": ("restored",),
    "delete": ("deleted",),
    "commit": ("created", "updated", "trashed", "restored", "deleted"),
    "rollback": ("created", "updated", "trashed", "restored", "deleted"),
}


def on_event(*events: str | Sequence[str], **options: Any) -> Callable[[F], F]:
    """A model's own handler: runs inside the transaction, on the live record; veto by raising.

    Names are relative to the model ("login" is "user.login" in User); lists and patterns work too.
    """
    return _on("on_event", Phase.TRANSACTION, events, options, wants_async=False)


def on_event_async(*events: str | Sequence[str], **options: Any) -> Callable[[F], F]:
    """A model's own handler, awaited after the commit, durably: at least once, retried."""
    return _on("on_event_async", Phase.DURABLE, events, options, wants_async=True)


def _on(
    decorator: str, phase: Phase, events: Sequence[Any], options: dict[str, Any], *, wants_async: bool
) -> Callable[[F], F]:
    names = tuple(flattened(decorator, events))
    for name in names:
        Pattern.parse(name)
    chosen = Options.parse(decorator, options)

    def mark(function: F) -> F:
        _require_colour(decorator, function, wants_async=wants_async)
        return _marked(function, Mark(decorator, phase, names, chosen))

    return mark


def flattened(decorator: str, events: Iterable[Any]) -> list[Any]:
    """Lists undone; raises NoEvent on anything that is neither a name nor a class, and if nothing would be heard."""
    found = list(_flat(decorator, events))
    if all(isinstance(event, str) and event.startswith("!") for event in found):
        raise NoEvent(decorator, found)
    return found


def _flat(decorator: str, events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        if isinstance(event, (list, tuple, set, frozenset)):
            yield from _flat(decorator, event)
        elif isinstance(event, (str, type)):
            yield event
        else:
            raise NoEvent(decorator, event)


# --- collecting ------------------------------------------------------------------------------


def collect_handlers(cls: type, *, trash: bool = False) -> list[Handler]:
    """The hooks and handlers of a model class, inherited ones included. Raises NoTrash.

    Overriding a method replaces it and keeps its role unless the override is decorated itself; `= None` disables it.
    """
    marks: dict[str, tuple[Mark, ...]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            own = getattr(_function(value), _MARKS, ())
            if own:
                marks[name] = own
    found: list[Handler] = []
    for name, wanted in marks.items():
        owner, function = _effective(cls, name)
        if function is not None:
            found += [_handler(function, mark, owner) for mark in wanted]
    for handler in found:
        if not trash and handler.decorator.removesuffix("_async") in _OF_TRASH:
            raise NoTrash(handler.decorator, cls.__name__)
    return found


_OF_TRASH = frozenset({"pre_trash", "post_trash", "pre_restore", "post_restore"})


def _function(value: Any) -> Any:
    return getattr(value, "__func__", value)


def _effective(cls: type, name: str) -> tuple[type, Any]:
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner, _function(vars(owner)[name])


def _handler(function: Any, mark: Mark, owner: type) -> Handler:
    known: dict[Mark, Handler] = function.__dict__.setdefault("__earnorm_handlers__", {})
    handler = known.get(mark)
    if handler is None:
        handler = make_handler(function, mark.decorator, mark.phase, mark.options, model=owner)
        handler.events.extend(mark.events)
        known[mark] = handler
    return handler
