"""The order of the handlers of one event and phase: total, and the same on every run."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from earnorm.errors import OrderCycle, UnknownNeighbour
from earnorm.handler import Handler, Phase, identity_of

__all__ = ["in_order", "require_neighbours"]

_GLOBAL_DEPTH = 1 << 20


def in_order(handlers: Iterable[Handler], cls: type | None = None) -> list[Handler]:
    """Total order: before=/after=, then priority, base class before subclass, module, definition.

    The module's name stands before the definition order, so that the order of imports changes nothing.
    """
    listed = sorted(handlers, key=lambda handler: _rank(handler, cls))
    if any(handler.options.before or handler.options.after for handler in listed):
        return _constrained(listed)
    return listed


def _rank(handler: Handler, cls: type | None) -> tuple[int, int, str, int]:
    depth = _GLOBAL_DEPTH
    if handler.model is not None:
        depth = len(cls.__mro__) - cls.__mro__.index(handler.model) if cls and handler.model in cls.__mro__ else 0
    return (-handler.options.priority, depth, handler.module, handler.sequence)


def _constrained(listed: list[Handler]) -> list[Handler]:
    """Stable topological order: of those that may come next, always the one ranked first."""
    graph: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter(dict.fromkeys(range(len(listed)), ()))
    places = _places(listed)
    for i, handler in enumerate(listed):
        for j in _named(handler.options.before, places, i):
            graph.add(j, i)
        for j in _named(handler.options.after, places, i):
            graph.add(i, j)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        raise OrderCycle([listed[i].name for i in error.args[1]]) from None
    return [listed[i] for i in _drawn(graph)]


def _drawn(graph: graphlib.TopologicalSorter[int]) -> list[int]:
    ready: list[int] = list(graph.get_ready())
    drawn: list[int] = []
    while ready:
        ready.sort()
        first = ready.pop(0)
        drawn.append(first)
        graph.done(first)
        ready.extend(graph.get_ready())
    return drawn


# --- who is named ----------------------------------------------------------------------------


def require_neighbours(handlers: Iterable[Handler], known: Iterable[Handler], models: Iterable[type]) -> None:
    """Refuse a `before=` or `after=` that names no handler. Raises UnknownNeighbour.

    Those of durable handlers may be known to another process alone.
    """
    known, models = list(known), list(models)
    every = _places(known)
    for handler in handlers:
        if handler.phase is Phase.DURABLE:
            continue
        for option, wanted in (("before", handler.options.before), ("after", handler.options.after)):
            for name in wanted:
                if name not in every and not _is_disabled(name, handler, models):
                    raise UnknownNeighbour(handler.name, option, name, [other.name for other in known])


def _places(handlers: Iterable[Handler]) -> dict[str, list[int]]:
    """Where each name stands: whole, and every end of it that begins behind a dot."""
    places: dict[str, list[int]] = {}
    for i, handler in enumerate(handlers):
        for end in {end for name in _names_of(handler) for end in _ends(name)}:
            places.setdefault(end, []).append(i)
    return places


def _ends(name: str) -> Iterator[str]:
    yield name
    yield from (name[i + 1 :] for i, sign in enumerate(name) if sign == ".")


def _named(wanted: Iterable[str], places: Mapping[str, Sequence[int]], own: int) -> list[int]:
    return [j for name in wanted for j in places.get(name, ()) if j != own]


def _names_of(handler: Handler) -> list[str]:
    """Its own, and those of the hooks that it overrides: it stands in their place."""
    if handler.model is None or handler.options.name is not None:
        return [handler.name]
    attribute = handler.name.rpartition(".")[2]
    overridden = [vars(base).get(attribute) for base in handler.model.__mro__[1:]]
    return [handler.name, *(identity_of(function) for function in overridden if callable(function))]


def _is_disabled(name: str, handler: Handler, models: Iterable[type]) -> bool:
    """Whether a hook names another one of its class, and no model has it: each sets it to None."""
    owner, attribute = handler.model, name.rpartition(".")[2]
    return owner is not None and any(issubclass(model, owner) and hasattr(model, attribute) for model in models)
