"""Handles: what came of an event at its durable handlers, waited for."""

import asyncio
import threading
from uuid import uuid4

import pytest
from sqlalchemy import text

from earnorm import BaseModel, Emit, StringField, aemit, connect, emit, event_handler, event_handler_async
from earnorm.delivery import Dead, Done, Retry, Skipped
from earnorm.errors import (
    Discard,
    EmitRolledBack,
    InvalidDuration,
    OutcomesPending,
    OutcomesTooEarly,
    RetryLater,
    SyncDoorInCoroutine,
    UnknownEvent,
)

kept = []


@pytest.fixture(autouse=True)
def nothing_kept():
    kept.clear()


@pytest.fixture
def live(url):
    """A database with its worker in this process."""
    with connect(url, worker=True) as db:
        yield db


def fails(event):
    emit("shop.never", lamps=float("nan"))


@pytest.mark.expect_failures
def test_each_durable_handler_has_its_own(live):
    event_handler("shop.opened", name="greet")(lambda event: None)
    event_handler("shop.*", name="skip", when=lambda event: False)(lambda event: None)
    event_handler("shop.opened", name="fail")(fails)
    event_handler("shop.closed", name="other")(lambda event: None)
    event_handler("shop.opened", name="inside", delivery="transaction")(lambda event: None)

    outcomes = emit("shop.opened").outcomes()

    assert ["fail", "greet", "skip"] == list(outcomes)
    assert (Done(), Done()) == (outcomes["greet"], outcomes["skip"])
    assert isinstance(outcomes["fail"], Dead)
    assert outcomes["fail"].error.startswith("PayloadError: payload lamps = nan")


def test_of_a_record_s_event_too(live):
    class Lamp(BaseModel):
        name = StringField()

    Lamp.on("switched_on", name="lit")(lambda lamp: None)
    event_handler(Lamp, name="all")(lambda lamp: None)
    lamp = Lamp(name="desk").save()

    assert {"all": Done(), "lit": Done()} == lamp.emit("switched_on").outcomes()


def test_what_nobody_hears_has_none(live):
    assert {} == emit("shop.opened").outcomes()


def test_nor_has_what_was_muted(live):
    event_handler("shop.opened", name="greet")(lambda event: None)
    with live.bus.muted("shop.*", reason="a test"):
        handle = emit("shop.opened")

    assert {} == handle.outcomes()


async def test_nor_has_it_awaited(url):
    async with connect(url, worker=False, log="subscribed") as db:
        with db.bus.muted("shop.*", reason="a test"):
            muted = await aemit("shop.opened")
        unheard = await aemit("shop.opened")

        assert ({}, {}) == (await muted.aoutcomes(), await unheard.aoutcomes())


def test_an_attempt_that_failed_is_waited_for(live):
    @event_handler("shop.opened", name="greet")
    def greet(event):
        kept.append(event.attempt)
        if event.attempt < 3:
            raise RetryLater(0)

    assert {"greet": Done()} == emit("shop.opened").outcomes()
    assert [1, 2, 3] == kept


def test_one_that_gave_up_by_itself_is_done(live):
    @event_handler("shop.opened", name="greet")
    def greet(event):
        raise Discard("closed today")

    assert {"greet": Done()} == emit("shop.opened").outcomes()


def test_an_event_for_later_is_waited_for(live):
    event_handler("shop.opened", name="greet")(lambda event: None)

    assert {"greet": Done()} == emit("shop.opened", None, Emit(delay="50ms")).outcomes()


def test_a_repetition_has_those_of_the_first(live):
    event_handler("shop.opened", name="greet")(lambda event: kept.append(event.id))
    with live.transaction():
        handles = [emit("shop.opened", None, Emit(key="r1")) for _ in range(2)]
    handles.append(emit("shop.opened", None, Emit(key="r1")))

    assert [{"greet": Done()}] * 3 == [handle.outcomes() for handle in handles]
    assert 1 == len(kept)


