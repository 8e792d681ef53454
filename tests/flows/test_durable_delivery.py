"""Durable delivery: whatever ends a process, what was committed is handled, and nothing else is."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy import event as sqlalchemy_event

from earnorm import (
    BaseModel,
    StringField,
    aemit,
    connect,
    emit,
    event_handler,
    event_handler_async,
    on_event_async,
    post_save,
)
from earnorm.codec import Reference
from earnorm.errors import (
    DatabaseClosed,
    DrainInTransaction,
    NotConnected,
    PayloadError,
    ReadOnlySnapshot,
)
from earnorm.testing import expect_failures
from tests.flows.stories import log, names

ROOT = Path(__file__).parents[2]
NONE = {"done": 0, "retry": 0, "dead": 0, "skipped": 0}

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@pytest.fixture
def live(url):
    """A database with its worker in this process."""
    with connect(url, worker=True) as db:
        yield db


def orders():
    class Order(BaseModel):
        label = StringField()

    return Order


def mailed(name="mail", events="order.created"):
    """A handler that notes what it gets."""

    @event_handler(events, name=name)
    def mail(order, event):
        seen.append((order.label, event.attempt))

    return mail


def behind(url, statement):
    """Run a statement behind everybody's back."""
    engine = create_engine(url)
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def let_retries_be_due(url):
    behind(url, "UPDATE earnorm_delivery SET due = 0")


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@contextmanager
def child(*arguments):
    """Another process, spoken to line by line."""
    command = [sys.executable, "-m", "tests.flows.durable_child", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment(), cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process):
    return process.stdout.readline().strip()


# --- after the commit ---


def noting(colour, look):
    """A handler of either colour that notes what a second connection sees while it runs."""

    def note(order, event):
        seen.append((order.label, event.name, event.attempt, look.rows("orders")))

    if colour == "plain":
        return event_handler("order.created", name="mail")(note)

    async def anote(order, event):
        await asyncio.sleep(0)
        note(order, event)

    return event_handler_async("order.created", name="mail")(anote)


@pytest.mark.parametrize("colour", ["plain", "async"])
@pytest.mark.parametrize("door", ["save", "asave"])
def test_an_event_is_handled_after_its_commit_by_the_worker_of_this_process(live, look, door, colour):
    Order = orders()
    noting(colour, look)

    order = Order(label="one")
    order.save() if door == "save" else asyncio.run(order.asave())

    assert {**NONE, "done": 1} == live.drain()
    assert [("one", "order.created", 1, 1)] == seen


def test_nothing_runs_before_the_commit_and_nothing_at_all_after_a_rollback(live):
    Order = orders()
    mailed()

    with live.transaction():
        Order(label="one").save()
        assert ([], []) == (names(live), seen)
    live.drain()
    with pytest.raises(RuntimeError), live.transaction():
        Order(label="two").save()
        raise RuntimeError("no")

    assert NONE == live.drain()
    assert [("one", 1)] == seen


def test_a_committed_event_needs_no_drain(live):
    done = threading.Event()

    @event_handler("order.created", name="mail")
    def mail(order):
        done.set()

    orders()(label="one").save()

    assert done.wait(20)


# --- the end of a process ---


ENDINGS = {"close": 0, "sys.exit": 3, "an exception": 1, "os._exit": 3, "a signal": -signal.SIGTERM}


def test_what_a_process_did_not_handle_is_handled_after_the_next_start(new_url):
    """All five ways at once, since starting an interpreter is what takes the time."""
    urls = {way: new_url(way) for way in ENDINGS}
    command = [sys.executable, "-m", "tests.flows.durable_child"]
    processes = {
        way: subprocess.Popen([*command, way, url], stderr=subprocess.PIPE, env=environment(), cwd=ROOT)
        for way, url in urls.items()
    }
    endings = {way: (process.communicate(timeout=60), process.returncode) for way, process in processes.items()}
    orders()
    mailed()

    assert ENDINGS == {way: code for way, (_, code) in endings.items()}
    assert b"nobody catches this" in endings.pop("an exception")[0][1]
    assert {(None, b"")} == {output for output, _ in endings.values()}
    for way, url in urls.items():
        seen.clear()
        with connect(url, worker=True) as db:
            # Within less than a lease, whether it was given back or its holder is known to be dead.
            assert (way, {**NONE, "done": 3}) == (way, db.drain(timeout=8))
        assert [("one", 1), ("three", 1), ("two", 1)] == sorted(seen)


