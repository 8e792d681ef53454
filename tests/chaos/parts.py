"""The parts that children of the nursery play: producing, delivering, dying at a chosen point."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import SQLAlchemyError

import earnorm
from earnorm import (
    Backoff,
    BaseModel,
    IntegerField,
    RetryLater,
    StringField,
    connect,
    event_handler,
    event_handler_async,
)
from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction
from earnorm.errors import LeaseLost, StoreError
from earnorm.telemetry import Appended, listen
from earnorm.tenure import Tenure
from tests.chaos.ledger import HEARD, TRANSACTIONAL, Ledger


class Item(BaseModel):
    """A row of one transaction."""

    __tablename__ = "chaos_items"
    batch = StringField()
    number = IntegerField()
    fate = StringField()


class Counter(BaseModel):
    """A row that many transactions count up, each by one."""

    __tablename__ = "chaos_counters"
    number = IntegerField()


class Booking(BaseModel):
    """What a transactional handler did for an event: a row of the database, that stands once or is doubled."""

    __tablename__ = "chaos_bookings"
    handler = StringField()
    about = StringField()


class Undone(Exception):
    """Roll this back."""


# --- producing ---


def prepare(say, *, url, counters):
    """Tables, subscriptions, and counters at zero."""
    with connect(url, worker=False) as db, db.transaction():
        for _ in range(counters):
            Counter(number=0).save()


def pause(say, *, url, ledger):
    """The transactional handlers, until they are resumed."""
    with connect(url, worker=False) as db:
        for handler in TRANSACTIONAL:
            db.operations.pause(handler)


def resume(say, *, url, ledger):
    """The transactional handlers again."""
    with connect(url, worker=False) as db:
        for handler in TRANSACTIONAL:
            db.operations.resume(handler)


def produce(say, *, url, ledger, name, transactions, threads=1, seed=0, delay=0.0, die=None):
    """Write transactions, some of them rolled back in whole or part, telling the ledger before and after each.

    `delay` is how many seconds one may stay open before its commit.
    """
    book = Ledger(Path(ledger))
    db = connect(url, worker=False)
    db.ready()
    if die is not None:
        PRODUCER[die](db)

    def write(thread):
        chance = Random(f"{seed} {name} {thread}")
        for number in range(transactions):
            _transact(say, db, book, f"{name}.{thread}.{number}", chance, delay)

    workers = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    db.close()


def persist(say, *, url, ledger, name, seed=0, rate=50.0):
    """Write until the ledger is closed, however often the server goes away. What it refuses is told as no commit."""
    book, chance = Ledger(Path(ledger)), Random(f"{seed} {name}")
    db = connect(url, worker=False)
    db.ready()
    number = 0
    while not book.read("closed"):
        number += 1
        with suppress(SQLAlchemyError, StoreError, OSError):
            _transact(say, db, book, f"{name}.{number}", chance)
        time.sleep(1.0 / rate)
    with suppress(SQLAlchemyError, StoreError, OSError):
        db.close()


def _transact(say, db, book, batch, chance, delay=0.0):
    book.write("begin", batch)
    try:
        with db.transaction() as opened:
            say("begin")
            _fill(say, db, opened.session, batch, chance)
            if delay:
                time.sleep(delay * chance.random())
            if chance.random() < 0.1:
                raise Undone
    except Undone:
        book.write("undone", batch)
    else:
        book.write("commit", batch)
    say("end")


def _fill(say, db, session, batch, chance):
    counters = Counter.find()
    if counters:
        # Where rows have locks, its own; on SQLite the transaction has the file.
        _count(session.get(Counter, chance.choice(counters).id, with_for_update=True, populate_existing=True))
    for number in range(chance.randint(1, 3)):
        item = Item(batch=batch, number=-1, fate="kept").save()
        item.number = number
        item.save()
        if chance.random() < 0.3:
            with suppress(Undone), db.transaction():
                _drop(batch, item, counters, chance)
                raise Undone
        item.emit("marked", batch=batch, number=number)
        say("row")


def _count(counter):
    counter.number += 1
    counter.save()
    counter.emit("counted", number=counter.number)


def _drop(batch, item, counters, chance):
    """What a savepoint takes back: a new row, an event of the outer one, a count."""
    Item(batch=batch, number=-2, fate="dropped").save().emit("marked", batch=batch, number=-2, fate="dropped")
    item.emit("marked", batch=batch, number=-2, fate="dropped")
    if counters and chance.random() < 0.5:
        chance.choice(counters).emit("counted", number=-1, fate="dropped")


# --- reading ---


def read(say, *, url, ledger, name):
    """Follow the log as any reader may, by its horizon, until all is delivered and nothing is left to read."""
    book = Ledger(Path(ledger))
    db = connect(url, worker=False)
    db.ready()
    seen, position, delivered = [], 0, False
    while True:
        with db.store.begin(readonly=True) as transaction:
            horizon = transaction.horizon()
            entries = transaction.read(position, horizon, 500)
        seen += [entry.id for entry in entries]
        position = entries[-1].position if entries else horizon
        if not entries and delivered:
            break
        delivered = not entries and bool(book.read("delivered"))
        time.sleep(0 if entries else 0.005)
    book.write("read", name, *seen)
    db.close()


# --- delivering ---


# Seconds after which what is left counts as lost: on a machine with much else to do a worker is slow, and no more.
_PATIENCE = 600.0

_book = None
_say = print
_retried = 20
_signal = signal.SIGKILL


def deliver(say, *, url, ledger, batch, lease, die=None, of="SIGKILL", retried=20):
    """Work the log until nothing is due; one event in `retried` is tried twice."""
    db = _worker(say, url, ledger, batch, lease, die, of, retried)
    db.drain(_PATIENCE)
    db.close()


def finish(say, *, url, ledger, batch, lease):
    """Work the log until nothing is set aside any more, not even for later: as what is retried alone after deaths."""
    db = _worker(say, url, ledger, batch, lease)
    while True:
        db.drain(_PATIENCE)
        with db.store.begin(readonly=True) as transaction:
            if not transaction.waiting():
                break
        time.sleep(0.1)
    db.close()


def serve(say, *, url, ledger, batch, lease):
    """Work the log until the ledger is closed, and then what is left."""
    db = _worker(say, url, ledger, batch, lease)
    while not _book.read("closed"):
        time.sleep(0.05)
    db.drain(_PATIENCE)
    db.close()


def _worker(say, url, ledger, batch, lease, die=None, of="SIGKILL", retried=20):
    global _book, _say, _retried, _signal
    _book, _say, _retried, _signal = Ledger(Path(ledger)), say, retried, signal.Signals[of]
    db = connect(url, worker=True)
    # Short, so that a test need not wait long for the lease of a worker that was killed.
    db.worker._seconds, db.worker._batch = lease, batch
    db.worker._begin_anew()
    _tell_refusals()
    if die is not None:
        DELIVERER[die](db)
    db.ready()
    return db


def _tell_refusals():
    """The ledger is told of each settle that is refused, since the lease has passed to somebody else.

    So is it where the server has ended the connection meanwhile: what was run is then dropped, and not settled at all.
    """
    settle, forget = SQLAlchemyTransaction.settle, Tenure.forget

    def telling(transaction, *arguments):
        try:
            settle(transaction, *arguments)
        except LeaseLost:
            _book.write("refused", os.getpid())
            raise

    def forgetting(tenure):
        if tenure.held:
            _book.write("refused", os.getpid())
        forget(tenure)

    SQLAlchemyTransaction.settle, Tenure.forget = telling, forgetting


def _effect(handler, event):
    if event.attempt == 1 and event.id.int % _retried == 0:
        raise RetryLater(0.0, "it is tried twice")
    _reach("before the effect")
    _book.write("effect", handler, event.id, event.key, event.attempt, os.getpid(), time.monotonic())
    _say("effect")
    _reach("after the effect")


@event_handler(list(HEARD), name="note")
def note(record, event):
    _effect("note", event)


@event_handler_async(list(HEARD), name="anote")
async def anote(record, event):
    _effect("anote", event)


def _booking(handler, event):
    if event.attempt == 1 and event.id.int % _retried == 1:
        raise RetryLater(0.0, "it is tried twice")
    _reach("before the effect")
    _say("effect")
    return Booking(handler=handler, about=str(event.id))


@event_handler(list(HEARD), name="book", transactional=True)
def book(record, event):
    _booking("book", event).save()
    _reach("after the effect")


@event_handler_async(list(HEARD), name="abook", transactional=True)
async def abook(record, event):
    await _booking("abook", event).asave()
    _reach("after the effect")


@event_handler("deadly.sent", name="deadly", retry=Backoff(attempts=2, first=0.05))
def deadly(event):
    # To this thread: one that goes to the process may wait for another thread, and the handler be done by then.
    signal.raise_signal(signal.SIGSEGV)


def harm(say, *, url, ledger):
    """An event whose handler takes its process along."""
    with connect(url, worker=False):
        earnorm.emit("deadly.sent")


# --- dying at a point ---


_points = {}


def _reach(point):
    """Die (or stop) here, if it is the chosen point, the third time."""
    if point in _points:
        _points[point] += 1
        if _points[point] == 3:
            _say("reached")
            signal.raise_signal(_signal)


def _on_commit(point, *, first):
    def arm(db):
        _points[point] = 0
        sqlalchemy_event.listen(db.engine, "commit", lambda _: _reach(point), insert=first)

    return arm


def _on_release(db):
    """COMMIT has returned; nobody in this process knows yet."""
    _points["after the commit"] = 0
    listen(lambda _: _reach("after the commit"), Appended)


def _in_a_handler(point):
    def arm(db):
        _points[point] = 0

    return arm


def _around_settle(point):
    def arm(db):
        _points[point] = 0
        settle = SQLAlchemyTransaction.settle

        def settling(transaction, *arguments):
            if point == "before the settle":
                _reach(point)
            settle(transaction, *arguments)
            if point == "before the commit of the settle":
                _reach(point)
            if point == "after the settle":
                sqlalchemy_event.listen(db.engine, "checkin", lambda *_: _reach(point), once=True)

        SQLAlchemyTransaction.settle = settling

    return arm


PRODUCER = {
    "before the append": _on_commit("before the append", first=True),
    "before the commit": _on_commit("before the commit", first=False),
    "after the commit": _on_release,
}
DELIVERER = {
    "before the effect": _in_a_handler("before the effect"),
    "after the effect": _in_a_handler("after the effect"),
    "before the settle": _around_settle("before the settle"),
    "before the commit of the settle": _around_settle("before the commit of the settle"),
    "after the settle": _around_settle("after the settle"),
}
