"""Places: where lanes of a batch stand that are to be gone on with, by threads or by the tasks of a loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

import msgspec
from msgspec import structs

from earnorm.batch import Batch
from earnorm.delivery import Delivery, Outcome
from earnorm.gate import Gate
from earnorm.preload import Preload, Share

__all__ = ["Entrance", "Place", "Places"]

# How often a record that grew stale while it waited is loaded again, together with others. After that the attempt loads
# for itself: where each handler writes, what was loaded for those behind it is always stale.
_AGAIN = 2
# Lanes whose records may be asked for at a time: what is loaded is then run before it is out of date.
_LOADING = 200


class Place(msgspec.Struct, frozen=True):
    """A lane, and which of its deliveries is next. `gate` is the one it is inside of, `share` that of its record.

    `again` is how often that was loaded anew.
    """

    lane: int
    start: int = 0
    gate: Gate | None = None
    share: Share | None = None
    again: int = 0

    @property
    def loaded(self) -> Any:
        """The record that was loaded for it, if one was."""
        return None if self.share is None else self.share.get()


_lane = attrgetter("lane")


class Bounds(Protocol):
    """Who knows how many deliveries of a subscription may run side by side: the runner."""

    def concurrency(self, name: str) -> int | None: ...


class Entrance:
    """What a delivery may have to wait for before it begins: room beside others of its handler, and its record."""

    def __init__(self, bounds: Bounds, preload: Preload) -> None:
        self.preload = preload
        self._bounds = bounds
        self._gates: dict[str, Gate] = {}

    def gate(self, name: str) -> Gate | None:
        """That of a subscription that says how many of it may run side by side."""
        room = self._bounds.concurrency(name)
        return None if room is None else self._gates.setdefault(name, Gate(room))


class Places:
    """Those of a batch's lanes that threads serve, or that tasks drive. `left` is told how many lanes have ended.

    `resume` is called, from any thread, with how many have come back that had to wait.
    """

    def __init__(
        self,
        batch: Batch,
        lanes: Iterable[int],
        entrance: Entrance | None,
        *,
        resume: Callable[[Places, int], None],
        left: Callable[[int], object],
    ) -> None:
        self.batch = batch
        # How often somebody was sent for who has not come yet.
        self.sent = 0
        # Lanes not begun: of those the number alone, since there are thousands. All others are gone on with before.
        self.unbegun = deque(lanes)
        self._queue: deque[Place] = deque()
        self._loading: set[int] = set()
        self._entrance = entrance
        self._gates: dict[str, Gate | None] = {}
        self._resume = resume
        self._left = left

    def __len__(self) -> int:
        return len(self._queue) + len(self.unbegun)

    @property
    def is_ready(self) -> bool:
        """Whether one may be gone on with now: not while as many records as may be asked for at a time are loaded.

        Those that have come back are then none of these, and first.
        """
        return bool(self._queue or self.unbegun) and len(self._loading) < _LOADING

    @property
    def is_open(self) -> bool:
        """Whether the next one is of those not begun, and nothing has to be waited for before one of them is."""
        return self._entrance is None and not self._queue

    def take(self) -> Place | None:
        """The next one that may be gone on with. Those that have to wait come back."""
        entrance = self._entrance
        while True:
            try:
                place = self._next()
            except IndexError:
                return None
            if entrance is None:
                return place
            if place.gate is None and (gate := self._gate(place, entrance)) is not None:
                place = structs.replace(place, gate=gate)
                if not gate.enter(partial(self._come_back, [place])):
                    continue
            if place.share is not None and self._asked_again(place, place.share, entrance.preload):
                continue
            if place.share is not None or self.batch.closed or not entrance.preload.loads(self.delivery(place)):
                return place
            if not self._ask(place, entrance.preload):
                return None

    def _next(self) -> Place:
        if self._queue:
            # Other threads take from it too: it may be empty by now.
            with suppress(IndexError):
                return self._queue.popleft()
        return Place(self.unbegun.popleft())

    def _gate(self, place: Place, entrance: Entrance) -> Gate | None:
        name = self.batch.lanes[place.lane][place.start].subscription
        if name not in self._gates:
            self._gates[name] = entrance.gate(name)
        return self._gates[name]

    def _ask(self, place: Place, preload: Preload) -> bool:
        """Whether to go on with the others: not while as many records as may be asked for at a time are loaded."""
        if len(self._loading) >= _LOADING:
            self._queue.appendleft(place)
            # Had they all come back before it was put back, nobody would come for it.
            return len(self._loading) < _LOADING
        self._loading.add(place.lane)
        share = preload.share(self.batch, place.lane, place.start)
        share.load.tell(self._come_back, structs.replace(place, share=share))
        return True

    def _asked_again(self, place: Place, share: Share, preload: Preload) -> bool:
        """Whether its record had grown stale, and is being loaded again."""
        if place.again >= _AGAIN or self.batch.closed or not preload.is_stale(share):
            return False
        # One by one they would take so long that those behind them grow stale as well.
        self._loading.add(place.lane)
        share = preload.share_anew(self.delivery(place))
        share.load.tell(self._come_back, structs.replace(place, share=share, again=place.again + 1))
        return True

    def _come_back(self, places: list[Place]) -> None:
        self._loading.difference_update([place.lane for place in places])
        # The first of them in front, whichever thread was quicker to ask for its record.
        self._queue.extendleft(sorted(places, key=_lane, reverse=True))
        self._resume(self, len(places))

    def delivery(self, place: Place) -> Delivery:
        return self.batch.lanes[place.lane][place.start]

    def go_on(self, place: Place) -> None:
        """This one is next."""
        self._queue.appendleft(place)

    def note(self, place: Place, outcome: Outcome) -> None:
        """What a delivery came to: its lane goes on, or has come to its end."""
        later = place.start + 1
        if self.batch.note(place.lane, outcome) and later < len(self.batch.lanes[place.lane]):
            self.go_on(Place(place.lane, later, place.gate))
        else:
            self.end(place)

    def end(self, place: Place) -> None:
        """The lane goes no further."""
        if place.gate is not None:
            place.gate.leave()
        self._left(1)

    def forgo(self) -> None:
        """Nobody is left to go on with these."""
        count = len(self)
        self.unbegun.clear()
        while self._queue:
            place = self._queue.popleft()
            if place.gate is not None:
                place.gate.leave()
        self._left(count)