def test_closing_finishes_what_is_due(url):
    Order = orders()
    mailed()
    with connect(url, worker=True), connect(url, name="other", worker=True):
        Order(label="one").save()

    assert [("one", 1)] == seen


def test_closing_without_a_worker_leaves_it_to_others(url):
    Order = orders()
    mailed()
    with connect(url, worker=False):
        Order(label="one").save()
    assert [] == seen

    with connect(url, worker=True):
        pass

    assert [("one", 1)] == seen


# --- failing and trying again ---


@pytest.mark.expect_failures
@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_failed_handler_is_tried_again_when_it_is_due(live, url, colour):
    Order = orders()

    def attempt(event):
        seen.append(event.attempt)
        if event.attempt < 3:
            raise ConnectionError("the mail server is away")

    async def aattempt(event):
        attempt(event)

    register, function = (event_handler, attempt) if colour == "plain" else (event_handler_async, aattempt)
    register("order.created", name="mail")(function)
    Order(label="one").save()

    assert {**NONE, "retry": 1} == live.drain()
    assert NONE == live.drain()
    let_retries_be_due(url)
    assert {**NONE, "retry": 1} == live.drain()
    let_retries_be_due(url)
    assert {**NONE, "done": 1} == live.drain()
    assert [1, 2, 3] == seen


@pytest.mark.expect_failures
def test_a_failure_holds_up_its_own_record_and_survives_a_restart(url):
    Order = orders()

    @event_handler("order.saved", name="mail")
    def mail(order, event):
        is_first = order.id == first.id
        seen.append((event.name.partition(".")[2], is_first, event.attempt))
        if is_first and event.attempt == 1 and event.name == "order.created":
            raise ConnectionError("the mail server is away")

    with connect(url, worker=False) as db:
        first = Order(label="one").save()
        first.label = "two"
        first.save()
        Order(label="other").save()
        assert {**NONE, "done": 1, "retry": 1} == db.drain()
    assert [("created", False, 1), ("created", True, 1)] == sorted(seen)
    seen.clear()
    let_retries_be_due(url)

    with connect(url, worker=False) as db:
        assert {**NONE, "done": 2} == db.drain()
    assert [("created", True, 2), ("updated", True, 1)] == seen


@pytest.mark.expect_failures
def test_the_last_attempt_leaves_a_dead_letter_with_its_reason(db, url):
    Order = orders()

    @event_handler("order.created", name="mail")
    def mail(order):
        raise ConnectionError("the mail server is away")

    Order(label="one").save()
    db.drain()
    behind(url, "UPDATE earnorm_delivery SET attempt = 16, due = 0")

    assert {**NONE, "dead": 1} == db.drain()
    with db.store.begin(readonly=True) as transaction:
        letter = transaction.deliveries()[0]
    assert ("dead", 16) == (letter.state, letter.attempt)
    assert letter.error.startswith("ConnectionError: the mail server is away")


# --- several processes on one file ---


def test_of_two_processes_one_works_the_file_and_the_other_takes_over_at_once_when_it_dies(url):
    Order = orders()
    mailed()
    with child("hold", url) as holder:
        assert "begun" == hear(holder)
        with connect(url, worker=False) as db:
            Order(label="four").save()
            db.worker.run_once()
            assert [] == seen
            holder.kill()
            holder.wait()

            assert {**NONE, "done": 4} == db.drain(timeout=8)
    assert [(label, 1) for label in ("four", "one", "three", "two")] == sorted(seen)


def test_two_processes_that_work_together_handle_each_event_once(url):
    Order = orders()
    mailed()
    with child("work", url) as other, connect(url, worker=True) as db:
        assert "ready" == hear(other)
        tell(other, "go")
        for number in range(30):
            Order(label=f"parent {number}").save()
        db.drain()
        theirs = hear(other)
        assert 0 == other.wait(30)

    ours = [label for label, _ in seen]
    everything = [f"{who} {number}" for who in ("child", "parent") for number in range(30)]
    assert sorted(everything) == sorted(ours + (theirs.split(",") if theirs else []))


