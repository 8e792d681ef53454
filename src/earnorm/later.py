"""Later: deliveries set aside whose time has come, in lanes of a window. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from earnorm.delivery import Delivery

__all__ = ["in_lanes"]


def in_lanes(due: Iterable[Delivery], is_ordered: Callable[[str], bool]) -> list[tuple[Delivery, ...]]:
    """Each in a lane of its own, since of ordered ones each is the first of its record.

    What was emitted for later waits for none and holds up none, so it is not ordered. But of a subscription that is,
    those of one record share a lane, in the order given: that of their times.
    """
    lanes: dict[tuple[object, ...], list[Delivery]] = {}
    for delivery in due:
        name, key = delivery.subscription, delivery.entry.key
        emitted_for_later = not delivery.ordered and key and is_ordered(name)
        lanes.setdefault((name, key) if emitted_for_later else (delivery.id,), []).append(delivery)
    return list(map(tuple, lanes.values()))
