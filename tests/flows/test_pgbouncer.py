"""Behind a PgBouncer in transaction mode, where the next transaction may be another session's."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from earnorm import BaseModel, StringField, connect, emit, event_handler, event_handler_async
from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from tests import postgresql as postgres
from tests.flows.stories import log
from tests.flows.waking import EVENTUALLY, until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed; on Debian: apt-get install pgbouncer"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def url():
    """A fresh database, by way of a PgBouncer with two sessions for everybody."""
    port = free_port()
    # Not pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as place, postgres.database() as direct:
        folder = Path(place)
        (folder / "users.txt").write_text(f'"{direct.username}" "{direct.password or ""}"\n')
        (folder / "bouncer.ini").write_text(
            f"""[databases]
* = host={direct.host} port={direct.port or 5432} user={direct.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 2
unix_socket_dir =
ignore_startup_parameters = extra_float_digits
"""
        )
        via = direct.set(host="127.0.0.1", port=port)
        with subprocess.Popen(
            [PROGRAM, "-q", folder / "bouncer.ini"],
            stderr=subprocess.PIPE,
            **as_somebody_else(folder),
        ) as process:
            try:
                wait_for(process, via)
                yield via.render_as_string(hide_password=False)
            finally:
                process.terminate()
                process.communicate()


def as_somebody_else(folder):
    """It refuses to run as root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody.pw_uid, -1)
    return {"user": nobody.pw_uid}


def wait_for(process, url):
    while process.poll() is None:
        try:
            psycopg.connect(postgres.libpq(url)).close()
        except psycopg.OperationalError:
            continue
        return
    raise AssertionError(process.stderr.read().decode())


def test_nothing_is_prepared_in_a_session_that_is_everybody_s(url):
    """The next transaction may be in another session, which knows nothing of a statement prepared in this one."""
    engine = postgresql_engine(url)
    with engine.connect() as connection:
        for _ in range(10):
            connection.exec_driver_sql("SELECT %s::int", (1,))
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'int'")

        assert 0 == prepared.scalar_one()
    engine.dispose()


def test_saves_and_handlers_of_both_colours_work(url):
    class Order(BaseModel):
        label = StringField()

    handled = []

    @event_handler("order.created", name="plain")
    def plain(order):
        handled.append(order.label)
        order.emit("heard")

    @event_handler_async("order.updated", name="awaited")
    async def awaited(order):
        handled.append(f"{order.label} again")
        await order.asave()

    def work(number):
        for step in range(10):
            order = Order(label=f"{number}.{step}").save()
            order.label += "!"
            order.save()

    async def awork(number):
        async def one(step):
            order = await Order(label=f"{number}.{step}").asave()
            order.label += "!"
            await order.asave()

        await asyncio.gather(*(one(step) for step in range(10)))
        await db.async_engine.dispose()

    with connect(url, worker=True) as db:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        asyncio.run(awork(3))
        for thread in threads:
            thread.join()
        db.drain()

        assert 40 == len([event for event in log(db) if event.name == "order.heard"])
    labels = [f"{number}.{step}!" for number in range(4) for step in range(10)]
    assert sorted(labels) == sorted({label.removesuffix(" again") for label in handled if label.endswith(" again")})
    assert 80 == len(handled)


def test_a_worker_behind_it_polls_and_says_so_once(url, rang, caplog):
    with connect(url, worker=True) as db:
        until(lambda: db.wakeup._listener.looking)
        assert not db.wakeup._listener.listening
        with db.transaction():
            emit("door.rang")

        assert rang.wait(EVENTUALLY)
    assert 1 == len([record for record in caplog.records if "a pooler stands between" in record.getMessage()])


def test_a_commit_behind_it_wakes_a_worker_past_it(url, rang, long_rests):
    past = make_url(url).set(port=postgres.server().port)
    with connect(past, worker=True) as db, connect(url, name="behind", worker=False) as behind:
        until(lambda: db.wakeup._listener.listening)
        until(lambda: not db.worker._turns.contending and not db.worker._wakeup.is_set())
        with behind.transaction():
            emit("door.rang")

        assert rang.wait(EVENTUALLY)
