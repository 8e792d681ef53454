"""Later: deliveries set aside whose time has come, in lanes of a window. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from earnorm.delivery import Delivery

__all__ = ["in_lanes"]


def in_lanes(due: Iterable[Delivery], is_ordered: Callable[[str], bool]) -> list[tuple[Delivery, ...]]:
    """Those of one record share a lane where its order matters, in the order given: that of their times.

    Of those that were tried before, each is the first of its record. What was emitted for later waits for none and
    holds up none, but runs beside none either.
    """
    lanes: dict[tuple[object, ...], list[Delivery]] = {}
    for delivery in due:
        name, key = delivery.subscription, delivery.entry.key
        lanes.setdefault((name, key) if key and is_ordered(name) else (delivery.id,), []).append(delivery)
    return list(map(tuple, lanes.values()))
