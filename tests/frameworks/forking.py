"""Processes that fork after `connect()`: `python forking.py STORY URL FILE`. Each handler writes number and process."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path

import earnorm
from earnorm import BaseModel, IntegerField, connect, event_handler, worker

STORY, URL, FILE = sys.argv[1:4]
CHILDREN, EACH = 4, 5


class Order(BaseModel):
    number = IntegerField(unique=True)


@event_handler("order.created", name="ship")
def ship(order):
    with Path(FILE).open("a") as file:
        file.write(f"{order.number} {os.getpid()}\n")


def say(*words):
    print(*words, flush=True)


def fork(work, *arguments):
    """A child as prefork servers make one: it runs `work` and leaves without the parent's ends."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    return child


def joined(children):
    for child in children:
        child.join(50)
    say("codes", sorted({child.exitcode for child in children}))


def save(db, child):
    for number in range(EACH):
        Order(number=100 * child + number).save()


def save_and_close(db, child):
    save(db, child)
    db.close()


def tell_lease(db):
    say("child", db.worker._tenure.held, str(os.getpid()) in db.worker._tenure.worker)


def preload(db):
    """gunicorn --preload and Celery: connected and used before the children are made."""
    with db:
        Order(number=0).save()
        db.drain()
        joined([fork(save_and_close, db, child) for child in range(1, CHILDREN + 1)])
        db.drain()


def unclosed(db):
    """Children that just end: what they have not handled, the parent does."""
    with db:
        Order(number=0).save()
        db.drain()
        joined([fork(save, db, child) for child in range(1, CHILDREN + 1)])
        db.drain()


def unused(db):
    """Connected at import and never used before the fork; the parent does what they have left to others."""
    joined([fork(save_and_close, db, child) for child in range(1, CHILDREN + 1)])
    with db:
        db.drain()


def lease(db):
    with db:
        Order(number=0).save()
        db.drain()
        say("parent", str(os.getpid()) in db.worker._tenure.worker)
        joined([fork(tell_lease, db)])
        Order(number=1).save()
        db.drain()


def transaction(db):
    """Forked amid a transaction: it is the parent's, and goes on there. The child sees what is committed."""
    with db:
        Order(number=1).save()
        # Or the worker's settle would wait for this transaction, and once too long make it deliver again.
        db.drain()
        with db.transaction():
            Order(number=2).save()
            joined([fork(look_amid, db)])
            say("parent sees", len(Order.find()))
        db.drain()


def look_amid(db):
    say("child sees", len(Order.find()))


def unwound(db):
    """A child that runs the parent's ends leaves the parent's transaction alone."""
    with db:
        with db.transaction():
            Order(number=1).save()
            if (pid := os.fork()) == 0:
                raise SystemExit(0)
            os.waitpid(pid, 0)
            Order(number=2).save()
        db.drain()
        say("stored", sorted(order.number for order in Order.find()))


def others_transaction(db):
    """Another thread of the parent had a transaction open; a child does not wait for it when it closes."""
    inside, done = threading.Event(), threading.Event()

    def hold():
        with db.transaction():
            inside.set()
            done.wait(50)

    with db:
        db.ready()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(50)
        joined([fork(close_at_once, db)])
        done.set()
        thread.join()


def close_at_once(db):
    import time

    began = time.monotonic()
    db.close(drain=20)
    say("closed", time.monotonic() - began < 10)


def woken(db):
    """A child's commit reaches the parent's worker, which would not have looked for a long time."""
    worker._SOON = worker._IDLE = 1_000.0
    shipped = threading.Event()
    earnorm.event_handler("order.created", name="tell")(lambda order: order.number and shipped.set())
    with db:
        # On a server database too, and with a notifier at work in the parent before the fork.
        db.worker.start()
        Order(number=0).save()
        db.drain()
        db.worker._wanted = False
        joined([fork(save, db, 1)])
        say("woken", shipped.wait(30))
        db.drain()


# These are about transactions: no worker beside them.
AMID_A_TRANSACTION = ("transaction", "unwound", "others_transaction")

if __name__ == "__main__":
    globals()[STORY](connect(URL, worker=False if STORY in AMID_A_TRANSACTION else None))
