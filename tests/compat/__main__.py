"""Somebody else's tests: `make compat` runs SQLAlchemy's own suite without our hooks and with them, and compares.

COMPAT=short takes the modules and the way that show most; `full` all of them. How the suite ends without us is
remembered per version of SQLAlchemy, beside it.
"""

import json
import os
import sys
import time
from collections import Counter

from tests.compat import suite
from tests.compat.verdict import Verdict

FORMS = {"short": (suite.SHORT, ("quiet", "events")), "full": (suite.FULL, ("quiet", "hooks", "events", "log"))}


def main():
    form = os.environ.get("COMPAT", "full")
    if form not in FORMS:
        raise SystemExit(f"COMPAT={form}: expected one of {', '.join(FORMS)}")
    modules, ways = FORMS[form]
    suite.fetch()
    print(f"SQLAlchemy {suite.VERSION}, {form}: {len(modules)} modules and folders")
    baseline, _ = outcomes(form, modules, "none", remembered=True)
    broken = 0
    for way in ways:
        with_us, calls = outcomes(form, modules, way, remembered=False)
        broken += report(Verdict(baseline, with_us, way), calls)
    return 1 if broken else 0


def outcomes(form, modules, way, *, remembered):
    path = suite.ROOM / f"{suite.VERSION}-{form}-{way}.json"
    if not (remembered and path.exists()):
        path.unlink(missing_ok=True)
        started = time.monotonic()
        suite.run(modules, way, path, os.environ.get("JOBS", "0"))
        print(f"ran with {way!r} in {time.monotonic() - started:.0f} s", flush=True)
    found = json.loads(path.read_text())
    return found["outcomes"], found["calls"]


def report(verdict, calls):
    """Print the table; returns how many tests are broken."""
    heard = ", ".join(f"{number} {name}" for name, number in sorted(calls.items()))
    print(f"\nOur hooks attached: {verdict.way}. {heard}\n")
    rows = verdict.table()
    total = ("all", *(sum(row[i] for row in rows) for i in range(1, 5)))
    print(f"{'module':52} {'without us':>10} {'with us':>8} {'broken':>7} {'exempt':>7}")
    for module, without, with_us, broken, exempt in [*rows, total]:
        print(f"{module:52} {without:10} {with_us:8} {broken:7} {exempt:7}")
    for why, number in Counter(verdict.exempt.values()).items():
        print(f"exempt: {number}: {why}")
    for test, outcome in verdict.broken.items():
        print(f"\nbroken: {test}\n{outcome}")
    if verdict.way != "quiet" and not calls.get("hooks"):
        raise SystemExit("no hook was called: nothing was attached, and nothing is shown")
    return total[3]


if __name__ == "__main__":
    sys.exit(main())
