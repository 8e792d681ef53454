"""Beside: contestants that save by turns in one process, and so with the same memory at the same places.

Two processes of one program differ by more than what a hook adds, each for all its life. What is compared here shares
one, and only what the two do not share may lie better or worse; many processes one after the other, each with its
memory elsewhere, say how much that is. While a contestant has its turn, every Session has the listeners that it would
have in a process of its own, and no others. `python -m benchmarks.beside FOLDER ROUNDS` says what it found as JSON.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import saving
from benchmarks.saving import Turn
from benchmarks.timing import Cast

__all__ = ["Beside", "beside"]

PLAIN = "plain"
# Saves a turn: those that warm the caches again after the turns of the others, and those that count.
WARMING, COUNTED = 4, 12
TRIED = 100


@dataclass(frozen=True, slots=True)
class Beside:
    """What contestants took, nanoseconds a save, a value a process; and how many functions a save of each calls."""

    took: Mapping[str, Cast]
    added: Mapping[str, Cast]
    """Beyond plain SQLAlchemy, round by round: what else the machine did then, it did to both."""
    calls: Mapping[str, int]


def beside(processes: int, rounds: int) -> Beside:
    found = [_run(rounds) for _ in range(processes)]
    took, added, calls = ([each[part] for each in found] for part in ("took", "added", "calls"))
    return Beside(_casts(took), _casts(added), calls[0])


def _run(rounds: int) -> Any:
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.beside", folder, str(rounds)]
        answer = subprocess.run(command, cwd=saving.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


def _casts(found: list[dict[str, float]]) -> dict[str, Cast]:
    return {name: Cast(tuple(each[name] for each in found)) for name in found[0]}


# --- in the process itself -------------------------------------------------------------------


Listeners = dict[str, Callable[..., None]]


@dataclass(frozen=True, slots=True)
class _Contestant:
    turn: Turn
    listeners: Listeners


def _contestants(folder: Path) -> dict[str, _Contestant]:
    from earnorm.backends.sqlalchemy import flushing

    theirs: Listeners = {}
    turns = {
        PLAIN: saving.plain(folder / "plain.db"),
        "plain_again": saving.plain(folder / "again.db"),
        "plain_listeners": saving.plain_listeners(folder / "listeners.db", theirs),
        "no_hook_no_log": saving.no_hook_no_log(folder / "neither.db"),
        "hooks": saving.hooks(folder / "hooks.db"),
    }
    ours = flushing._LISTENERS
    for listeners in (theirs, ours):
        _take_away(listeners)
    heard = {"plain_listeners": theirs, "no_hook_no_log": ours, "hooks": ours}
    return {name: _Contestant(turn, heard.get(name, {})) for name, turn in turns.items()}


@contextmanager
def _listening(contestant: _Contestant) -> Iterator[None]:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    # Those of a plain Session come and go as well, before its turn: so that all find the caches in the same disorder.
    listeners = contestant.listeners or {"before_commit": _nothing, "after_commit": _nothing, "after_begin": _nothing}
    for name, listener in listeners.items():
        event.listen(Session, name, listener)
    if contestant.listeners:
        yield
    _take_away(listeners)
    if not contestant.listeners:
        yield


def _nothing(*_: Any) -> None:
    """A listener that nobody calls."""


def _take_away(listeners: Mapping[str, Callable[..., None]]) -> None:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    for name, listener in listeners.items():
        event.remove(Session, name, listener)


def _measured(contestants: Mapping[str, _Contestant], rounds: int) -> dict[str, dict[str, float]]:
    calls = {name: _calls(contestant) for name, contestant in contestants.items()}
    gc.collect()
    gc.freeze()
    gc.disable()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    chance = Random(rounds)
    for _ in range(rounds):
        # In another order each time: whoever comes after a model with hooks would always find other caches.
        for name in chance.sample(names, len(names)):
            seconds[name].append(_clocked(contestants[name]))
    added = {name: median(map(float.__sub__, mine, seconds[PLAIN])) * 1e9 for name, mine in seconds.items()}
    return {"took": {name: median(mine) * 1e9 for name, mine in seconds.items()}, "added": added, "calls": calls}


def _clocked(contestant: _Contestant) -> float:
    with _listening(contestant):
        for number in range(WARMING):
            contestant.turn(number)
        started = time.process_time()
        for number in range(COUNTED):
            contestant.turn(number)
        return (time.process_time() - started) / COUNTED


def _calls(contestant: _Contestant) -> int:
    """How many functions written in Python one save calls, once all is warm."""
    counted = 0

    def count(_frame: object, what: str, _argument: object) -> None:
        nonlocal counted
        counted += what == "call"

    with _listening(contestant):
        for number in range(TRIED):
            contestant.turn(number)
        sys.setprofile(count)
        try:
            contestant.turn(TRIED)
        finally:
            sys.setprofile(None)
    return counted


if __name__ == "__main__":
    print(json.dumps(_measured(_contestants(Path(sys.argv[1])), int(sys.argv[2]))))
