"""Sharing: one worker and two that work off the same backlog, and one and two processes that only read it.

`python -m benchmarks.sharing NAME URL` answers as `benchmarks.backlog` says.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.backlog import Backlog, serve
from benchmarks.delivering import BATCH, PATIENCE, Ours, RawReader
from earnorm.slots import LAST_SLOT

__all__ = ["CONTESTANTS"]


class Helper:
    """The second of two: a process that is told how much there is, and answers how much of it was its own."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.sharing", name, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def begin(self, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()

    def end(self) -> int:
        return int(self._hear())


class ByTwo(Ours):
    """Two processes share the work; the time is until both see that nothing is left."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._helper = Helper("helper", url)

    def deliver(self, count: int) -> None:
        self._helper.begin(count)
        here = sum(self.database.drain(PATIENCE).values())
        assert count == here + self._helper.end()


def help_out(url: str) -> None:
    """The second of the two."""
    ours = Ours(url)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(sum(ours.database.drain(PATIENCE).values()), flush=True)


# --- by hand ---------------------------------------------------------------------------------


class HalfReader(RawReader):
    """One of two raw readers: it is sent the entries of half the slots, and each has a cursor of its own."""

    half = (0, LAST_SLOT // 2)

    async def _deliver(self, count: int) -> None:
        """Until nothing is left, as who shares a log cannot know how much of it is its own."""
        self.handled = 0
        end = self._all("SELECT max(position) FROM earnorm_log")[0][0]
        first, last = self.half
        while self._position < end:
            upto = self._position + 2 * BATCH
            rows = self._all(
                f"SELECT * FROM earnorm_log WHERE position > {self._position} AND position <= {upto} "
                f"AND slot BETWEEN {first} AND {last} ORDER BY position"
            )
            await self._handle(rows, 0)
            self._position = upto
            self.connection.execute(f"UPDATE {self.cursor} SET position = {upto}")
            self.connection.commit()
            self.handled += len(rows)
        self._position = end

    def _all(self, text: str) -> list[Any]:
        rows: list[Any] = self.connection.execute(text).fetchall()
        return rows


class OtherHalf(HalfReader):
    half = (LAST_SLOT // 2 + 1, LAST_SLOT)
    cursor = "other_cursor"


class TwoReaders(HalfReader):
    """What two processes reach on this machine, its server included, that split the log and do no more than read it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._helper = Helper("other_half", url)

    def deliver(self, count: int) -> None:
        self._helper.begin(count)
        asyncio.run(self._deliver(count))
        assert count == self.handled + self._helper.end()


def read_along(url: str) -> None:
    """The other reader."""
    reader = OtherHalf(url)
    print("ready", flush=True)
    for line in sys.stdin:
        reader.deliver(int(line))
        print(reader.handled, flush=True)


CONTESTANTS: dict[str, Callable[[str], Backlog]] = {
    "one": Ours,
    "two": ByTwo,
    "reader": RawReader,
    "two_readers": TwoReaders,
}
HELPERS = {"helper": help_out, "other_half": read_along}

if __name__ == "__main__":
    chosen, target = sys.argv[1:3]
    if chosen in HELPERS:
        HELPERS[chosen](target)
    else:
        serve(lambda: CONTESTANTS[chosen](target))
