"""The demo: a shop reads two files, is killed half-way, starts again, and everything is counted.

python -m examples.demo [--keep FOLDER]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from examples.demo.audit import Audit, audit
from examples.demo.crash import KILLED
from examples.demo.screen import bold, dim, green, red, say, verdict

DIE_AT = 210


def main() -> int:
    given = arguments()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        return story(given.keep)
    with tempfile.TemporaryDirectory(prefix="earnorm-demo-") as folder:
        return story(Path(folder))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave shop.db and world.txt there, to look at")
    return parser.parse_args()


def story(folder: Path) -> int:
    if (folder / "shop.db").exists():
        say(red(f"{folder / 'shop.db'} is there already; name another folder"))
        return 2
    began = time.monotonic()
    say(bold("A shop, two files, one kill -9"))
    say(dim(f"   EarnORM on an embedded SQLite file, its worker in the same process. {folder}"))

    say()
    say(bold("1  The first start reads both files, handlers at work beside it"))
    first, ended = start(folder, str(DIE_AT))
    if ended != KILLED:
        say(red(f"   the first start was to be killed and ended with {ended}"))
        return 1
    say(red(f"   killed      at line {DIE_AT} of orders.csv, exit {ended}: a transaction open, handlers at work"))

    say()
    say(bold("2  What it left behind"))
    before = audit(folder, [first])
    tell_left_behind(before)

    say()
    say(bold("3  The second start, on the same file"))
    second, ended = start(folder)

    say()
    say(bold("4  The count"))
    after = audit(folder, [first, second])
    tell_refused(after)
    tell_rows(after)
    tell_handlers(after)
    return conclude(before, after, ended, time.monotonic() - began)


def start(folder: Path, *more: str) -> tuple[int, int]:
    """Run the shop to its end; its process id and how it ended."""
    shop = subprocess.Popen([sys.executable, "-m", "examples.demo.work", str(folder), *more])
    return shop.pid, shop.wait()


def tell_left_behind(left: Audit) -> None:
    line = left.bookmarks.get("orders.csv", 1)
    say(f"   bookmark    orders.csv, line {line}: the {DIE_AT - line} rows after it were written and never committed")
    for what, (rows, name, events) in left.rows.items():
        say(f"   {what:<17} {rows:>4} rows {events:>5} {name:<22} {verdict(rows == events)}")
    undelivered = sum(heard.lost for heard in left.handlers)
    say(f"   deliveries  {undelivered} not made yet, of {sum(heard.events for heard in left.handlers)}")


def tell_refused(found: Audit) -> None:
    say(f"   refused     {len(found.refused)} rows, each with its reason, nothing of it stored")
    for file, line, reason in found.refused:
        say(dim(f"      {file}:{line:<4} {reason}"))


def tell_rows(found: Audit) -> None:
    say()
    say("   rows                       events in the log")
    for what, (rows, name, events) in found.rows.items():
        say(f"   {what:<17} {rows:>7}  {name:<23} {events:>5}  {verdict(rows == events)}")
    spent, paid = found.spent
    say(f"   spent by users {spent / 100:>10.2f}  paid orders come to {paid / 100:>10.2f}  {verdict(spent == paid)}")


def tell_handlers(found: Audit) -> None:
    say()
    say("   handler               events   visits before / after the kill   twice   lost")
    for heard in found.handlers:
        visits = "{:>16} / {:<14}".format(*heard.visits)
        good = verdict(not heard.lost and not heard.foreign)
        say(f"   {heard.handler:<20} {heard.events:>7} {visits} {heard.twice:>6} {heard.lost:>6}  {good}")


def conclude(before: Audit, after: Audit, ended: int, seconds: float) -> int:
    faults = [*after.faults, *(f"after the kill, {what} and their events differed" for what in before.uneven)]
    if ended:
        faults.append(f"the second start ended with {ended}")
    if not sum(heard.lost for heard in before.handlers):
        faults.append("the kill came too late: nothing was left to deliver")
    say()
    for fault in faults:
        say(red(f"   {fault}"))
    if faults:
        return 1
    events = sum(heard.events for heard in after.handlers)
    twice = sum(heard.twice for heard in after.handlers)
    say(green(f"   Nothing lost: all {events} deliveries were made, {twice} of them twice."))
    say(dim("   Twice, where the kill came between a handler's work and the note of it: at least once is the promise."))
    say(dim("   The event.id is the same both times, so a receiver who knows it takes the second for the first."))
    say(dim(f"   {seconds:.1f} s"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
