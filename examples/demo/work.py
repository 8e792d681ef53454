"""The shop at work, in a process of its own: reads both files, delivers, and dies on the way if it is told to."""

import sys
import time
from pathlib import Path

from earnorm import connect
from examples.demo.importing import FILES, import_file
from examples.demo.screen import dim, say
from examples.demo.world import world

FATAL = "orders.csv"


def work(folder: Path, die_at: int | None) -> None:
    world.open(folder / "world.txt")
    with connect(f"sqlite:///{folder / 'shop.db'}") as db:
        for file in FILES:
            began = time.monotonic()
            if die_at and file == FATAL:
                say(f"   {file:<11} reading ...")
            lines = import_file(db, file, die_at if file == FATAL else None)
            if lines:
                say(f"   {file:<11} {lines} lines in {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        say(dim("   delivering; what the dead process had taken is taken over ..."))
        counts = db.drain(timeout=60)
        say(f"   delivered   {counts['done']} deliveries done, {time.monotonic() - began:.1f} s later")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
