"""`earnorm worker`, as a supervisor runs it: real processes, real signals, on both databases."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from earnorm import connect, emit
from earnorm.cli import main

ROOT = Path(__file__).parents[2]

# A handler says what it does, and waits for a line of the pipe named `go` where its event asks for that.
SHOP = """
    import os, signal, sys
    from earnorm import connect, emit, event_handler, event_handler_async

    db = connect({url!r}, tables="create")

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    @event_handler("order.placed", name="ship")
    def ship(event, *, number, wait=False, end=""):
        say("begun", number, event.attempt, os.getpid())
        if end:
            # To this thread: of some signals a process dies by another one, and this one may come to its end before.
            signal.raise_signal(getattr(signal, end))
        if wait:
            with open({go!r}) as go:
                go.readline()
        say("done", number, event.attempt, os.getpid())

    @event_handler_async("order.counted", name="count", group="counting")
    async def count(event, *, number):
        say("counted", number, os.getpid())
"""


class Shop:
    """An application in a folder of its own, and the worker processes that a test starts for it."""

    def __init__(self, folder, url):
        self.folder, self.url, self.go = folder, url, folder / "go"
        self.started = []
        os.mkfifo(self.go)
        self.write(SHOP.format(url=url, go=str(self.go)))
        # What waits for `go` is let on by whoever opens it; kept open, so that nobody waits for a test that has ended.
        self._hold = os.open(self.go, os.O_RDWR)

    def write(self, source):
        (self.folder / "shop.py").write_text(textwrap.dedent(source))

    def worker(self, *options, app="shop:db"):
        command = [sys.executable, "-m", "earnorm.cli", "worker", app, *map(str, options)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_")}
        env |= {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
        process = subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(process)
        return process

    def working(self, *options):
        """A worker that has begun to work."""
        process = self.worker(*options)
        told(process, "started for 2 handlers")
        return process

    def emit(self, name, **payload):
        # Closed at once: the process under test is to be the only one that works.
        with connect(self.url, worker=False, name="test") as db, db.transaction():
            emit(name, **payload)

    def let_go(self):
        os.write(self._hold, b"go\n")

    def waiting(self):
        """What is set aside, and whether anything is not yet begun."""
        with connect(self.url, worker=False, name="test") as db, db.store.begin() as t:
            return [d.attempt for d in t.deliveries()], min(c.position for c in t.cursors()) < t.horizon()

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        os.close(self._hold)


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request, tmp_path):
    url = f"sqlite:///{tmp_path}/shop.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    made = Shop(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def one_shop(tmp_path):
    """Where the database makes no difference."""
    made = Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db")
    yield made
    made.close()


def told(process, words):
    """Read its log up to the line that says so; returns that line."""
    read = []
    for line in process.stderr:
        read.append(line)
        if words in line:
            return line
    raise AssertionError(f"never said {words!r}:\n{''.join(read)}")


def said(process):
    """The next line of a handler."""
    return process.stdout.readline().split()


def ended(process):
    """The exit code, what handlers said until then, and the log."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out.splitlines(), err


# --- one process ---


