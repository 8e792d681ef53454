"""`db.operations` on real databases: dead letters tried again and thrown away, old events pruned; sync and async."""

import asyncio
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from earnorm import Emit, connect, emit, event_handler, telemetry
from earnorm.errors import DrainInTransaction, InvalidDuration, InvalidSetting, PayloadError, SyncDoorInCoroutine
from earnorm.operations import ALL, Operations, Selection
from earnorm.telemetry import DeadLetterDiscarded, DeadLetterReopened


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request, tmp_path):
    url = f"sqlite:///{tmp_path}/log.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    with connect(url, worker=False) as connected:
        yield connected


@pytest.fixture
def printer():
    """A handler that kills letters until its printer is well."""

    class Printer:
        well = False
        seen = []

    Printer.seen = []

    @event_handler("order.*", name="print")
    def print_(event, *, number):
        Printer.seen.append((number, event.attempt))
        if not Printer.well:
            raise PayloadError("paper", number, "none is left")

    return Printer


def bury(db, *numbers, name="order.paid"):
    for number in numbers:
        with db.transaction():
            emit(name, number=number)
    db.drain()


def numbers(letters):
    return [letter.entry.data.decode().partition('"number":')[2][:1] for letter in letters]


@pytest.mark.expect_failures
def test_a_dead_letter_is_tried_once_more_and_done(db, printer):
    bury(db, 1, 2)
    first, second = db.operations.dead()
    assert (2, 1, "print") == (db.operations.count_dead(), first.attempt, first.subscription)
    printer.well = True

    assert 1 == db.operations.retry(Selection(ids=(second.id,)))
    db.drain()

    assert [(1, 1), (2, 1), (2, 2)] == printer.seen
    assert [first] == db.operations.dead()


@pytest.mark.expect_failures
def test_a_dead_letter_that_fails_again_is_dead_again(db, printer):
    bury(db, 1)

    assert 1 == db.operations.retry(ALL)
    assert 1 == db.drain()["dead"]
    assert [2] == [letter.attempt for letter in db.operations.dead()]


@pytest.mark.expect_failures
def test_what_nobody_would_come_for_stays_dead(db, printer):
    bury(db, 1, 2)
    db.operations.retire("print")

    assert 0 == db.operations.retry(ALL)
    assert 2 == db.operations.count_dead()


@pytest.mark.expect_failures
def test_dead_letters_are_chosen_and_discarded(db, printer):
    bury(db, 1, 2)
    bury(db, 3, name="order.sent")

    assert 0 == db.operations.discard(Selection(error="no such error"))
    assert 1 == db.operations.discard(Selection(event="order.sent", error="none is left"))
    assert 2 == db.operations.discard(Selection(handler="print"))
    assert [] == db.operations.dead()
    assert 0 == db.drain()["done"]


@pytest.mark.expect_failures
def test_what_is_done_to_dead_letters_is_told(db, printer):
    told = []
    undo = telemetry.listen(told.append, DeadLetterReopened, DeadLetterDiscarded)
    bury(db, 1, 2)
    first, second = db.operations.dead()
    db.operations.retry(Selection(ids=(first.id,)))
    db.operations.discard(Selection(ids=(second.id,)))
    undo()

    reopened, discarded = told
    assert (first.entry.id, 2, "print") == (reopened.event.id, reopened.event.attempt, reopened.handler)
    assert (second.entry.id, 1) == (discarded.event.id, discarded.event.attempt)
    assert "print will not be tried again, dead letter discarded: PayloadError" in discarded.sentence()


@pytest.mark.expect_failures
def test_more_than_a_batch_is_worked_through(db, printer, monkeypatch):
    monkeypatch.setattr("earnorm.operations._BATCH", 2)
    bury(db, *range(5))

    assert 5 == db.operations.retry(ALL)
    db.drain()
    assert 5 == db.operations.discard(ALL)


def test_events_that_all_have_passed_are_pruned_by_age(db, printer):
    printer.well = True
    bury(db, 1, 2, 3)
    with db.transaction():
        emit("order.paid", number=4)
    age(db, days=2)

    assert 0 == db.operations.prune("3d")
    assert 3 == db.operations.prune("1d", dry_run=True)
    assert 3 == db.operations.prune(timedelta(days=1), batch=2)
    assert 0 == db.operations.prune("1d")
    db.drain()
    assert 1 == db.operations.prune("1d")
    assert [1, 2, 3, 4] == [number for number, _ in printer.seen]


