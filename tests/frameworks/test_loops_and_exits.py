"""One database under many event loops, in a notebook, and in scripts that end right after a save."""

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from earnorm import BaseModel, IntegerField, connect, event_handler, event_handler_async
from earnorm.errors import SyncDoorInCoroutine
from tests import postgresql as postgres
from tests.frameworks.test_forks import environment

each_async_driver = pytest.mark.parametrize("url", ["sqlite", "postgresql", "asyncpg"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    match request.param:
        case "sqlite":
            yield f"sqlite:///{tmp_path}/app.db"
        case "postgresql":
            yield request.getfixturevalue("postgresql")
        case _:
            pytest.importorskip("asyncpg")
            with postgres.database() as place:
                yield place.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def Order(heard):
    class Order(BaseModel):
        number = IntegerField(unique=True)

    @event_handler("order.created", name="ship")
    def ship(order):
        heard.append(order.number)

    @event_handler_async("order.created", name="index")
    async def index(order):
        await asyncio.sleep(0)
        heard.append(-(await order.arefresh()).number)

    return Order


# --- loops ---


@each_async_driver
def test_one_database_serves_one_loop_after_the_other(url, Order, heard):
    """As pytest-asyncio gives each test a loop; a pool keeps connections of loops that are gone."""

    async def place(number):
        await Order(number=number).asave()
        await db.adrain()
        return len(await Order.afind())

    with connect(url, worker=False) as db:
        assert [1, 2, 3] == [asyncio.run(place(number)) for number in (1, 2, 3)]

    assert [-3, -2, -1, 1, 2, 3] == sorted(heard)


@each_async_driver
def test_one_loop_after_the_other_with_a_worker_at_work(url, Order, heard):
    async def place(number):
        await Order(number=number).asave()

    with connect(url, worker=True) as db:
        for number in (1, 2, 3):
            asyncio.run(place(number))
        db.drain()

    assert [-3, -2, -1, 1, 2, 3] == sorted(heard)


@each_async_driver
def test_a_database_may_be_entered_on_one_loop_and_used_on_the_next(url, Order, heard):
    async def enter_and_leave(number):
        async with connect(url) as db:
            await Order(number=number).asave()
            await db.adrain()

    for number in (1, 2):
        asyncio.run(enter_and_leave(number))

    assert [-2, -1, 1, 2] == sorted(heard)


@each_async_driver
def test_the_pools_of_loops_speak_as_sqlalchemy_s_do(url, caplog):
    """With asyncpg, a worker's log said at each end that a pool was disposed of."""

    async def main():
        async with connect(url, worker=False) as db, db.asession() as session:
            await session.execute(text("SELECT 1"))

    with caplog.at_level(logging.INFO):
        asyncio.run(main())

    assert [] == [record.name for record in caplog.records if "pool" in record.name.lower()]


@pytest.mark.parametrize("url", ["asyncpg"], indirect=True)
def test_several_loops_at_once_share_a_database(url, Order, heard):
    """A connection of asyncpg's belongs to its loop; each has a pool of its own there."""
    meet = threading.Barrier(3)

    async def place(first):
        for number in range(first, first + 5):
            await Order(number=number).asave()
        # None of the loops has ended while another one still works.
        await asyncio.to_thread(meet.wait, 30)
        return len(await Order.afind(number=first))

    with connect(url, worker=False) as db, ThreadPoolExecutor(3) as threads:
        db.ready()
        found = list(threads.map(lambda first: asyncio.run(place(first)), (100, 200, 300)))
        db.drain()

    assert [1, 1, 1] == found
    assert sorted(number for first in (100, 200, 300) for number in range(first, first + 5)) == sorted(
        number for number in heard if number > 0
    )


@each_async_driver
def test_loops_of_several_threads_may_use_a_database_for_the_first_time_at_once(url, Order):
    """SQLAlchemy's lock around the first connection never woke the loop that waited for it; it hung for ever."""
    loops = 6
    meet = threading.Barrier(loops, timeout=30)

    async def place(number):
        meet.wait()
        await Order(number=number).asave()
        # None of the loops has ended while another one still works.
        await asyncio.to_thread(meet.wait)
        return len(await Order.afind(number=number))

    db = connect(url, worker=False)
    with ThreadPoolExecutor(loops) as threads:
        found = list(threads.map(lambda number: asyncio.run(asyncio.wait_for(place(number), 30)), range(loops)))
    db.close()

    assert [1] * loops == found


def test_threads_may_use_a_database_for_the_first_time_at_once(url, Order):
    threads, meet = 6, threading.Barrier(6, timeout=30)

    def place(number):
        meet.wait()
        Order(number=number).save()
        return len(Order.find(number=number))

    db = connect(url, worker=False)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(place, range(threads)))
    db.close()

    assert [1] * threads == found


@each_async_driver
def test_loops_that_wait_for_a_connection_are_woken_by_each_other(url, Order):
    """A pool has 15 connections. What one loop gave back woke no other: that slept until its patience was over."""
    meet = threading.Barrier(2, timeout=30)

    async def read(number):
        async with db.asession() as session:
            await session.scalar(select(Order).where(Order.number == number))
            await asyncio.sleep(0.01)

    async def place(first):
        meet.wait()
        async with asyncio.timeout(20):  # a pool's patience is 30 seconds
            await asyncio.gather(*(read(number) for number in range(first, first + 40)))
        await asyncio.to_thread(meet.wait)

    with connect(url, worker=False) as db, ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda first: asyncio.run(place(first)), (100, 200)))


