"""A suite: SQLAlchemy's own tests of everything that writes, from the source distribution of the installed version.

It is unpacked into a folder that git ignores, and nothing of it is ours to keep.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import sqlalchemy

VERSION = sqlalchemy.__version__
ROOM = Path(__file__).parent.parent.parent / ".compat"
FOLDER = ROOM / f"sqlalchemy-{VERSION}"

# What needs an async driver, and tests nothing with another one.
ASYNCHRONOUS = "test/ext/asyncio/"
SHORT = (
    "test/orm/test_session.py",
    "test/orm/test_transaction.py",
    "test/orm/test_unitofwork.py",
    "test/orm/test_cascade.py",
    "test/ext/asyncio/test_session.py",
)
FULL = (
    *SHORT,
    "test/orm/test_unitofworkv2.py",
    "test/orm/dml",
    "test/orm/inheritance",
    "test/orm/test_association.py",
    "test/orm/test_attributes.py",
    "test/orm/test_backref_mutations.py",
    "test/orm/test_bind.py",
    "test/orm/test_collection.py",
    "test/orm/test_composites.py",
    "test/orm/test_cycles.py",
    "test/orm/test_dataclasses.py",
    "test/orm/test_defaults.py",
    "test/orm/test_deferred.py",
    "test/orm/test_dynamic.py",
    "test/orm/test_events.py",
    "test/orm/test_expire.py",
    "test/orm/test_hasparent.py",
    "test/orm/test_load_on_fks.py",
    "test/orm/test_manytomany.py",
    "test/orm/test_merge.py",
    "test/orm/test_naturalpks.py",
    "test/orm/test_onetoone.py",
    "test/orm/test_pickled.py",
    "test/orm/test_relationships.py",
    "test/orm/test_scoping.py",
    "test/orm/test_session_state_change.py",
    "test/orm/test_sync.py",
    "test/orm/test_validators.py",
    "test/orm/test_versioning.py",
    "test/ext/asyncio/test_cancellation.py",
    "test/ext/asyncio/test_scoping.py",
    *(f"test/ext/test_{name}.py" for name in ["associationproxy", "horizontal_shard", "mutable", "orderinglist"]),
)


def fetch():
    """Unpack the distribution, unless it is here already."""
    if (FOLDER / "test").is_dir():
        return
    ROOM.mkdir(parents=True, exist_ok=True)
    wanted = ["--no-binary", "sqlalchemy", "--no-deps", f"sqlalchemy=={VERSION}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", ROOM]
    subprocess.run([*command, *wanted], check=True)
    with tarfile.open(ROOM / f"sqlalchemy-{VERSION}.tar.gz") as archive:
        archive.extractall(ROOM, filter="data")


def run(modules, way, outcomes, jobs):
    """Run the modules with our hooks attached in this way ("none": without us); writes how each test ended."""
    found = {"outcomes": {}, "calls": Counter()}
    for driver in ("pysqlite", "aiosqlite"):
        some = [module for module in modules if module.startswith(ASYNCHRONOUS) == (driver == "aiosqlite")]
        part = outcomes.with_suffix(f".{driver}.json")
        part.unlink(missing_ok=True)
        _run(some, driver, way, part, jobs)
        ended = json.loads(part.read_text())
        found["outcomes"].update(ended["outcomes"])
        found["calls"].update(ended["calls"])
    outcomes.write_text(json.dumps(found))


def _run(modules, driver, way, outcomes, jobs):
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--tb=short", "--strict-markers", "-o", "addopts="),
        *("--nomemory", "--notimingintensive", "--nomypy", "--maxfail=0"),
        *("--dburi", f"sqlite+{driver}:///:memory:", "-p", "tests.compat.plugin", "-p", "warnings", "-p", "logging"),
        # Ours, and what a suite that was written without them does not expect.
        *(
            word
            for name in ("pytest_earnorm", "randomly", "asyncio", "timeout", "anyio")
            for word in ("-p", f"no:{name}")
        ),
        *(("-n", str(jobs)) if int(jobs) else ("-p", "no:xdist")),
        *(f"--compat-way={way}", f"--compat-outcomes={outcomes}"),
        *modules,
    ]
    # PYTHONNOUSERSITE makes the suite take the installed SQLAlchemy, not the one beside it.
    environment = {**_environment(), "PYTHONPATH": str(ROOM.parent), "PYTHONNOUSERSITE": "1"}
    log = outcomes.with_suffix(".txt")
    with log.open("w") as output:
        subprocess.run(command, cwd=FOLDER, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not outcomes.exists():
        raise SystemExit(f"the suite did not run with {way!r}; see {log}")


def _environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "EARNORM_"))}