def test_idempotency_keys_are_pruned_with_their_events(db, printer):
    printer.well = True
    emit("order.paid", None, Emit(key="once"), number=1)
    emit("order.paid", None, Emit(key="once"), number=1)
    db.drain()
    assert 1 == db.operations.prune(0)
    emit("order.paid", None, Emit(key="once"), number=1)
    db.drain()

    assert [(1, 1), (1, 1)] == printer.seen


def age(db, days):
    with db.engine.begin() as connection:
        connection.execute(text(f"UPDATE earnorm_log SET at = at - {days * 86_400_000_000}"))


def test_pruning_waits_for_another_process_that_does(postgresql):
    waits = []

    class Clock:
        def wait(self, event, seconds):
            waits.append(seconds)
            held.close()

    with connect(postgresql, worker=False) as db, ExitStack() as held:
        other = held.enter_context(db.store.begin())
        assert other.prune(other.now(), 10, unseen=other.now()) is not None
        with db.store.begin() as mine:
            assert mine.prune(mine.now(), 10, unseen=mine.now()) is None
            assert mine.prune(mine.now(), 10, unseen=mine.now(), dry=True) is not None

        assert 0 == Operations(db.store, clock=Clock()).prune(0)
    assert 1 == len(waits)


def test_a_length_that_is_none_is_refused(db):
    with pytest.raises(InvalidDuration):
        db.operations.prune("a while")
    with pytest.raises(InvalidDuration):
        connect("sqlite://", name="other", retention="a while")


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": 5},
        {"ids": ("4711",)},
        {"ids": (True,)},
        {"handler": 5},
        {"event": b"order.paid"},
        {"error": ValueError()},
        {"since": "2h"},
        {"since": datetime(2026, 3, 1)},
    ],
)
def test_a_selection_that_means_nothing_is_refused(wrong):
    """It failed of a TypeError, or in the database."""
    with pytest.raises(InvalidSetting, match=rf"Selection\({next(iter(wrong))}=.*\): expected"):
        Selection(**wrong)


@pytest.mark.parametrize("limit", [-1, None, "3", 1.0])
def test_a_limit_that_is_none_is_refused(db, limit):
    with pytest.raises(InvalidSetting, match=r"dead\(limit=.*\): expected a whole number"):
        db.operations.dead(limit=limit)


@pytest.mark.parametrize("batch", [0, -1, True, "9", 1.5])
def test_a_batch_of_none_is_refused(db, batch):
    """It looked for keys to forget again and again, without an end."""
    with pytest.raises(InvalidSetting, match=r"prune\(batch=.*\): expected a whole number of at least 1"):
        db.operations.prune("1d", batch=batch)


def test_operations_inside_a_transaction_or_on_a_loop_are_refused(db):
    with db.transaction(), pytest.raises(DrainInTransaction, match=r"operations\.retry\(\) inside a transaction"):
        db.operations.retry(ALL)

    async def on_a_loop():
        with pytest.raises(SyncDoorInCoroutine, match=r"await operations\.adead\(\)"):
            db.operations.dead()

    asyncio.run(on_a_loop())


@pytest.mark.expect_failures
def test_each_verb_has_an_async_twin(db, printer):
    bury(db, 1, 2)

    async def twins():
        operations = db.operations
        assert 2 == len(await operations.adead(limit=5)) == await operations.acount_dead()
        first, _ = await operations.adead()
        assert 1 == await operations.aretry(Selection(ids=(first.id,)))
        assert 1 == await operations.adiscard(ALL)
        assert 2 == await operations.aprune(0, dry_run=True)
        assert "handler" == await operations.apause("print")
        assert [True] == [one.paused for one in (await operations.astatus()).subscriptions]
        assert "handler" == await operations.aresume("print", "handler")
        # The one that was to have another attempt.
        assert 1 == await operations.aretire("print")

    asyncio.run(twins())
