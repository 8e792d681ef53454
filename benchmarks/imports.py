"""Imports: how long `import earnorm` takes beside what it stands on, and that it imports nothing optional."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.report import Row
from benchmarks.timing import Pace

__all__ = ["imports"]

SECTION = "Importing"
OURS, BASE = "import earnorm", "import sqlalchemy.orm"
# What `pip install earnorm` brings.
REQUIRED = {"earnorm", "sqlalchemy", "aiosqlite", "msgspec", "greenlet", "typing_extensions"}
# What interpreter and Cython make up on their own.
BUILT_IN = ("_sysconfigdata", "_cython_", "cython_runtime")
_TIMED = "import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"
_LISTED = "import json, sys; old = set(sys.modules); import earnorm; print(json.dumps(sorted(set(sys.modules) - old)))"


def imports(pace: Pace) -> Iterator[Row]:
    times: dict[str, list[float]] = {BASE: [], OURS: []}
    for _ in range(max(3, pace.rounds // 3) + 1):
        for statement, found in times.items():
            found.append(float(_python(_TIMED.format(statement=statement))))
    # The first of each wrote the bytecode.
    base, ours = (statistics.median(found[1:]) * 1e9 for found in times.values())
    yield Row(SECTION, f"{OURS}, beside {BASE}", ours / base, raw={BASE: base, OURS: ours})
    optional = _optional()
    remark = f"imported: {', '.join(optional)}" if optional else ""
    yield Row(SECTION, f"{OURS}: optional libraries imported", len(optional), "modules", target=0, remark=remark)


def _optional() -> list[str]:
    tops = {module.partition(".")[0] for module in json.loads(_python(_LISTED))}
    return sorted(top for top in tops - REQUIRED - sys.stdlib_module_names if not top.startswith(BUILT_IN))


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