def test_a_chain_of_four_hops_over_two_processes_keeps_its_origin(url):
    @event_handler("chain.b", name="second")
    def second(event, *, trail):
        emit("chain.c", trail=[*trail, str(event.id)])

    @event_handler("chain.d", name="fourth")
    def fourth(event, *, trail):
        seen.append([*trail, str(event.id)])

    with child("relay", url) as other, connect(url, worker=False) as db:
        assert "ready" == hear(other)
        start = emit("chain.a")
        tell(other, "drain")
        assert ("1", 1) == (hear(other), db.drain()["done"])
        tell(other, "drain")
        assert ("1", 1) == (hear(other), db.drain()["done"])

        hops = log(db)
        assert ["chain.a", "chain.b", "chain.c", "chain.d"] == [hop.name for hop in hops]
        assert {start.id} == {hop.correlation_id for hop in hops}
        assert [None, *(hop.id for hop in hops[:-1])] == [hop.causation_id for hop in hops]
        assert [0, 1, 2, 3] == [hop.depth for hop in hops]
        assert [[str(hop.id) for hop in hops]] == seen


APP = r"""
import sys
from earnorm import BaseModel, StringField, connect, event_handler

class Order(BaseModel):
    label = StringField()

@event_handler("order.created")
def mail(order):
    sys.stdout.write(f"mail {order.label}\n")

@event_handler("order.created", name="bill")
def bill(order):
    sys.stdout.write(f"bill {order.label}\n")

def run(url, *labels):
    with connect(url, worker=False) as db:
        for label in labels:
            Order(label=label).save()
        if not labels:
            db.drain()

if __name__ == "__main__":
    run(*sys.argv[1:])
"""


def script(folder, *arguments):
    ended = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        timeout=60,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}"},
    )
    return sorted(ended.stdout.split("\n")[:-1])


def test_handlers_of_a_script_keep_their_name_however_it_is_started(tmp_path, url):
    (tmp_path / "shop.py").write_text(APP)

    script(tmp_path, "shop.py", url, "one")
    assert [("bill",), ("shop.mail",)] == sorted(behind(url, "SELECT name FROM earnorm_subscription"))
    assert ["bill one", "mail one"] == script(tmp_path, "-c", f"import shop; shop.run({url!r})")
    assert [("bill",), ("shop.mail",)] == sorted(behind(url, "SELECT name FROM earnorm_subscription"))


def test_in_a_script_of_another_name_a_named_handler_goes_on_where_it_was(tmp_path, url):
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "store.py").write_text(APP)

    script(tmp_path, "shop.py", url, "one")

    assert ["bill one"] == script(tmp_path, "-m", "store", url)


# --- handlers that come later ---


def test_handlers_defined_after_connect_hear_what_is_committed_from_then_on(live):
    Order = orders()
    Order(label="before").save()
    live.drain()
    mailed()
    Order(label="one").save()

    assert {**NONE, "done": 1} == live.drain()

    mailed("late")
    Order(label="two").save()
    assert {**NONE, "done": 2} == live.drain()
    assert [("one", 1), ("two", 1), ("two", 1)] == seen


def test_a_handler_defined_inside_the_transaction_hears_all_of_it(live):
    Order = orders()
    with live.transaction():
        Order(label="one").save()
        mailed()
        Order(label="two").save()

    assert {**NONE, "done": 2} == live.drain()


def test_a_model_defined_after_connect_has_its_table_and_its_hooks(live):
    class Parcel(BaseModel):
        label = StringField()

        @on_event_async("sent")
        async def notify(self):
            seen.append(self.label)

    Parcel(label="one").save().emit("sent")

    assert {**NONE, "done": 1} == live.drain()
    assert ["one"] == seen


# --- what a handler gets ---


def test_a_handler_gets_the_record_as_it_is_now_and_the_values_of_then(db):
    Order = orders()

    @event_handler("order.updated", name="mail")
    def mail(order, event, old_label, new_label):
        seen.append((order.label, old_label, new_label, event.changes["label"].new))

    order = Order(label="one").save()
    for label in ("two", "three"):
        order.label = label
        order.save()
    db.drain()

    assert [("three", "one", "two", "two"), ("three", "two", "three", "three")] == seen


