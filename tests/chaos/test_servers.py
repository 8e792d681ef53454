"""A server that stops, starts, ends connections and stays away, under load; the ledger says what became of it."""

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests import postgresql as postgres
from tests.chaos.cluster import Cluster
from tests.chaos.conftest import FULL
from tests.chaos.ledger import HANDLERS, recoveries

BATCH = 20
LONG, LEASE = 30.0, 5.0
# Seconds from a server's return to the first effect.
SOON = 5.0


@pytest.fixture
def cluster():
    # Not in pytest's own folder, which is its user's alone.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def place(request):
    if "cluster" in request.fixturenames:
        yield "PostgreSQL", request.getfixturevalue("cluster").url
    else:
        with postgres.database() as url:
            yield "PostgreSQL", url.render_as_string(hide_password=False)


def busy(pid):
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def effects(scene):
    return len(scene.ledger.read("effect"))


def wait_for_more(scene, than, seconds=60.0):
    """Until there are more effects than that."""
    give_up = time.monotonic() + seconds
    while effects(scene) <= than:
        assert time.monotonic() < give_up, "nothing is delivered any more"
        time.sleep(0.02)


def test_a_server_that_stops_at_once_and_comes_back_loses_nothing(cluster, scene, scale):
    """Again and again, with writers and a worker that never restart; the last time it stays away for long."""
    scene.prepare()
    writer = scene.start("persist", name="w", seed=scene.seed)
    worker = scene.start("serve", batch=BATCH, lease=LEASE)
    for _ in range(scale.restarts):
        wait_for_more(scene, than=effects(scene) + 20)
        cluster.stop("immediate")
        cluster.start()
        scene.moments.append(time.monotonic())
        scene.kills += 1
    wait_for_more(scene, than=effects(scene) + 20)
    cluster.stop("immediate")
    began, at = busy(worker), time.monotonic()
    time.sleep(scale.away)
    load = (busy(worker) - began) / (time.monotonic() - at)
    cluster.start()
    scene.moments.append(time.monotonic())
    scene.kills += 1
    wait_for_more(scene, than=effects(scene))
    wait_for_more(scene, than=effects(scene) + 20)
    scene.ledger.write("closed")
    for child in (writer, worker):
        assert 0 == scene.nursery.wait(child)
    scene.play("finish", batch=BATCH, lease=LEASE)

    verdict = scene.verify("server stopped")

    assert load < 0.2, "while the server is away the worker waits"
    assert verdict.duplicates <= scene.kills * BATCH * len(HANDLERS)
    if FULL:
        assert max(recoveries(scene.ledger, scene.moments)) < SOON


def test_a_worker_whose_connections_are_ended_again_and_again_loses_nothing(scene, scale):
    scene.prepare()
    scene.play("produce", name="p", transactions=scale.transactions, seed=scene.seed)
    name = scene.url.rpartition("/")[2]
    child = scene.start("finish", batch=5, lease=LONG)
    done = threading.Event()

    def end_them():
        while not done.wait(0.05) and scene.kills < scale.ended:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            scene.kills += len(postgres.admin().execute(ended, [name]).fetchall())

    # Opening a database needs it to be there; from its first effect on the worker has to bear with this.
    assert scene.nursery.watch(child, 1)
    ender = threading.Thread(target=end_them)
    ender.start()
    code = scene.nursery.wait(child)
    done.set()
    ender.join()

    assert 0 == code
    verdict = scene.verify("connections ended")
    assert verdict.duplicates <= scene.kills * 5 * len(HANDLERS)
