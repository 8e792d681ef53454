"""Interest: what a subscription hears, as names and patterns that a process without its handler can match.

Views stand under their canonical names (`order.status.changed`, `order.saved`), exclusions begin with "!".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from earnorm.declared import declared_of
from earnorm.handler import Handler
from earnorm.lifecycle import HOOK_KINDS
from earnorm.names import Patterns, qualify
from earnorm.registry import ModelInfo, Registry, spellings

__all__ = ["Interests", "hearers", "interests_of"]


def interests_of(registry: Registry) -> dict[str, frozenset[str]]:
    """By the name of each durable handler known here, what it hears."""
    owners: dict[Handler, list[ModelInfo]] = {}
    for info in registry.models.values():
        for handler in info.handlers:
            owners.setdefault(handler, []).append(info)
    found: dict[str, set[str]] = {}
    for handler in registry.durable():
        heard = found.setdefault(handler.name, set())
        for info in owners.get(handler, ()):
            heard.update(_own(handler, info))
        if handler in registry._all:
            heard.update(_registered(handler, registry))
            heard.update(f"!{str(pattern).lstrip('!')}" for pattern in registry._excluded.get(handler, ()))
    return {name: frozenset(heard) for name, heard in found.items()}


def _own(handler: Handler, info: ModelInfo) -> Iterator[str]:
    """What a hook or `on_event` of a model hears of that model."""
    action = handler.decorator.removesuffix("_async").removeprefix("post_")
    yield from (f"{info.subject}.{kind}" for kind in HOOK_KINDS.get(action, ()))
    yield from (_canonical(qualify(event, info.subject)) for event in handler.events if isinstance(event, str))


def _registered(handler: Handler, registry: Registry) -> Iterator[str]:
    for event in handler.events:
        if isinstance(event, str):
            yield _canonical(event)
        elif (declared := declared_of(event)) is not None:
            yield declared.name
        else:
            yield from (f"{info.subject}.*" for info in registry.models.values() if issubclass(info.cls, event))


def _canonical(name: str) -> str:
    return name if "*" in name else spellings(name)[-1]


class Interests:
    """What all subscriptions of a database hear, whichever process has their handlers."""

    def __init__(self, heard: Mapping[str, Collection[str]]) -> None:
        self._exact: set[str] = set()
        self._patterns: list[Patterns] = []
        for patterns in heard.values():
            self._add(patterns)
        self._named: dict[str, bool] = {}

    def _add(self, patterns: Iterable[str]) -> None:
        listed = sorted(patterns)
        included = [pattern for pattern in listed if not pattern.startswith("!")]
        self._exact.update(pattern for pattern in included if "*" not in pattern)
        if any("*" in pattern for pattern in included):
            self._patterns.append(Patterns.parse(listed))

    def hears(self, name: str, subject: str = "", changed: Iterable[str] = ()) -> bool:
        """Whether anybody hears the event, under its name or as a view of it."""
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = self._hears(name, subject)
        return found or any(f"{subject}.{field}.changed" in self._exact for field in changed)

    def _hears(self, name: str, subject: str) -> bool:
        if _canonical(name) in self._exact or any(patterns.matches(name) for patterns in self._patterns):
            return True
        return name in (f"{subject}.created", f"{subject}.updated") and f"{subject}.saved" in self._exact

    def hears_of(self, subject: str, fields: Sequence[str]) -> bool:
        """Whether anybody hears of a save or a deletion of the model, whatever it changes."""
        return any(self.hears(f"{subject}.{kind}", subject, fields) for kind in HOOK_KINDS["commit"])


def hearers(heard: Mapping[str, Collection[str]], name: str) -> list[str]:
    """Which of the subscriptions hear a custom event of this name."""
    return [subscription for subscription, patterns in heard.items() if Interests({subscription: patterns}).hears(name)]
