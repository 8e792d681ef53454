"""Celery: tasks in a prefork pool save, their hooks run there, and what they commit is handled once."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest

from tests.postgresql import missing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")

SOURCE = Path(__file__).parents[2] / "src"
BROKER = os.environ.get("EARNORM_CELERY_BROKER", "redis://127.0.0.1:6379/0")

# Connected, and used, in the process that Celery's pool is forked from.
SHOP = """
import os
from pathlib import Path

from celery import Celery

from earnorm import BaseModel, IntegerField, connect, event_handler, post_save

app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BROKER"])
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
app.conf.broker_connection_retry_on_startup = True


def note(what, number):
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{what} {number} {os.getpid()}\\n")


class Order(BaseModel):
    number = IntegerField(unique=True)

    @post_save
    def seen(self):
        note("hook", self.number)


@event_handler("order.created", name="ship")
def ship(order):
    note("shipped", order.number)


db = connect(os.environ["SHOP_URL"])


@app.task
def order(number):
    Order(number=number).save()


@app.task
def fail(number):
    with db.transaction():
        Order(number=number).save()
        raise RuntimeError("rolled back")


@app.task
def drain():
    return "failed" in db.drain()


Order(number=0).save()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/app.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")


@pytest.fixture
def broker():
    """The broker's URL; what a test leaves in it are empty queues of its own name."""
    kombu = pytest.importorskip("kombu", reason="Celery is not installed: pip install -e '.[dev]'")
    try:
        with kombu.Connection(BROKER, connect_timeout=1) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
    except (OSError, ImportError, kombu.exceptions.OperationalError) as error:
        missing(f"Redis does not answer at {BROKER} ({error}); start it with: make services SERVICES=redis")
    return BROKER


@pytest.fixture
def queue():
    return uuid4().hex


@pytest.fixture
def notes(tmp_path):
    """What was noted: what it was, of which number, in which process."""
    (tmp_path / "notes.txt").touch()

    def read():
        found = [line.split() for line in (tmp_path / "notes.txt").read_text().splitlines()]
        return [(what, int(number), int(process)) for what, number, process in found]

    return read


@pytest.fixture
def worker(tmp_path, url, broker, queue):
    """A worker of Celery's with two forked children, and what it has said once it has stopped."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_")}
    ours = {"SHOP_URL": url, "SHOP_BROKER": broker, "SHOP_QUEUE": queue, "NOTES": str(tmp_path / "notes.txt")}
    options = ["--pool", "prefork", "-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel", "WARNING", *options],
        cwd=tmp_path,
        env=kept | ours | {"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def stop():
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=60)[0]

    yield process.pid, stop
    if process.returncode is None:
        stop()


@pytest.fixture
def run(broker, queue):
    """Have tasks run by the pool, all at once; what each gave back."""
    celery = pytest.importorskip("celery")
    with celery.Celery(broker=broker, backend=broker) as app:

        def run(*tasks):
            sent = [app.send_task(f"shop.{name}", arguments, queue=queue) for name, *arguments in tasks]
            found = [result.get(timeout=60, propagate=False) for result in sent]
            for result in sent:
                result.forget()
            return found

        yield run
        client = app.backend.client
        # Its queue's bindings, which Redis would keep.
        client.delete(*client.scan_iter(f"*{queue}*"))
        client.close()


def test_tasks_of_a_prefork_pool_tell_their_events_once(worker, run, notes):
    parent, stop = worker

    found = run(*(("order", number) for number in range(1, 21)), ("fail", 99))
    assert [False] == run(("drain",))
    said = stop()

    hooks = Counter(number for what, number, _ in notes() if what == "hook")
    assert "rolled back" == str(found[-1])
    assert Counter([*range(21), 99]) == hooks
    assert Counter(range(21)) == Counter(number for what, number, _ in notes() if what == "shipped")
    assert parent not in {process for what, number, process in notes() if what == "hook" and number}
    assert 1 == said.count("Traceback"), said