def test_of_a_deleted_record_the_deletion_gets_a_snapshot_and_the_rest_is_skipped(db):
    Order = orders()

    @event_handler("order.*", name="mail")
    def mail(order, event):
        seen.append((event.name, order.label))
        with pytest.raises(ReadOnlySnapshot):
            order.label = "two"

    order = Order(label="one").save()
    order.emit("paid")
    order.delete()

    assert {**NONE, "done": 1, "skipped": 2} == db.drain()
    assert [("order.deleted", "one")] == seen


def test_a_record_that_was_removed_behind_our_back_is_skipped(db, url):
    Order = orders()
    mailed()
    Order(label="one").save()
    behind(url, "DELETE FROM orders")

    assert {**NONE, "skipped": 1} == db.drain()
    assert [] == seen


def test_a_model_in_a_payload_is_loaded_anew(db):
    Order = orders()

    class Customer(BaseModel):
        name = StringField()

    @event_handler("order.claimed", name="mail")
    def mail(order, by, others):
        seen.append((order.label, by, others))

    ada, grace = Customer(name="Ada").save(), Customer(name="Grace").save()
    Order(label="one").save().emit("claimed", by=ada, others=[ada, grace])
    ada.name = "Augusta Ada"
    ada.save()
    key = grace.id
    grace.delete()
    db.drain()

    label, by, others = seen[0]
    assert ("one", "Augusta Ada", "Augusta Ada") == (label, by.name, others[0].name)
    assert Reference("customer", (key,)) == others[1]


# --- handlers that write ---


def test_what_a_handler_saves_is_handled_in_the_same_drain(live):
    Order = orders()

    class Invoice(BaseModel):
        label = StringField()

    @event_handler("order.created", name="bill")
    def bill(order):
        Invoice(label=f"invoice of {order.label}").save()

    @event_handler_async("invoice.created", name="mail")
    async def mail(invoice, event):
        order = (await Order.afind())[0]
        order.label = "billed"
        await order.asave()

    @event_handler("order.label.changed", name="archive")
    def archive(order, event):
        seen.append((order.label, event.depth))

    Order(label="one").save()

    assert {**NONE, "done": 3} == live.drain()
    assert [("billed", 2)] == seen
    assert ["order.created", "invoice.created", "order.updated"] == names(live)
    assert 1 == len({event.correlation_id for event in log(live)})


def test_a_handler_may_save_the_record_it_got(live):
    Order = orders()

    @event_handler("order.created", name="stamp")
    def stamp(order):
        order.label += ", stamped"
        order.save()

    order = Order(label="one").save()
    live.drain()
    order.refresh()

    assert "one, stamped" == order.label


@pytest.mark.expect_failures
def test_a_chain_without_an_end_becomes_a_dead_letter(live):
    @event_handler("ping.sent", name="pong")
    def pong(event):
        seen.append(event.depth)
        emit("ping.sent")

    emit("ping.sent")

    assert {**NONE, "done": 33, "dead": 1} == live.drain()
    assert list(range(33)) == seen
    with live.store.begin(readonly=True) as transaction:
        assert "EventLoopError: ping.sent is caused 33 levels deep" in transaction.deliveries()[0].error


# --- draining and closing ---


def test_a_drain_inside_a_transaction_is_refused(live):
    with live.transaction(), pytest.raises(DrainInTransaction, match="a transaction"):
        live.drain()

    async def inside():
        async with live.transaction():
            await live.adrain()

    with pytest.raises(DrainInTransaction, match="a transaction"):
        asyncio.run(inside())


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_drain_inside_a_handler_is_refused(live, colour):
    Order = orders()

    def drain(order):
        with pytest.raises(DrainInTransaction, match="the handler mail"):
            live.drain()

    async def adrain(order):
        with pytest.raises(DrainInTransaction, match="the handler mail"):
            await live.adrain()

    register, function = (event_handler, drain) if colour == "plain" else (event_handler_async, adrain)
    register("order.created", name="mail")(function)
    Order(label="one").save()

    assert {**NONE, "done": 1} == live.drain()


def test_a_drain_inside_a_hook_is_refused(live):
    class Order(BaseModel):
        label = StringField()

        @post_save
        def wait(self):
            live.drain()

    with pytest.raises(DrainInTransaction, match="a transaction"):
        Order(label="one").save()


