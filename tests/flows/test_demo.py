"""The demo: a shop is killed half-way and started again; nothing is lost, and if something were, it would say so."""

import os
import pty
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from examples.demo.audit import audit, marks

ROOT = Path(__file__).parent.parent.parent
DEMO = [sys.executable, "-W", "error", "-m", "examples.demo"]
COUNTS = r"(?P<events>\d+) +(?P<before>\d+) / (?P<after>\d+) +(?P<twice>\d+) +(?P<lost>\d+)"
HANDLER = re.compile(rf"^ {{3}}\w+ +{COUNTS}  ok$", re.MULTILINE)

pytestmark = pytest.mark.timeout(180)


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_") and name != "NO_COLOR"}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), **more}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The demo, run once: how it ended, and the folder it left."""
    folder = tmp_path_factory.mktemp("demo")
    command = [*DEMO, "--keep", str(folder)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=150, check=False
    )
    return ended, folder


def processes(folder):
    return list(dict.fromkeys(mark.process for mark in marks(folder / "world.txt")))


def test_the_demo_ends_well_and_loses_nothing(shop):
    ended, folder = shop

    assert (0, "") == (ended.returncode, ended.stderr)
    assert "Nothing lost" in ended.stdout
    assert [] == audit(folder, processes(folder)).faults


def test_the_demo_is_killed_by_the_signal_no_process_survives(shop):
    ended, _ = shop

    assert re.search(r"killed +at line \d+ of orders\.csv, exit -9", ended.stdout)


def test_every_handler_saw_every_event_of_both_lives(shop):
    ended, _ = shop
    rows = [match.groupdict() for match in HANDLER.finditer(ended.stdout)]

    assert 6 == len(rows)
    for row in rows:
        assert "0" == row["lost"]
        assert int(row["events"]) + int(row["twice"]) <= int(row["before"]) + int(row["after"])


def test_bad_rows_are_refused_with_their_reasons_and_leave_nothing(shop):
    _, folder = shop
    found = audit(folder, [])

    assert 19 == len(found.refused)
    assert all(reason for _, _, reason in found.refused)
    assert 200 - 8 == found.rows["users"][0]
    assert 400 - 11 == found.rows["orders"][0]


def test_a_reader_who_is_no_terminal_gets_no_control_codes(shop):
    ended, _ = shop

    assert "\033" not in ended.stdout


@pytest.mark.parametrize("asked, coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(asked, coloured):
    ours, theirs = pty.openpty()
    say = "from examples.demo.screen import red, say; say(red('x'))"
    subprocess.run(
        [sys.executable, "-c", say], stdout=theirs, env=environment(TERM="xterm") | asked, check=True, timeout=60
    )
    os.close(theirs)
    with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        assert coloured == (b"\033[31m" in screen.read(100))


def copy_of(folder, to):
    with closing(sqlite3.connect(folder / "shop.db")) as source, closing(sqlite3.connect(to / "shop.db")) as target:
        source.backup(target)
    (to / "world.txt").write_bytes((folder / "world.txt").read_bytes())
    return to


def test_a_lost_delivery_would_be_found(shop, tmp_path):
    folder = copy_of(shop[1], tmp_path)
    lines = (folder / "world.txt").read_text().splitlines(keepends=True)
    victim = next(line.split()[1] for line in lines if line.startswith("send_receipt "))
    kept = [line for line in lines if not line.startswith(f"send_receipt {victim} ")]
    (folder / "world.txt").write_text("".join(kept))

    assert ["send_receipt: 1 events lost"] == audit(folder, []).faults


def test_a_row_without_its_event_would_be_found(shop, tmp_path):
    folder = copy_of(shop[1], tmp_path)
    with closing(sqlite3.connect(folder / "shop.db", isolation_level=None)) as db:
        db.execute("DELETE FROM users WHERE spent = 0 AND rowid = (SELECT min(rowid) FROM users WHERE spent = 0)")

    assert ["users: 191 rows, 192 user.created"] == audit(folder, []).faults


def test_a_folder_that_is_in_use_is_left_alone(shop):
    _, folder = shop
    command = [*DEMO, "--keep", str(folder)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60, check=False
    )

    assert 2 == ended.returncode
    assert "is there already" in ended.stdout
