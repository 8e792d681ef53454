"""The nursery: a process that has imported everything and forks children to be killed, as many as a test wants.

Starting an interpreter for each child would take most of the time. A child reports its steps through the pipe that
all of them share: `step PID WORDS`, and `end PID` when it ends by itself.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Nursery:
    """The end of the pipe that tests hold."""

    def __init__(self):
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._steps = Counter()
        self._ended = set()
        self._said = []

    def start(self, part, **arguments):
        """Fork a child that plays this part; returns its pid."""
        return int(self._ask(part=part, arguments=arguments))

    def watch(self, pid, steps):
        """Read on until the child has made so many steps more; False if it ended first."""
        goal = self._steps[pid] + steps
        while self._steps[pid] < goal and pid not in self._ended:
            self._hear()
        return self._steps[pid] >= goal

    def watch_any(self, pids, steps):
        """Read on until one of the children has made so many steps more; which one, or None if all ended first."""
        goals = {pid: self._steps[pid] + steps for pid in pids}
        while not self._ended.issuperset(pids):
            self._hear()
            for pid, goal in goals.items():
                if self._steps[pid] >= goal:
                    return pid
        return None

    def watch_for(self, pid, word):
        """Read on until the child says so."""
        while [str(pid), word] not in self._said:
            assert pid not in self._ended
            self._hear()

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def wait(self, pid):
        """Wait for the end of the child; returns its exit code, of a signal the negative."""
        return os.waitstatus_to_exitcode(int(self._ask(wait=pid)))

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, **request):
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        while (answer := self._hear()) is None:
            pass
        return answer

    def _hear(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the nursery is gone")
        word, *rest = line.split()
        match word:
            case "answer":
                return rest[0]
            case "step":
                self._steps[int(rest[0])] += 1
                self._said.append(rest)
            case "end":
                self._ended.add(int(rest[0]))
        return None


def main():
    from tests.chaos import parts

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            _say("answer", status)
            continue
        pid = os.fork()
        if pid == 0:
            _live(getattr(parts, request["part"]), request["arguments"])
        _say("answer", pid)


def _live(part, arguments):
    code = 1
    try:
        part(lambda *words: _say("step", os.getpid(), *words), **arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _say("end", os.getpid())
        os._exit(code)


def _say(*words):
    # One write: the pipe is shared, and what is written at once arrives in one piece.
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


if __name__ == "__main__":
    main()
