"""A flow: what a change of one kind meets on a model, from its pre hooks to those who hear of it after the commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from earnorm.binding import Source
from earnorm.event import NO_CHANGES, Changes
from earnorm.handler import Handler, Phase
from earnorm.lifecycle import HOOK_KINDS
from earnorm.occurrence import CHANGING, Kind
from earnorm.order import in_order
from earnorm.registry import ModelInfo, Registry

__all__ = ["Flow", "Plans", "remember"]

T = TypeVar("T")
K = TypeVar("K")

# Names of which something is remembered. An application has some dozens of them, but may make names up as it goes.
_MOST_NAMES = 1024


def remember(known: dict[K, T], name: K, found: T) -> T:
    """Keep what was found for a name, and no more than some names at a time."""
    if len(known) >= _MOST_NAMES:
        known.clear()
    known[name] = found
    return found


@dataclass(frozen=True, slots=True)
class Flow:
    """What a change of one kind meets on a model, worked out once.

    heard          anybody at all hears it once its SQL is done
    silent         nor does a pre hook
    simple         pre hooks, and all who hear it, take nothing but their subject and run inside the transaction
    simple_after   so do all who hear it
    always         who hears it inside the transaction, whatever fields it changes
    logged         who hears it once its SQL is done, if anybody, does so from a log: nobody is handed it here
    """

    name: str
    before: tuple[Handler, ...]
    heard: bool
    silent: bool
    simple: bool
    simple_after: bool
    always: tuple[Handler, ...]
    logged: bool


class Plans:
    """Per model and kind of change: the handlers of each phase, in order. Cached until the registry changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._forget()
        registry.on_change(self._forget)

    def _forget(self) -> None:
        # New tables rather than emptied ones: what a thread works out from the registry as it was goes into the old.
        self._flows: dict[tuple[type, Kind], Flow] = {}
        self._hooks: dict[tuple[type, Kind, Phase], tuple[Handler, ...]] = {}
        self._heard: dict[tuple[type, Kind, frozenset[str]], tuple[Handler, ...]] = {}
        self._now: dict[tuple[type, Kind, frozenset[str]], tuple[Handler, ...]] = {}
        self._later: dict[tuple[type, Kind, frozenset[str], bool], tuple[Handler, ...]] = {}
        self._views: dict[type, frozenset[str]] = {}
        self._custom: dict[tuple[str, type | None, type | None], tuple[Handler, ...]] = {}

    def flow(self, cls: type, kind: Kind) -> Flow:
        known = self._flows
        found = known.get((cls, kind))
        if found is None:
            found = known[cls, kind] = self._flow(cls, kind)
        return found

    def _flow(self, cls: type, kind: Kind) -> Flow:
        info = self._info(cls)
        before = self.hooks(cls, kind, Phase.BEFORE)
        # Whatever the fields turn out to be: a handler of any view counts.
        after = self._hearing(cls, kind, self.viewed(cls) if kind in CHANGING else frozenset())
        later = [*self.hooks(cls, kind, Phase.AFTER_COMMIT), *self.hooks(cls, kind, Phase.ROLLBACK)]
        heard = bool(after or later or info.bubbles_to)
        simple_after = all(handler.phase is Phase.TRANSACTION for handler in after)
        simple_after = (
            simple_after and not later and info.bubbles_to is None and all(map(self._takes_subject_only, after))
        )
        return Flow(
            f"{info.subject}.{kind}",
            before,
            heard=heard,
            silent=not heard and not before,
            simple=simple_after and all(map(self._takes_subject_only, before)),
            simple_after=simple_after,
            always=() if kind in CHANGING else self.now(cls, kind),
            logged=info.bubbles_to is None and {handler.phase for handler in (*after, *later)} <= {Phase.DURABLE},
        )

    def _takes_subject_only(self, handler: Handler) -> bool:
        if handler.options.when is not None or handler.is_async or handler.model is None:
            return False
        arguments = self._registry.binding(handler, self._registry.model_of(handler.model)).arguments
        return all(argument.source is Source.SUBJECT for argument in arguments)

    def _info(self, cls: type) -> ModelInfo:
        info = self._registry.model_of(cls)
        assert info is not None
        return info

    def hooks(self, cls: type, kind: Kind, phase: Phase) -> tuple[Handler, ...]:
        """A model's own hooks for a change in one phase."""
        key = (cls, kind, phase)
        known = self._hooks
        found = known.get(key)
        if found is None:
            names = _hook_names(kind, phase)
            chosen = [h for h in self._registry.hooks(cls, names) if h.phase is phase]
            found = known[key] = tuple(chosen)
        return found

    def now(self, cls: type, kind: Kind, changes: Changes = NO_CHANGES) -> tuple[Handler, ...]:
        """Who hears a change inside the transaction, once its SQL is done, in order."""
        key = (cls, kind, self._seen_fields(cls, kind, changes))
        known = self._now
        found = known.get(key)
        if found is None:
            heard = self.after(cls, kind, changes)
            found = known[key] = tuple(handler for handler in heard if handler.phase is Phase.TRANSACTION)
        return found

    def after(self, cls: type, kind: Kind, changes: Changes = NO_CHANGES) -> tuple[Handler, ...]:
        """Who hears a change once its SQL is done, of whatever phase, in order."""
        fields = self._seen_fields(cls, kind, changes)
        key = (cls, kind, fields)
        known = self._heard
        found = known.get(key)
        if found is None:
            found = known[key] = tuple(in_order(self._hearing(cls, kind, fields), cls))
        return found

    def later(self, cls: type, kind: Kind, changes: Changes, *, durable: bool) -> tuple[Handler, ...]:
        """Who hears a change in this process after the commit: the durable ones too where no log keeps it for them."""
        key = (cls, kind, self._seen_fields(cls, kind, changes), durable)
        known = self._later
        found = known.get(key)
        if found is None:
            phases = (Phase.AFTER_COMMIT, Phase.DURABLE) if durable else (Phase.AFTER_COMMIT,)
            heard = [*self.hooks(cls, kind, Phase.AFTER_COMMIT), *self.after(cls, kind, changes)]
            found = known[key] = tuple(handler for handler in heard if handler.phase in phases)
        return found

    def _seen_fields(self, cls: type, kind: Kind, changes: Changes) -> frozenset[str]:
        return self.viewed(cls).intersection(changes) if kind in CHANGING else _NO_FIELDS

    def _hearing(self, cls: type, kind: Kind, fields: frozenset[str]) -> list[Handler]:
        info = self._info(cls)
        names = {f"post_{action}{colour}" for action in _actions(kind) for colour in ("", "_async")}
        found = self._registry.hooks(cls, names)
        found += self._registry.hearing(f"{info.subject}.{kind}", cls)
        if kind in ("created", "updated"):
            found += self._registry.viewing(f"{info.subject}.saved", cls)
        for name in sorted(fields):
            found += self._registry.viewing(f"{info.subject}.{name}.changed", cls)
        return list(dict.fromkeys(found))

    def viewed(self, cls: type) -> frozenset[str]:
        """The fields whose view somebody listens to."""
        known = self._views
        found = known.get(cls)
        if found is None:
            info = self._info(cls)
            heard = [f for f in info.fields if self._registry.viewing(f"{info.subject}.{f}.changed", cls)]
            found = known[cls] = frozenset(heard)
        return found

    def custom(self, name: str, cls: type | None, declared: type | None = None) -> tuple[Handler, ...]:
        """Every handler of a custom event, in order."""
        key = (name, cls, declared)
        known = self._custom
        found = known.get(key)
        if found is None:
            found = remember(known, key, tuple(in_order(self._registry.hearing(name, cls, declared), cls)))
        return found


_NO_FIELDS: frozenset[str] = frozenset()


_ACTIONS = ("save", "create", "update", "trash", "restore", "delete")


def _actions(kind: Kind) -> tuple[str, ...]:
    return tuple(action for action in _ACTIONS if kind in HOOK_KINDS[action])


def _hook_names(kind: Kind, phase: Phase) -> set[str]:
    if phase is Phase.BEFORE:
        return {f"pre_{action}{colour}" for action in _actions(kind) for colour in ("", "_async")}
    return {"post_commit"} if phase is Phase.AFTER_COMMIT else {"post_rollback"}
