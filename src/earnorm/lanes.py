"""Lanes under way: in order within one, side by side across them; plain handlers in threads, async ones on a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from earnorm.batch import Batch
from earnorm.clock import Clock
from earnorm.delivery import Delivery
from earnorm.driving import AsyncPerformer, Driving
from earnorm.places import Entrance
from earnorm.portal import LoopThread
from earnorm.preload import Preload
from earnorm.serving import Performer, Serving
from earnorm.threads import Threads

__all__ = ["Lanes"]

# Threads that do what may block for async handlers: load their records, ask their conditions.
_LOADERS = 4


class Runs(Performer, AsyncPerformer, Protocol):
    """Who runs deliveries, and knows what they need: the runner."""

    def is_async(self, name: str) -> bool: ...

    def concurrency(self, name: str) -> int | None: ...

    def may_load(self, delivery: Delivery) -> bool: ...

    def loads(self, delivery: Delivery) -> bool: ...

    def load(self, deliveries: Sequence[Delivery]) -> list[Any]: ...

    def is_fresh(self, loaded: Any) -> bool: ...


class _Kind(NamedTuple):
    """How deliveries of a subscription run that are about one subject."""

    is_async: bool
    may_wait: bool


class Lanes:
    """Runs batches. A handler sees a context of its own: nothing of whoever woke the worker or drains it."""

    def __init__(self, runner: Runs, clock: Clock, *, threads: int, concurrency: int, own_loop: LoopThread) -> None:
        # Others than the handlers' own: plain handlers that hang must not keep records from async ones.
        self._loaders = Threads(_LOADERS, "earnorm-loaders")
        self._runner = runner
        self._preload = Preload(runner, self._loaders)
        self._entrance = Entrance(runner, self._preload)
        self._serving = Serving(runner, threads, own_loop)
        self._driving = Driving(runner, clock, concurrency, own_loop, self._loaders)

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Run async handlers on `loop` for as long as it runs; otherwise they run on the loop thread."""
        self._driving.use_loop(loop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where async handlers run now."""
        return self._driving.loop

    def begin(self, batch: Batch) -> None:
        """Start every lane, the first ones first."""
        plain: list[int] = []
        awaited: list[int] = []
        kinds: dict[tuple[str, str], _Kind] = {}
        numbers, name, subject = plain, "", None
        for number, lane in enumerate(batch.lanes):
            first = lane[0]
            about = first.entry.subject
            # Most are what the one before them is: it is looked up where they differ.
            if about != subject or first.subscription != name:
                name, subject = key = first.subscription, about
                kind = kinds.get(key) or kinds.setdefault(key, self._kind(first))
                numbers = awaited if kind.is_async else plain
            numbers.append(number)
        entrance = self._entrance if any(kind.may_wait for kind in kinds.values()) else None
        batch.expect(in_threads=len(plain), on_loop=len(awaited))
        self._driving.begin(batch, awaited, entrance)
        self._serving.begin(batch, plain, entrance)

    def _kind(self, delivery: Delivery) -> _Kind:
        name = delivery.subscription
        may_wait = self._runner.may_load(delivery) or self._runner.concurrency(name) is not None
        return _Kind(self._runner.is_async(name), may_wait)

    def abandon(self, batch: Batch) -> None:
        """Cancel the async deliveries of `batch` and leave the others to themselves. None of them was an attempt."""
        batch.close()
        self._driving.abandon(batch)

    def close(self) -> None:
        self._preload.close()
        self._serving.close()
        self._loaders.shutdown(wait=False)
        self._driving.use_loop(None)
