"""Later: deliveries set aside whose time has come, in lanes of a window. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from earnorm.delivery import Delivery

__all__ = ["Pair", "beside", "in_lanes", "pair_of"]

Pair = tuple[str, str]

_Lane = tuple[Delivery, ...]


def in_lanes(due: Iterable[Delivery], is_ordered: Callable[[str], bool]) -> list[_Lane]:
    """Those of one record share a lane where its order matters, in the order given: that of their times.

    Of those that were tried before, each is the first of its record. What was emitted for later waits for none and
    holds up none, but runs beside none either.
    """
    lanes: dict[tuple[object, ...], list[Delivery]] = {}
    for delivery in due:
        name, key = delivery.subscription, delivery.entry.key
        lanes.setdefault((name, key) if key and is_ordered(name) else (delivery.id,), []).append(delivery)
    return list(map(tuple, lanes.values()))


def beside(lanes: Sequence[_Lane], due: Iterable[_Lane]) -> tuple[_Lane, ...]:
    """Lanes of a window and, before them, those that are due.

    One whose record has a lane in the window comes at the end of that: of a record one is under way at a time.
    """
    live = {pair_of(lane[0]): lane for lane in lanes if lane[0].ordered}
    first: list[_Lane] = []
    for lane in due:
        if pair_of(lane[0]) in live:
            live[pair_of(lane[0])] += lane
        else:
            first.append(lane)
    return (*first, *(live.get(pair_of(lane[0]), lane) for lane in lanes))


def pair_of(delivery: Delivery) -> Pair:
    """Of a subscription and a record, where its order matters, one delivery is under way at a time."""
    return delivery.subscription, delivery.entry.key