def test_a_worker_delivers_to_plain_and_async_handlers_until_it_is_asked_to_stop(shop):
    process = shop.working("--lease", "5s", "--concurrency", 3, "--threads", 2, "--grace", "25")
    shop.emit("order.placed", number=1)
    assert ["begun", "1", "1", str(process.pid)] == said(process)
    assert ["done", "1", "1", str(process.pid)] == said(process)
    shop.emit("order.counted", number=2)
    assert ["counted", "2", str(process.pid)] == said(process)

    process.terminate()

    code, out, log = ended(process)
    assert (0, []) == (code, out)
    assert "stopping; handlers that run have 25 s to end" in log
    assert log.endswith("stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_at_the_signal_is_finished_and_nothing_else_is_begun(shop, number):
    process = shop.working("--threads", 1)
    shop.emit("order.placed", number=1, wait=True)
    assert "begun" == said(process)[0]
    shop.emit("order.placed", number=2)

    process.send_signal(number)
    told(process, "stopping")
    shop.let_go()

    code, out, _ = ended(process)
    assert (0, ["done 1 1 " + str(process.pid)]) == (code, out)
    assert ([], True) == shop.waiting()


def test_what_outlasts_the_grace_is_given_back_and_was_no_attempt(shop):
    process = shop.working("--grace", 0)
    shop.emit("order.placed", number=1, wait=True)
    assert "begun" == said(process)[0]

    process.terminate()

    assert (0, []) == ended(process)[:2]
    again = shop.working()
    assert ["begun", "1", "1", str(again.pid)] == said(again)
    shop.let_go()
    assert "done" == said(again)[0]


def test_a_signal_that_comes_twice_in_a_moment_is_one(shop):
    """As `timeout` sends it, and many a supervisor: to the process, and to its group. The worker ended at once."""
    process = shop.working()
    shop.emit("order.placed", number=1, wait=True)
    assert "begun" == said(process)[0]

    process.terminate()
    process.terminate()
    told(process, "stopping")
    shop.let_go()

    code, out, _ = ended(process)
    assert (0, ["done 1 1 " + str(process.pid)]) == (code, out)


def test_a_second_signal_ends_at_once_with_128_and_its_number(shop):
    process = shop.working()
    shop.emit("order.placed", number=1, wait=True)
    assert "begun" == said(process)[0]

    process.terminate()
    told(process, "stopping")
    process.send_signal(signal.SIGINT)

    assert (130, []) == ended(process)[:2]


def test_a_database_that_the_module_has_used_already_is_worked_all_the_same(one_shop):
    one_shop.write(SHOP.format(url=one_shop.url, go=str(one_shop.go)) + "\n    db.drain()\n")
    process = one_shop.working()
    one_shop.emit("order.placed", number=1)
    assert "begun" == said(process)[0]
    process.terminate()

    assert 0 == ended(process)[0]


# --- groups, pauses ---


def test_a_worker_may_keep_to_some_groups(shop):
    process = shop.worker("--group", "counting", "--group", "others")
    told(process, "started for 1 handler,")
    shop.emit("order.placed", number=1)
    shop.emit("order.counted", number=2)
    assert ["counted", "2", str(process.pid)] == said(process)
    process.terminate()

    assert (0, []) == ended(process)[:2]
    again = shop.working()
    assert ["begun", "1", "1", str(again.pid)] == said(again)


def command(shop, *words):
    told = CliRunner().invoke(main, [*words], env={"EARNORM_DATABASE_URL": shop.url})
    assert told.exit_code in (0, 1), told.output
    return told.stdout


def subscription(shop, name):
    found = json.loads(command(shop, "status", "--json"))["subscriptions"]
    return next(one for one in found if one["name"] == name)


def test_all_workers_heed_a_pause_and_a_resumption(shop):
    """A worker that has seen the pause gives the paused handler a cursor of its own, which nobody works."""
    parent, _ = fleet(shop)
    shop.emit("order.placed", number=1)
    assert [["begun", "1"], ["done", "1"]] == [said(parent)[:2], said(parent)[:2]]

    began = time.monotonic()
    command(shop, "pause", "ship")
    shop.emit("order.counted", number=2)
    assert "counted" == said(parent)[0]
    while not subscription(shop, "ship")["apart"]:
        assert time.monotonic() - began < 10
    shop.emit("order.placed", number=3)
    shop.emit("order.counted", number=4)
    assert ["counted", "4"] == said(parent)[:2]
    assert subscription(shop, "ship")["waiting"] >= 1

    command(shop, "resume", "ship")
    assert ["begun", "3", "1"] == said(parent)[:3]
    parent.terminate()
    assert 0 == ended(parent)[0]


# --- what cannot be started ---


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs the command here, on a module with this source; its exit code and its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def run(source, *options, db="db"):
        name = f"{tmp_path.name}_{len(made)}".replace("-", "_")
        made.append(name)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        told = CliRunner().invoke(main, ["worker", f"{name}:{db}" if db else name, *map(str, options)])
        assert "" == told.stdout
        (line,) = [line for line in told.stderr.splitlines() if line.startswith("Error:")]
        return told.exit_code, line.replace(name, "shop")

    return run


def test_a_module_that_cannot_be_imported_ends_with_two(refused):
    told = refused("import not_there")

    assert (2, "Error: shop:db: importing shop failed: ModuleNotFoundError: No module named 'not_there'") == told


@pytest.mark.parametrize("code", [0, "'no settings'"])
def test_a_module_that_ends_the_process_ends_with_two(refused, code):
    """A script without a guard: the worker ended with 0 and without a word, and a fleet began it again for ever."""
    told = refused(f"import sys\n\nsys.exit({code})")

    assert (2, f"Error: shop:db: importing shop failed: SystemExit: {str(code).strip(chr(39))}") == told


def test_what_is_no_database_ends_with_two(refused):
    assert (2, "Error: 'shop' names no database; write module:db, as in shop.models:db") == refused("", db="")
    assert (2, "Error: shop:db is int, not what connect() returns") == refused("db = 1")
    assert 2 == refused("", "--concurrency", 0)[0]
    assert 2 == refused("", "--processes", 0)[0]
    assert (2, True) == ended_with(refused("", "--lease", "a while"), "'a while' is no duration")
    assert (2, True) == ended_with(refused("", "--lease", "0.5"), "at least 1 s")


def test_a_group_that_no_handler_is_in_ends_with_two(refused, tmp_path):
    told = refused(SHOP.format(url=f"sqlite:///{tmp_path}/shop.db", go=""), "--group", "nobody")

    assert (2, True) == ended_with(told, "no handler of group 'nobody' is known here; known groups: counting, default")


def ended_with(told, words):
    return told[0], words in told[1]


def test_a_database_that_is_closed_ends_with_two(refused):
    code, line = refused("from earnorm import connect\n\ndb = connect('sqlite://', name='closed')\ndb.close()")

    assert 2 == code
    assert "closed" in line


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_missing_tables_end_with_one(refused, request, tmp_path, dialect):
    url = f"sqlite:///{tmp_path}/shop.db" if dialect == "sqlite" else request.getfixturevalue("postgresql")

    code, line = refused(SHOP.format(url=url, go="").replace('tables="create"', 'tables="check"'))

    assert 1 == code
    assert "earnorm db upgrade" in line


@pytest.mark.parametrize("tables", ["create", "check", "none"])
def test_a_database_of_a_newer_version_ends_with_one(refused, tmp_path, tables):
    url = f"sqlite:///{tmp_path}/shop.db"
    with connect(url, worker=False) as db, db.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO earnorm_schema (step) VALUES (99)")

    code, line = refused(SHOP.format(url=url, go="").replace('tables="create"', f'tables="{tables}"'))

    assert 1 == code
    assert "the log's tables are at step 99" in line
    assert "upgrade the package" in line


def test_a_server_that_does_not_answer_ends_with_three(refused):
    code, line = refused(SHOP.format(url="postgresql+psycopg://ada:secret@127.0.0.1:1/shop", go=""))

    assert 3 == code
    assert "ada:***@127.0.0.1" in line


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_for_a_silent_server_stops_at_once(one_shop, processes, number):
    """It was heard of when the server answered, or a minute or two later, when the driver gave up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        one_shop.write(SHOP.format(url=f"postgresql+psycopg://ada@127.0.0.1:{port}/shop", go=""))
        process = one_shop.worker("--processes", processes)
        silent, _ = server.accept()
        process.send_signal(number)

        code, out, log = ended(process)
        silent.close()
    assert (0, []) == (code, out)
    assert "stopped before it had started" in log
    assert "Traceback" not in log


def test_a_module_without_handlers_is_told(one_shop):
    one_shop.write(f"from earnorm import connect\n\ndb = connect({one_shop.url!r})\n")
    process = one_shop.worker()
    told(process, "no durable handler is known here; let the module named on the command line import")
    told(process, "started for 0 handlers")
    process.terminate()

    assert 0 == ended(process)[0]


# --- several processes ---


def fleet(shop, *options, size=2):
    """The parent, and the pids of its processes once all have started."""
    process = shop.worker("--processes", size, *options)
    return process, [pid_of(told(process, "started for 2 handlers")) for _ in range(size)]


def pid_of(line):
    return int(line.partition("[")[2].partition("]")[0])


def test_processes_are_started_stopped_together_and_end_with_zero(one_shop):
    parent, pids = fleet(one_shop, size=3)
    one_shop.emit("order.placed", number=1, wait=True)
    begun = said(parent)
    assert int(begun[3]) in pids

    parent.terminate()
    told(parent, "stopping 3 worker processes")
    one_shop.let_go()

    code, out, log = ended(parent)
    assert (0, [f"done 1 1 {begun[3]}"]) == (code, out)
    assert [] == [pid for pid in pids if is_alive(pid)]
    assert "Traceback" not in log


def test_what_keeps_the_first_process_from_starting_ends_the_parent_with_its_code(one_shop):
    one_shop.write("import not_there")

    code, out, log = ended(one_shop.worker("--processes", 3))

    assert (2, []) == (code, out)
    assert ["Error: shop:db: importing shop failed: ModuleNotFoundError: No module named 'not_there'"] == [
        line for line in log.splitlines() if "not_there" in line
    ]


def test_processes_that_are_killed_are_started_again_and_their_deaths_are_counted(shop):
    parent, pids = fleet(shop)
    os.kill(pids[0], signal.SIGKILL)

    told(parent, f"(pid {pids[0]}) died of SIGKILL; another one starts in 0.5 s")
    second = pid_of(told(parent, "started for 2 handlers"))
    os.kill(second, signal.SIGKILL)
    told(parent, f"(pid {second}) died of SIGKILL, death 2 in a row; another one starts in 1 s")
    third = pid_of(told(parent, "started for 2 handlers"))
    shop.emit("order.placed", number=1)
    assert int(said(parent)[3]) in {third, pids[1]}
    parent.terminate()

    assert 0 == ended(parent)[0]
    assert not is_alive(third)


def test_a_handler_that_crashes_its_process_leaves_the_parent_standing_and_shows(one_shop):
    parent, _ = fleet(one_shop)
    one_shop.emit("order.placed", number=1, end="SIGSEGV")

    told(parent, "died of SIGSEGV; another one starts in")
    told(parent, "died of SIGSEGV")
    assert parent.poll() is None
    parent.terminate()

    assert parent.wait(60) in (0, 4)


def test_a_process_that_dies_while_it_stops_ends_with_four(one_shop):
    parent, pids = fleet(one_shop)
    one_shop.emit("order.placed", number=1, wait=True)
    busy = int(said(parent)[3])
    assert busy in pids
    parent.terminate()
    told(parent, "stopping 2 worker processes")
    os.kill(busy, signal.SIGKILL)

    assert 4 == ended(parent)[0]


def test_a_second_signal_to_the_parent_ends_all_at_once(one_shop):
    parent, pids = fleet(one_shop)
    one_shop.emit("order.placed", number=1, wait=True)
    assert "begun" == said(parent)[0]

    parent.terminate()
    told(parent, "stopping 2 worker processes")
    parent.send_signal(signal.SIGINT)

    assert 130 == ended(parent)[0]
    assert [] == [pid for pid in pids if is_alive(pid)]


def test_processes_stop_when_their_parent_is_killed(one_shop):
    parent, pids = fleet(one_shop)
    parent.kill()

    # The pipes are closed when the last process that has them has ended.
    assert -signal.SIGKILL == ended(parent)[0]
    assert [] == [pid for pid in pids if is_alive(pid)]


def is_alive(pid):
    """A zombie is not: an orphan of a container without an init stays one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