# --- notebooks ---

CELLS = """
    from earnorm import BaseModel, IntegerField, connect, event_handler
    ---
    class Order(BaseModel):
        number = IntegerField()

    @event_handler("order.created", name="ship")
    def ship(order):
        print("shipped", order.number)

    db = connect("sqlite://", worker=False)
    ---
    order = await Order(number=1).asave()
    ---
    (await db.adrain())["done"]
    ---
    [order.number for order in await Order.afind()]
"""


@pytest.fixture
def notebook(monkeypatch):
    """A shell as a notebook's kernel has one: cells run on a loop that goes on running, and may await."""
    # The shell puts its own module there.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    interactive = pytest.importorskip("IPython.core.interactiveshell", reason="pip install -e '.[dev]'")
    shell = interactive.InteractiveShell()
    shell.history_manager.enabled = False
    yield shell
    shell.reset(new_session=False)
    shell.history_manager.end_session()
    interactive.InteractiveShell.clear_instance()


async def cell(shell, source):
    """What a cell returns; raises what it raises."""
    ran = await shell.run_cell_async(source, transformed_cell=source, store_history=False)
    ran.raise_error()
    return ran.result


async def test_cells_of_a_notebook_await_the_doors(notebook, capsys):
    sources = textwrap.dedent(CELLS).split("---\n")

    results = [await cell(notebook, source) for source in sources]

    assert [1, [1]] == results[-2:]
    assert "shipped 1" in capsys.readouterr().out


async def test_a_cell_that_forgets_to_await_is_told_the_door(notebook, capsys):
    for source in textwrap.dedent(CELLS).split("---\n")[:2]:
        await cell(notebook, source)

    for source, remedy in {
        "Order(number=1).save()": "await asave",
        "Order.find()": "await afind",
        "db.drain()": "await adrain",
        "with db.transaction(): pass": "async with db.transaction",
        "db.close()": "await aclose",
        "with db: pass": "async with connect",
    }.items():
        with pytest.raises(SyncDoorInCoroutine, match=remedy):
            await cell(notebook, source)
    capsys.readouterr()


# --- scripts that end ---

SCRIPT = """
    import sys
    from earnorm import BaseModel, IntegerField, connect, event_handler, event_handler_async

    class Order(BaseModel):
        number = IntegerField(unique=True)

    @event_handler("order.created", name="ship")
    def ship(order):
        with open(sys.argv[2], "a") as file:
            file.write(f"{order.number}\\n")

    @event_handler_async("order.created", name="index")
    async def index(order):
        await order.arefresh()

    db = connect(sys.argv[1])
"""
ENDS = {
    "just ends": "Order(number=1).save()",
    "exits": "Order(number=1).save(); sys.exit(0)",
    "raises": "Order(number=1).save(); raise SystemExit(0)",
    "leaves its block": "with db:\n    Order(number=1).save()",
    "async": "import asyncio\nasync def main():\n    await Order(number=1).asave()\nasyncio.run(main())",
    "async, entered": "import asyncio\nasync def main():\n    async with db:\n        await Order(number=1).asave()\n"
    "asyncio.run(main())",
    "in a hook of its own": "import atexit\natexit.register(lambda: Order(number=1).save())",
}


def script(folder, url, file, end):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + end + "\n")
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(path), url, str(file)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (0, "", "") == (ended.returncode, ended.stderr, ended.stdout)
    return time.monotonic() - began


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_script_that_ends_right_after_a_save_loses_nothing_and_ends_soon(tmp_path, url, end):
    file = tmp_path / "handled.txt"
    file.touch()

    taken = script(tmp_path, url, file, end)
    script(tmp_path, url, file, "db.drain(); db.close()")

    # Once, whether that script did it or the next one; and without hanging.
    assert ["1"] == file.read_text().split()
    assert taken < 45
