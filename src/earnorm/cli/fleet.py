"""A fleet: worker processes of one application under a parent that starts them, and starts again those that die."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import click

from earnorm.cli.foreground import Settings, log_to_stderr, serve_as_child
from earnorm.cli.signals import heard

__all__ = ["Fleet"]

_log = logging.getLogger("earnorm.worker")

# Seconds until one that died is started again, doubled by each death in a row; and of a life that ends the row.
_AGAIN, _LONGEST, _SETTLED = 0.5, 30.0, 60.0
# Seconds beyond the grace after which one that does not end is killed.
_MARGIN = 15.0
# Seconds between two looks at who has ended, if nothing is said.
_LOOK = 1.0
# What a process ends with that cannot begin at all (`earnorm.cli.failures`).
_CANNOT_BEGIN = (1, 2, 3)
_ENDED_BADLY = 4

# Not a fork: the parent has threads and connections of an application that it has not even imported.
_spawn = multiprocessing.get_context("spawn")


@dataclass(slots=True, eq=False)
class _Child:
    """One process. `started` is when it began to work, None until then."""

    number: int
    process: SpawnProcess
    pipe: Connection
    started: float | None = None

    def __str__(self) -> str:
        return f"worker process {self.number} (pid {self.process.pid})"


class Fleet:
    """`size` workers of `app`. The parent knows nothing of it, so that nothing of it can take the parent down."""

    def __init__(self, app: str, settings: Settings, size: int) -> None:
        self._app = app
        self._settings = settings
        self._numbers = range(1, size + 1)
        self._children: list[_Child] = []
        self._due: dict[int, float] = {}
        self._deaths: dict[int, int] = {}
        self._proven = False

    def run(self) -> int:
        """Work until a signal comes; returns the exit code."""
        with heard(at_the_second=self._kill) as asked:
            # The first one alone: what keeps it from starting keeps all of them, and is then said once.
            self._begin(self._numbers[0])
            while True:
                ready = self._listen(asked, seconds=self._until_due())
                if asked in ready:
                    return self._stop()
                for child, code in self._ended():
                    if not self._proven and code in _CANNOT_BEGIN:
                        return code
                    self._mourn(child, code)
                self._begin_due()

    # --- beginning ---------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        pipe, theirs = _spawn.Pipe()
        process = _spawn.Process(
            target=_live, args=(self._app, self._settings, theirs), name=f"earnorm-worker-{number}", daemon=False
        )
        process.start()
        # Theirs alone, so that it ends with them.
        theirs.close()
        self._children.append(_Child(number, process, pipe))

    def _until_due(self) -> float:
        return min(self._due.values()) - time.monotonic() if self._due else _LOOK

    def _begin_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._begin(number)

    # --- hearing of them ---------------------------------------------------------------------

    def _listen(self, *others: Connection, seconds: float) -> list[Any]:
        """Wait for word of the children, or of others; returns who said something."""
        ready = wait([*others, *(child.pipe for child in self._children)], max(0.0, min(seconds, _LOOK)))
        for child in [child for child in self._children if child.pipe in ready]:
            self._hear(child)
        return ready

    def _hear(self, child: _Child) -> None:
        try:
            child.pipe.recv_bytes()
        except (EOFError, OSError):
            # Who lets go of the pipe dies in this moment.
            child.process.join(_LOOK)
            return
        child.started = time.monotonic()
        if not self._proven:
            self._proven = True
            self._due = dict.fromkeys(self._numbers[1:], child.started)

    def _ended(self) -> Iterator[tuple[_Child, int]]:
        """Those that have ended, with their exit code; of a signal the negative."""
        # Asked of the system: a pipe stays open for as long as any process has it that a handler has forked.
        for child in tuple(self._children):
            code = child.process.exitcode
            if code is not None:
                self._children.remove(child)
                child.pipe.close()
                yield child, code

    def _mourn(self, child: _Child, code: int) -> None:
        """Note a death, and when another one takes its place."""
        now = time.monotonic()
        if child.started is not None and now - child.started >= _SETTLED:
            self._deaths.pop(child.number, None)
        deaths = self._deaths[child.number] = self._deaths.get(child.number, 0) + 1
        pause = min(_AGAIN * 2.0 ** min(deaths - 1, 10), _LONGEST)
        self._due[child.number] = now + pause
        row = f", death {deaths} in a row" if deaths > 1 else ""
        _log.error("%s %s%s; another one starts in %g s", child, _how(code), row, pause)

    # --- ending ------------------------------------------------------------------------------

    def _stop(self) -> int:
        _log.info("stopping %d worker processes", len(self._children))
        for child in self._children:
            _tell(child)
            if child.started is None:
                # Nobody reads the pipe there yet.
                child.process.terminate()
        until = time.monotonic() + self._settings.grace + _MARGIN
        worst = 0
        while self._children:
            self._listen(seconds=_LOOK)
            if time.monotonic() >= until:
                _log.error("%s did not end; killing what is left", ", ".join(map(str, self._children)))
                self._kill()
            for child, code in self._ended():
                # One that had nothing under way yet has left nothing undone.
                if code and child.started is not None:
                    _log.error("%s %s", child, _how(code))
                    worst = _ENDED_BADLY
        return worst

    def _kill(self) -> None:
        for child in self._children:
            child.process.kill()


def _tell(child: _Child) -> None:
    try:
        child.pipe.send_bytes(b"stop")
    except OSError:  # it has just died, and is found so at once
        _log.debug("%s is gone already", child)


def _how(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _live(app: str, settings: Settings, parent: Connection) -> None:
    """A child's life."""
    log_to_stderr()
    try:
        serve_as_child(app, settings, parent)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
