"""Forks after `connect()`, as gunicorn --preload and Celery's prefork pool make them: children share nothing."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")

SOURCE = Path(__file__).parents[2] / "src"
FORKING = Path(__file__).parent / "forking.py"
ALL = {0, *(100 * child + number for child in range(1, 5) for number in range(5))}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/app.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "handled.txt"
    file.touch()
    return file


@pytest.fixture
def tell(url, file):
    """Run a story of forking.py; what it said, line by line."""

    def run(story):
        # A fork beside threads is what is tested; newer Pythons warn of it, and rightly so elsewhere.
        command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(FORKING)]
        env = environment()
        ended = subprocess.run(
            [*command, story, url, str(file)], capture_output=True, text=True, env=env, timeout=100, check=False
        )
        assert (0, "") == (ended.returncode, ended.stderr)
        return ended.stdout.splitlines()

    return run


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_")}
    return kept | {"PYTHONPATH": str(SOURCE)}


def handled(file):
    """How often each number was handled, and in which processes."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return Counter(int(number) for number, _ in lines), {int(pid) for _, pid in lines}


def test_children_of_a_process_that_has_worked_already_work_too(tell, file):
    assert "codes [0]" in tell("preload")

    times, processes = handled(file)
    assert dict.fromkeys(ALL, 1) == dict(times)
    assert processes


def test_what_children_leave_behind_is_handled_by_those_that_stay(tell, file):
    tell("unclosed")

    # At least once: a child may end between a handler and the note that it is done.
    assert set(handled(file)[0]) == ALL


def test_a_database_connected_at_import_may_be_used_by_the_children_alone(tell, file):
    assert ["codes [0]"] == tell("unused")

    times, _ = handled(file)
    assert dict.fromkeys(ALL - {0}, 1) == dict(times)


def test_a_childs_commit_wakes_the_parents_worker(tell, file):
    assert ["codes [0]", "woken True"] == tell("woken")

    assert {0, 100, 101, 102, 103, 104} == set(handled(file)[0])


def test_a_child_has_neither_the_parents_lease_nor_its_name(tell, file):
    told = tell("lease")

    assert {"parent True", "child [] True", "codes [0]"} == set(told)
    assert {0: 1, 1: 1} == dict(handled(file)[0])


def test_a_transaction_open_at_the_fork_stays_the_parents(tell, file):
    told = tell("transaction")

    assert ["child sees 1", "codes [0]", "parent sees 2"] == told
    assert {1: 1, 2: 1} == dict(handled(file)[0])


def test_a_child_that_runs_the_parents_ends_does_it_no_harm(tell, file):
    assert "stored [1, 2]" in tell("unwound")

    assert {1: 1, 2: 1} == dict(handled(file)[0])


def test_a_child_does_not_wait_for_transactions_of_threads_it_does_not_have(tell):
    assert {"closed True", "codes [0]"} == set(tell("others_transaction"))


# --- a real server ---

SHOP = """
    import os

    from earnorm import BaseModel, IntegerField, connect, event_handler


    class Order(BaseModel):
        number = IntegerField(unique=True)


    @event_handler("order.created", name="ship")
    def ship(order):
        with open(os.environ["HANDLED"], "a") as file:
            file.write(f"{order.number} {os.getpid()}\\n")


    db = connect(os.environ["SHOP_URL"])
    # Used before the fork as well: its connections and its worker are the parent's.
    if not Order.find():
        Order(number=0).save()
    db.drain()


    def app(environ, start_response):
        Order(number=int(environ["PATH_INFO"].strip("/"))).save()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
"""


def test_gunicorn_preloads_the_application_and_its_workers_do_the_work(tmp_path, url, file):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed: pip install -e '.[dev]'")
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    env = environment() | {"HANDLED": str(file), "SHOP_URL": url}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, number = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "3", "--bind", f"fd://{number}", "shop:app"]
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=env,
            pass_fds=[number],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            # The socket listens already, so that the first request waits until a worker takes it.
            served = {order(port, n) for n in range(1, 21)}
        finally:
            server.send_signal(signal.SIGTERM)
            told, _ = server.communicate(timeout=60)
    # What was committed at the last moment is done by whoever connects next.
    subprocess.run([sys.executable, "-c", "import shop"], cwd=tmp_path, env=env, check=True, timeout=60)

    times, _ = handled(file)
    assert server.pid not in served
    assert "Traceback" not in told, told
    assert dict.fromkeys(range(21), 1) == dict(times)


def order(port, number):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=60) as answer:
        return int(answer.read())
