"""An event loop of one process: an ordinary one, whose time is the kernel's and whose waiting lets others go on."""

from __future__ import annotations

import asyncio
from asyncio import BaseEventLoop

from tests.simulation.kernel import Kernel, Process

_FOR_EVER = 1e9


class Loop(BaseEventLoop):
    """What it reads no sockets for, it is told by its own process: `call_soon_threadsafe` is all that wakes it."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._selector = self
        # What a crash leaves behind is nobody's failure.
        self.set_exception_handler(lambda *_: None)

    def __del__(self) -> None:
        """It holds nothing that would have to be closed."""

    def time(self) -> float:
        return self._kernel.now

    def select(self, timeout: float | None) -> list[object]:
        """As a selector: wait for so long, or until there is something to do."""
        if timeout is None or timeout > 0.0:
            self._kernel.pause(_FOR_EVER if timeout is None else timeout, lambda: bool(self._ready))
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """It looks by itself."""


class OwnLoop:
    """As `LoopThread`: a loop in a task of its own, begun when somebody asks for it."""

    def __init__(self, kernel: Kernel, process: Process) -> None:
        self._kernel = kernel
        self._process = process
        self._loop: Loop | None = None

    @property
    def loop(self) -> Loop:
        if self._loop is None:
            self._loop = Loop(self._kernel)
            self._kernel.spawn(self._process, self._serve)
        return self._loop

    def _serve(self) -> None:
        loop = self._loop
        assert loop is not None
        try:
            loop.run_forever()
        finally:
            for task in asyncio.all_tasks(loop):
                task.get_coro().close()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