def test_closing_twice_is_closing_once(url):
    db = connect(url, worker=True)
    orders()(label="one").save()
    db.close()
    db.close()
    asyncio.run(db.aclose())

    assert "closed" in repr(db)


def test_a_closed_database_says_so(url):
    Order = orders()
    db = connect(url, worker=True)
    order = Order(label="one").save()
    db.close()

    with pytest.raises(DatabaseClosed, match="is closed"):
        db.drain()
    with pytest.raises(DatabaseClosed, match="transaction"):
        db.transaction()
    with pytest.raises(NotConnected, match=r"Order\.save"):
        order.save()
    with pytest.raises(NotConnected, match=r"Order\.asave"):
        asyncio.run(order.asave())


def test_after_closing_the_same_name_is_free(url):
    Order = orders()
    mailed()
    for label in ("one", "two"):
        with connect(url, worker=True):
            Order(label=label).save()

    assert [("one", 1), ("two", 1)] == seen


# --- fork ---


def in_a_fork(db, model, pipe):
    model(label="child").save()
    asyncio.run(model(label="child, async").asave())
    counts = db.drain()
    pipe.send((db.worker._tenure.worker, counts, sorted(seen)))
    db.close()


def forked(*arguments):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_a_fork, args=(*arguments, theirs))
    process.start()
    assert ours.poll(60)
    heard = ours.recv()
    process.join(60)
    assert 0 == process.exitcode
    return heard


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_starts_fresh_and_its_parent_goes_on(db):
    """The connections of both engines are open when it forks; a child that used the async one waited for ever."""
    Order = orders()
    mailed()
    Order(label="parent").save()
    asyncio.run(Order(label="parent, async").asave())
    assert {**NONE, "done": 2} == db.drain()
    seen.clear()

    identity, counts, theirs = forked(db, Order)

    assert identity != db.worker._tenure.worker
    assert {**NONE, "done": 2} == counts
    assert [("child", 1), ("child, async", 1)] == theirs
    asyncio.run(Order(label="parent again").asave())
    assert {**NONE, "done": 1} == db.drain()
    assert [("parent again", 1)] == seen
    assert 5 == len(Order.find())


# --- loops ---


async def test_entered_by_async_with_async_handlers_run_on_that_loop(url):
    Order = orders()
    loop = asyncio.get_running_loop()

    @event_handler_async("order.created", name="mail")
    async def mail(order):
        seen.append(asyncio.get_running_loop() is loop)

    @event_handler("order.created", name="bill")
    def bill(order):
        seen.append(threading.current_thread() is not threading.main_thread())

    async with connect(url, worker=True) as db:
        await Order(label="one").asave()
        assert {**NONE, "done": 2} == await db.adrain()

    assert [True, True] == seen


async def test_async_handlers_that_save_do_so_on_that_loop(url):
    Order = orders()

    @event_handler_async("order.created", name="stamp")
    async def stamp(order):
        order.label += ", stamped"
        await order.asave()

    @event_handler("order.updated", name="note")
    def note(order):
        order.emit("noted")

    @event_handler_async("order.noted", name="end")
    async def end(order):
        seen.append(order.label)
        await aemit("chain.ended")

    async with connect(url, worker=True) as db:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(Order(label=str(number)).asave())
        assert {**NONE, "done": 60} == await db.adrain()

    assert sorted(f"{number}, stamped" for number in range(20)) == sorted(seen)


async def test_what_async_handlers_did_not_finish_is_handled_after_the_next_start(url):
    Order = orders()
    begun, attempts = asyncio.Event(), []

    @event_handler_async("order.created", name="mail")
    async def mail(order, event):
        attempts.append(event.attempt)
        begun.set()
        if len(attempts) == 1:
            await asyncio.Event().wait()

    db = connect(url, worker=True)
    async with db:
        await Order(label="one").asave()
        await begun.wait()
        await db.aclose(drain=0)
    async with connect(url, worker=True) as db:
        assert {**NONE, "done": 1} == await db.adrain()

    assert [1, 1] == attempts


# --- limits, sizes and secrets ---


