"""Latency: from a commit to the start of its handler in another process, at fifty a second; and what idling costs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Row
from benchmarks.saving import ROOT
from benchmarks.servers import KINDS, targets

__all__ = ["Span", "latency"]

SECTION = "From a commit to the start of its handler, at 50 a second"
IDLING = "An idle worker: share of a core"


@dataclass(frozen=True, slots=True)
class Span:
    """How many are told in a round, how many rounds there are, and for how many seconds a worker idles."""

    events: int
    rounds: int
    idle: int


RAW = {"SQLite": "watched", "PostgreSQL": "notified"}
NAMES = {"watched": "raw data_version poll", "notified": "raw LISTEN/NOTIFY"}
PEERS: dict[str, list[str]] = {"SQLite": [], "PostgreSQL": ["pgqueuer"]}
TARGETS: dict[str, tuple[float, float | None]] = {"SQLite": (2.0, None), "PostgreSQL": (1.8, 2.0)}
IDLE: dict[str, float | None] = {"SQLite": 2.0, "PostgreSQL": None}
# A raw loop crosses between its processes once where an engine does some ten times, so that a busy machine weighs ten
# times as much on the one: what fails a run is far beyond that.
GROSS = 400.0


class Process:
    def __init__(self, stack: ExitStack, name: str, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.hearing", name, url]
        pipe = subprocess.PIPE
        self._popen = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT))
        stack.callback(self._popen.terminate)
        self.missing = self._line().partition("missing ")[2]

    def _line(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def ask(self, line: str) -> Any:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n")
        self._popen.stdin.flush()
        return json.loads(self._line())


@dataclass(slots=True)
class Pair:
    """Who tells and who hears: two processes, or one."""

    teller: Process
    hearer: Process
    told: int = 0
    seconds: list[float] = field(default_factory=list[float])

    def round(self, count: int) -> None:
        told = self.teller.ask(f"tell {self.told} {count}")
        heard = self.hearer.ask(f"hear {count}")
        self.told += count
        self.seconds += [heard[number] - told[number] for number in told if number in heard]

    def quantile(self, share: float) -> float:
        """In nanoseconds. A handler that starts before its commit has returned took no time."""
        return max(0.0, sorted(self.seconds)[int(len(self.seconds) * share)]) * 1e9


def latency(span: Span) -> Iterator[Row]:
    for kind in KINDS:
        names = ["ours", RAW[kind], *PEERS[kind], "ours_here"]
        with targets(kind, names) as urls:
            if isinstance(urls, str):
                yield Row(SECTION, kind, 0, remark=urls)
                continue
            with ExitStack() as stack:
                pairs, missing = _pairs(stack, urls)
                for number in range(span.rounds + 1):
                    for pair in pairs.values():
                        pair.round(span.events)
                        if number == 0:
                            # For warming up.
                            pair.seconds.clear()
                idle = pairs["ours"].hearer.ask(f"rest {span.idle}")
        yield from _rows(kind, pairs, missing)
        yield Row(IDLING, kind, idle, "%", IDLE[kind], gross_at=20.0)


def _pairs(stack: ExitStack, urls: dict[str, str]) -> tuple[dict[str, Pair], dict[str, str]]:
    pairs: dict[str, Pair] = {}
    missing: dict[str, str] = {}
    for name, url in urls.items():
        hearer = Process(stack, name, url)
        if hearer.missing:
            missing[name] = hearer.missing
            continue
        hearer.ask("listen")
        pairs[name] = Pair(hearer if name == "ours_here" else Process(stack, name, url), hearer)
    return pairs, missing


def _rows(kind: str, pairs: dict[str, Pair], missing: dict[str, str]) -> Iterator[Row]:
    ours, raw = pairs["ours"], pairs[RAW[kind]]
    for share, target in zip((0.5, 0.95), TARGETS[kind], strict=True):
        beside = raw.quantile(share)
        peers: dict[str, float | str] = {
            name: pairs[name].quantile(share) / beside if name in pairs else missing[name] for name in PEERS[kind]
        }
        times = {
            NAMES[RAW[kind]]: beside,
            "earnorm": ours.quantile(share),
            "earnorm in one process": pairs["ours_here"].quantile(share),
        }
        what = f"{kind}: {share:.0%} are heard within, beside a {NAMES[RAW[kind]]}"
        yield Row(SECTION, what, times["earnorm"] / beside, "x", target, None, times, peers, gross_at=GROSS)
