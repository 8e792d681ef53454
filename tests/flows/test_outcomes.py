"""Outcomes of durable handlers: retried, timed out, delayed, given up, and what is kept of each attempt."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from earnorm import (
    Backoff,
    BaseModel,
    Dead,
    Retry,
    RetryLater,
    Skipped,
    StringField,
    connect,
    emit,
    event_handler,
    event_handler_async,
)
from earnorm.telemetry import HandlerStuck, listen
from tests.flows.stories import log

NONE = {"done": 0, "retry": 0, "dead": 0, "skipped": 0}

pytestmark = pytest.mark.expect_failures


def rows(db):
    with db.store.begin(readonly=True) as transaction:
        return transaction.deliveries()


def attempts(db):
    with db.store.begin(readonly=True) as transaction:
        return [transaction.attempts(delivery.id) for delivery in transaction.deliveries()]


@pytest.fixture(params=["sync", "async"])
def handle(request):
    """Registers what a handler does, under a sync or an async function."""

    def register(name, does, **options):
        def handler(event):
            return does(event)

        async def ahandler(event):
            await asyncio.sleep(0)
            return does(event)

        event_handler(name, name="mail", **options)(ahandler if request.param == "async" else handler)

    return register


def test_every_attempt_of_a_dead_letter_is_kept(url, handle):
    def fail(event):
        raise ValueError(f"order {event.attempt} is closed")

    handle("order.placed", fail, retry=Backoff(attempts=3, first=0))
    with connect(url, worker=False, version="2026.1") as db:
        emit("order.placed")
        assert {**NONE, "retry": 2, "dead": 1} == db.drain()
        (made,), (dead,) = attempts(db), rows(db)

        assert ("dead", 3) == (dead.state, dead.attempt)
        assert [1, 2, 3] == [attempt.number for attempt in made]
        assert [f"ValueError: order {n} is closed" for n in (1, 2, 3)] == [attempt.error for attempt in made]
        assert {dead.fingerprint} == {attempt.fingerprint for attempt in made}
        assert all("is closed" in attempt.traceback for attempt in made)
        assert {("2026.1", db.worker._tenure.worker)} == {(attempt.version, attempt.worker) for attempt in made}
        assert all(timedelta() <= datetime.now(UTC) - attempt.started < timedelta(minutes=1) for attempt in made)


def test_what_ends_well_leaves_nothing_behind(db, handle):
    def fail_once(event):
        if event.attempt == 1:
            raise RetryLater("0s")

    handle("order.placed", fail_once)
    emit("order.placed")

    assert {**NONE, "retry": 1, "done": 1} == db.drain()
    assert [] == rows(db)
    with db.engine.connect() as connection:
        assert 0 == connection.exec_driver_sql("SELECT count(*) FROM earnorm_attempt").scalar()


def test_the_version_comes_from_the_environment_unless_it_is_given(url, handle, monkeypatch):
    def fail(event):
        raise ValueError

    handle("order.placed", fail, retry=False)
    monkeypatch.setenv("EARNORM_CODE_VERSION", "from the environment")
    with connect(url, worker=False) as db:
        emit("order.placed")
        db.drain()

        assert ["from the environment"] == [attempt.version for (attempt,) in attempts(db)]


def test_a_returned_outcome_counts_and_what_was_emitted_with_it_is_dropped_unless_it_is_done(db):
    answers = {"skip": Skipped("a test"), "dead": Dead("no such printer"), "retry": Retry("1h", "no paper")}

    @event_handler("order.placed", name="mail")
    def answer(event):
        emit("told.so")
        return answers.get(event.payload["how"])

    for how in ("skip", "dead", "retry", "done"):
        emit("order.placed", how=how)

    assert {"done": 1, "retry": 1, "dead": 1, "skipped": 1} == db.drain()
    assert [("dead", "no such printer"), ("open", "RetryLater: no paper (in 1h)")] == [
        (row.state, row.error.replace("in 3600 s", "in 1h")) for row in rows(db)
    ]
    assert 1 == [entry.name for entry in log(db)].count("told.so")


def test_by_the_class_of_its_error_one_is_tried_again_and_another_is_not(db, handle):
    def fail(event):
        raise {"slow": TimeoutError, "wrong": ValueError}[event.payload["how"]]

    handle("order.placed", fail, retry={TimeoutError: 5, ValueError: False})
    emit("order.placed", how="slow")
    emit("order.placed", how="wrong")

    assert {**NONE, "retry": 1, "dead": 1} == db.drain()


def test_a_coroutine_past_its_time_is_cancelled_and_its_record_waits(db):
    ran = []

    class Order(BaseModel):
        label = StringField()

    @event_handler_async("order.*", name="mail", timeout="20ms")
    async def mail(order, event):
        ran.append((order.label, event.name))
        await asyncio.Event().wait()

    order = Order(label="first").save()
    order.emit("paid")

    assert {**NONE, "retry": 1} == db.drain()
    assert [("first", "order.created")] == ran
    assert ["order.created", "order.paid"] == [row.entry.name for row in rows(db)]
    assert rows(db)[0].error.startswith("HandlerTimedOut: ")


def test_a_thread_that_hangs_is_reported_replaced_and_what_it_emits_is_refused(db, caplog):
    go_on, refused, ended, told = threading.Event(), [], threading.Event(), []
    undo = listen(told.append, HandlerStuck)

    @event_handler("order.placed", name="mail", timeout="20ms", retry=2)
    def mail(event):
        emit("too.early")
        go_on.wait(20)
        try:
            emit("too.late")
        except TimeoutError as error:
            refused.append(type(error).__name__)
        finally:
            ended.set()

    emit("order.placed")

    assert {**NONE, "retry": 1} == db.drain()
    go_on.set()
    assert ended.wait(20)
    undo()
    assert (["HandlerTimedOut"], 1) == (refused, len(told))
    assert any("cannot be stopped" in line and "go_on.wait(20)" in line for line in caplog.messages)
    assert "go_on.wait(20)" in attempts(db)[0][0].traceback
    assert [] == [entry.name for entry in log(db) if entry.name.startswith("too.")]


def test_a_delayed_handler_runs_when_its_event_is_old_enough_and_in_order_per_record(db):
    ran = []

    class Order(BaseModel):
        label = StringField()

    @event_handler("order.*", name="remind", delay="1h")
    def remind(order, event):
        ran.append((event.name, event.attempt, order.label))

    order = Order(label="first").save()
    order.emit("paid")

    assert NONE == db.drain()
    assert [timedelta(hours=1)] * 2 == [row.due - row.entry.at for row in rows(db)]
    order.emit("sent")
    assert NONE == db.drain()
    with db.engine.begin() as connection:  # an hour later
        connection.exec_driver_sql("UPDATE earnorm_delivery SET due = 0")
    assert {**NONE, "done": 3} == db.drain()
    assert [("order.created", 1, "first"), ("order.paid", 1, "first"), ("order.sent", 1, "first")] == ran


def test_a_handler_works_on_no_more_at_once_than_it_says(db):
    state = {"inside": 0, "most": 0}
    full = asyncio.Event()

    @event_handler_async("order.placed", name="mail", concurrency=2)
    async def mail():
        state["inside"] += 1
        state["most"] = max(state["most"], state["inside"])
        if state["inside"] == 2:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        state["inside"] -= 1

    for _ in range(20):
        emit("order.placed")

    assert {**NONE, "done": 20} == db.drain()
    assert 2 == state["most"]
