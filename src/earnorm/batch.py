"""A batch: lanes that were begun together, and what each has come to so far."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from earnorm.delivery import DONE, Delivery, Done, Outcome, Retry
from earnorm.room import ROOM

__all__ = ["ALL_DONE", "Batch"]

ALL_DONE: tuple[Outcome, ...] = (DONE,)
"""What most lanes come to: those share it, and nothing is made for them."""


class Batch:
    """`signal` is set when all lanes have ended, and when the batch is closed; `calm` while no task of it runs.

    It closes by itself once its handlers have emitted as many bytes as a worker has room for: those are settled first.
    """

    def __init__(self, lanes: Sequence[tuple[Delivery, ...]]) -> None:
        self.lanes = lanes
        self.signal = threading.Event()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.calm = threading.Event()
        self.calm.set()
        # Tasks that follow its lanes, and those whose handler waits; the loop's own business.
        self.driving = self.waiting = 0
        # How many lanes have ended on the loop, each time that any had; its own business as well.
        self.ended: list[int] = []
        # Told, once the batch was settled without them, when those that run on have ended.
        self.on_note: Callable[[], object] | None = None
        # What each lane came to so far. Who performs a lane's only delivery may write ALL_DONE here and skip `note`.
        self.ends: list[tuple[Outcome, ...]] = [()] * len(lanes)
        self._running: dict[int, int] = {}
        self._lock = threading.Lock()
        self._in_threads = 0
        self._on_loop = 0
        self._room = ROOM

    @property
    def outcomes(self) -> list[tuple[Outcome, ...]]:
        """What each lane came to so far. A lane that stays short of its deliveries was stopped."""
        return self.ends.copy()

    @property
    def running(self) -> dict[int, int]:
        """By lane, which of its deliveries takes its time: it waits on a loop, or has a thread."""
        return dict(self._running)

    def runs(self, lane: int) -> None:
        """The next delivery of this lane may take its time."""
        self._running[lane] = len(self.ends[lane])

    def outcome(self, lane: int, index: int) -> Outcome | None:
        """What this delivery came to, if it has ended."""
        outcomes = self.ends[lane]
        return outcomes[index] if index < len(outcomes) else None

    @property
    def finished(self) -> bool:
        # A loop that was closed under its tasks will never end them.
        gone = self.loop is not None and self.loop.is_closed()
        return self._in_threads <= 0 and (self._on_loop <= 0 or gone)

    def close(self) -> None:
        """Begin no further delivery."""
        self.closed = True
        self.signal.set()

    def expect(self, *, in_threads: int, on_loop: int) -> None:
        """So many lanes are to end."""
        with self._lock:
            self._in_threads, self._on_loop = in_threads, on_loop
        self.left()

    def left(self, *, in_threads: int = 0, on_loop: int = 0) -> None:
        """So many lanes have ended, or will never begin."""
        with self._lock:
            self._in_threads -= in_threads
            self._on_loop -= on_loop
        if self._in_threads <= 0 and self._on_loop <= 0:
            self.signal.set()

    def tell_ended(self) -> None:
        """Those that have `ended` on the loop are said to have, thousands at once."""
        if self.ended:
            self.left(on_loop=sum(self.ended))
            self.ended.clear()

    def note(self, lane: int, outcome: Outcome) -> bool:
        """Write an outcome down; whether the lane may go on: behind a delivery that is to be retried, it waits."""
        if self._running:
            self._running.pop(lane, None)
        before = self.ends[lane]
        self.ends[lane] = ALL_DONE if outcome is DONE and not before else (*before, outcome)
        if self.on_note is not None:
            self.on_note()
        if outcome is DONE:
            return True
        if isinstance(outcome, Done):
            self._hold(outcome.size)
        return not isinstance(outcome, Retry)

    def _hold(self, size: int) -> None:
        """So many bytes more wait here to be settled."""
        with self._lock:
            self._room -= size
        if self._room <= 0 and not self.closed:
            self.close()