async def test_awaited_on_the_loop_that_runs_the_handlers(url):
    @event_handler_async("shop.opened", name="greet")
    async def greet(event):
        await asyncio.sleep(0)

    async with connect(url, worker=True):
        handles = [await aemit("shop.opened") for _ in range(20)]

        assert [{"greet": Done()}] * 20 == await asyncio.gather(*(handle.aoutcomes() for handle in handles))


# --- who delivers, and when ---


@pytest.mark.expect_failures
def test_whoever_delivers_is_waited_for(db):
    event_handler("shop.opened", name="greet")(lambda event: None)
    event_handler("shop.opened", name="fail")(fails)
    handle = emit("shop.opened")
    waiting = threading.Thread(target=lambda: kept.append(handle.outcomes()))
    waiting.start()
    db.drain()
    waiting.join()

    assert [["fail", "greet"]] == [list(outcomes) for outcomes in kept]


def test_after_the_time_it_says_who_is_not_done(db):
    @event_handler("shop.opened", name="wait")
    def wait(event):
        raise RetryLater(3_600)

    event_handler("shop.opened", name="greet")(lambda event: None)
    handle = emit("shop.opened")
    with pytest.raises(OutcomesPending, match=r"greet, wait did not end within 0 s; .* see that a worker runs"):
        handle.outcomes(timeout=0)
    db.drain()

    with pytest.raises(OutcomesPending) as pending:
        handle.outcomes(timeout="10ms")
    assert (("wait",), {"greet": Done()}, 0.01) == (
        pending.value.pending,
        pending.value.outcomes,
        pending.value.seconds,
    )
    assert isinstance(pending.value, TimeoutError)


async def test_awaited_as_well(url):
    event_handler("shop.opened", name="greet")(lambda event: None)
    async with connect(url, worker=False):
        handle = await aemit("shop.opened")
        with pytest.raises(OutcomesPending):
            await handle.aoutcomes(timeout="60ms")


async def test_a_wait_may_be_cancelled(url):
    event_handler("shop.opened", name="greet")(lambda event: None)
    async with connect(url, worker=False) as db:
        handle = await aemit("shop.opened")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.aoutcomes(), 0.05)
        await db.adrain()

        assert {"greet": Done()} == await handle.aoutcomes()
    assert set() == db.worker._watchers


def test_a_handle_is_found_again_by_its_id(url):
    event_handler("shop.opened", name="greet")(lambda event: None)
    with connect(url, worker=False):
        event_id = emit("shop.opened").id
    with connect(url, worker=False) as db:
        db.drain()

        assert {"greet": Done()} == db.handle(event_id).outcomes()
        assert {"greet": Done()} == db.handle(str(event_id)).outcomes()
        assert (event_id, False) == (db.handle(event_id).id, db.handle(event_id).repeated)


def test_an_id_of_no_event_says_so(db):
    unknown = uuid4()

    with pytest.raises(UnknownEvent, match=f"database 'default' has no event {unknown}"):
        db.handle(unknown).outcomes()
    with pytest.raises(UnknownEvent, match="has no event 17"):
        db.handle(17)
    with pytest.raises(UnknownEvent, match="has no event 'the first one'"):
        db.handle("the first one")


def test_what_was_pruned_is_done_but_for_what_is_set_aside(db):
    @event_handler("shop.opened", name="wait")
    def wait(event):
        if event.attempt == 1:
            raise RetryLater(0)

    event_handler("shop.opened", name="greet")(lambda event: None)
    handle = emit("shop.opened")
    db.worker.run_once()
    with db.engine.begin() as connection:
        connection.execute(text("DELETE FROM earnorm_log"))
    with pytest.raises(OutcomesPending) as pending:
        handle.outcomes(timeout=0)
    db.drain()

    assert ("wait",) == pending.value.pending
    assert {"greet": Done(), "wait": Done()} == handle.outcomes()


def test_a_handler_that_came_after_the_event_is_done_with_it(db):
    event_handler("shop.opened", name="greet")(lambda event: None)
    handle = emit("shop.opened")
    event_handler("shop.opened", name="late")(lambda event: kept.append("late"))
    db.drain()

    assert ({"greet": Done(), "late": Done()}, []) == (handle.outcomes(), kept)


