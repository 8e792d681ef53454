"""Signals that end a worker: the first one asks for it, a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

__all__ = ["Asked", "heard"]

# Seconds within which the same signal is the first one again: `timeout` and many supervisors tell the process, and then
# its whole group.
_ECHO = 0.1


class Asked(KeyboardInterrupt):
    """A signal came while there was nothing to finish."""


@contextmanager
def heard(
    numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    *,
    at_the_first: Callable[[], object] = lambda: None,
    at_the_second: Callable[[], object] = lambda: None,
) -> Iterator[Connection]:
    """A pipe that has something to read after the first of these signals. The second ends the process: 128 + number.

    What `at_the_first` raises is raised wherever the process is.
    """
    reader, writer = Pipe(duplex=False)
    came: tuple[int, float] | None = None

    def hear(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        now = time.monotonic()
        if came is not None and came[0] == number and now - came[1] < _ECHO:
            return
        if came is not None:
            at_the_second()
            # Nothing is waited for: no handler, no thread, no exit hook. The store sees a process that died.
            os._exit(128 + number)
        came = number, now
        writer.send_bytes(b"asked")
        at_the_first()

    before: dict[signal.Signals, Any] = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