def test_a_payload_that_is_too_large_is_refused_and_nothing_of_it_is_kept(db):
    Order = orders()
    order = Order(label="one").save()

    with pytest.raises(PayloadError, match="scan"):
        order.emit("scanned", scan="x" * 300_000)
    with pytest.raises(PayloadError), db.transaction():
        order.label = "two"
        order.save()
        order.emit("scanned", scan="x" * 300_000)

    order.refresh()
    assert "one" == order.label
    assert ["order.created"] == names(db)


def test_a_save_is_never_refused_for_its_size(db):
    Order = orders()

    @event_handler("order.created", name="mail")
    def mail(order, event):
        seen.append((len(order.label), "label" in event.payload))

    Order(label="x" * 300_000).save()

    assert {**NONE, "done": 1} == db.drain()
    assert [(300_000, False)] == seen


def test_a_thousand_events_of_one_transaction_are_handled_once_and_in_order(live):
    class Meter(BaseModel):
        name = StringField()

    @event_handler("meter.read", name="note")
    def note(meter, value):
        seen.append((meter.name, value))

    with live.transaction():
        meters = [Meter(name=name).save() for name in "ab"]
        for value in range(500):
            for meter in meters:
                meter.emit("read", value=value)

    assert {**NONE, "done": 1000} == live.drain(timeout=60)
    for name in "ab":
        assert [(name, value) for value in range(500)] == [pair for pair in seen if pair[0] == name]


CANARIES = ("canary-one", "canary-two", "canary-three")


def test_sensitive_values_never_enter_the_file_of_the_log(tmp_path, path):
    """The model's own rows, where they must stand, are kept in a file beside it."""

    class Account(BaseModel):
        __tablename__ = "accounts"
        __table_args__ = {"schema": "vault"}
        name = StringField()
        password = StringField(sensitive=True)

    @event_handler("account.*", name="note")
    def note(account, event):
        seen.append((event.name, sorted(event.changes), "password" in event.payload, account.password))

    @event_handler("account.password.changed", name="fail")
    def fail(account):
        Account(id=account.id, name="eve", password=account.password).save()

    vault = tmp_path / "vault.db"
    db = connect(f"sqlite:///{path}", worker=False)
    for engine in (db.engine, db.async_engine.sync_engine):
        sqlalchemy_event.listen(engine, "connect", attach(vault))
    account = Account(name="ada", password=CANARIES[0]).save()
    for canary in CANARIES[1:]:
        account.password = canary
        account.save()
    assert CANARIES[-1] in found(vault)
    assert [] == found(path)

    with expect_failures():
        db.drain()
    account.delete()
    db.drain()
    assert [] == found(path)
    db.close()
    assert [] == found(path)

    assert ("account.created", [], False, "canary-three") == seen[0]
    assert [("account.updated", ["password"], False, "canary-three")] * 2 == seen[1:3]
    assert ("account.deleted", [], False, None) == seen[3]


def attach(file):
    def on_connect(connection, _record):
        cursor = connection.cursor()
        cursor.execute(f"ATTACH DATABASE '{file}' AS vault")
        cursor.close()

    return on_connect


def found(file):
    """Which canaries stand in a database file or in its write-ahead log."""
    files = [file, file.with_name(f"{file.name}-wal")]
    data = b"".join(part.read_bytes() for part in files if part.exists())
    return [canary for canary in CANARIES if canary.encode() in data]


# --- a second database ---


def test_a_second_database_has_a_log_and_a_worker_of_its_own(url, second_url):
    Order = orders()

    @event_handler("order.created", name="stamp")
    def stamp(order, event):
        order.label += f" in {event.database}"
        order.save()
        order.emit("stamped")

    @event_handler("order.stamped", name="end")
    def end(order, event):
        seen.append((event.database, order.label, [other.label for other in Order.find()]))

    with connect(url, worker=True) as one, connect(second_url, name="two", worker=True) as two:
        Order(label="first").save()
        with two.transaction():
            Order(label="second").save()

        assert ({**NONE, "done": 2}, {**NONE, "done": 2}) == (one.drain(), two.drain())
        assert ["order.created", "order.updated", "order.stamped"] == names(one) == names(two)
    labels = {"default": "first in default", "two": "second in two"}
    assert sorted((name, label, [label]) for name, label in labels.items()) == sorted(seen)