# --- where it would wait for itself ---


def test_not_in_the_transaction(db):
    with db.transaction():
        handle = emit("shop.opened")
        with pytest.raises(OutcomesTooEarly, match=r"outcomes\(\) of event .* inside a transaction would wait"):
            handle.outcomes()
        elsewhere = threading.Thread(target=lambda: kept.append(_raised(handle)))
        elsewhere.start()
        elsewhere.join()

    assert [OutcomesTooEarly] == [type(error) for error in kept]
    assert "inside the transaction that emitted it" in str(kept[0])


def _raised(handle):
    try:
        handle.outcomes()
    except Exception as error:
        return error


def test_not_in_a_handler(live):
    handle = emit("shop.closed")

    @event_handler("shop.opened", name="greet")
    def greet(event):
        kept.append(_raised(handle))

    emit("shop.opened").outcomes()

    assert "inside the handler greet" in str(kept[0])


async def test_not_the_sync_door_on_a_loop(url):
    async with connect(url, worker=False):
        handle = await aemit("shop.opened")
        with pytest.raises(SyncDoorInCoroutine, match="aoutcomes"):
            handle.outcomes()


async def test_nor_the_async_one_in_a_transaction(url):
    async with connect(url, worker=False) as db, db.transaction():
        handle = await aemit("shop.opened")
        with pytest.raises(OutcomesTooEarly, match="aoutcomes"):
            await handle.aoutcomes()


def test_what_was_rolled_back_has_none(db):
    handles = []
    with pytest.raises(ZeroDivisionError), db.transaction():
        handles.append(emit("shop.opened"))
        raise ZeroDivisionError
    with db.transaction():
        with pytest.raises(ZeroDivisionError), db.transaction():
            handles.append(emit("shop.opened"))
            raise ZeroDivisionError
        fine = emit("shop.opened")

    for handle in handles:
        with pytest.raises(EmitRolledBack, match="emit it again"):
            handle.outcomes()
    assert {} == fine.outcomes()


@pytest.mark.expect_failures
@pytest.mark.parametrize("end", [Dead("no"), Skipped("no"), Retry(60), Discard("no"), ZeroDivisionError()])
def test_what_a_handler_emitted_that_was_not_done_has_none(db, end):
    """It "did not reach the log" yet, however long one waited."""
    handles = []

    @event_handler("shop.closed", name="close")
    def close(event):
        handles.append(emit("shop.swept"))
        handles.append(emit("shop.swept", None, Emit(key="today")))
        handles.append(emit("shop.swept", None, Emit(key="today")))
        if isinstance(end, Exception):
            raise end
        return end

    event_handler("shop.swept", name="sweep")(lambda event: None)
    emit("shop.closed")
    db.drain()

    for handle in handles:
        with pytest.raises(EmitRolledBack, match="emit it again"):
            handle.outcomes(timeout=0)


@pytest.mark.expect_failures
def test_one_that_waits_for_it_hears_that_as_well(live):
    emitted, waits, handles = threading.Event(), threading.Event(), []

    @event_handler("shop.closed", name="close", retry=1)
    def close(event):
        handles.append(emit("shop.swept"))
        emitted.set()
        waits.wait()
        raise ZeroDivisionError

    event_handler("shop.swept", name="sweep")(lambda event: None)
    emit("shop.closed")
    emitted.wait()
    look = live.log.waiter._look

    def looked(wait):
        waits.set()
        return look(wait)

    live.log.waiter._look = looked

    with pytest.raises(EmitRolledBack):
        handles[0].outcomes(timeout=20)


def test_what_a_handler_emits_is_waited_for_from_outside(live):
    event_handler("shop.greeted", name="heard")(lambda event: None)

    @event_handler("shop.opened", name="greet")
    def greet(event):
        kept.append(emit("shop.greeted"))

    emit("shop.opened").outcomes()

    assert {"heard": Done()} == kept[0].outcomes()


def test_a_timeout_is_a_duration(db):
    with pytest.raises(InvalidDuration):
        emit("shop.opened").outcomes(timeout="soon")
