"""A backlog: something to be worked off, again and again, by one contestant in a process of its own.

It answers each number on stdin with the seconds, by the clock on the wall, in which a backlog of so many was worked
off. What fills the backlog is outside of the clock. 0 asks for something else: the most memory that the process has
had, in MB.
"""

import gc
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = ["Backlog", "serve"]


class Backlog(Protocol):
    """One contestant."""

    def fill(self, count: int) -> None: ...

    def deliver(self, count: int) -> None: ...


def serve(build: Callable[[], Backlog]) -> None:
    try:
        backlog = build()
    except ImportError as error:
        print(f"missing not installed ({error.name or error})", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        if count == 0:
            print(most_memory(), flush=True)
            continue
        backlog.fill(count)
        gc.collect()
        started = time.perf_counter()
        backlog.deliver(count)
        print(time.perf_counter() - started, flush=True)


def most_memory() -> float:
    """In MB. Not by `getrusage` where there is another way: on Linux a process inherits what its parent has had."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
