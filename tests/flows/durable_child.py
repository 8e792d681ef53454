"""Another process on the same database: it ends before its handlers are done, or does as its stdin says."""

import os
import signal
import sys
import threading

import earnorm.worker
from earnorm import BaseModel, StringField, connect, emit, event_handler

begun = threading.Event()
handled = []


class Order(BaseModel):
    label = StringField()


def say(*words):
    print(*words, flush=True)


def end(way, url):
    """Save three orders, and end while the handler of the first has begun and will not return."""

    @event_handler("order.created", name="mail")
    def mail(order):
        begun.set()
        threading.Event().wait()

    earnorm.worker._GRACE_AT_EXIT = 0.0
    db = connect(url, worker=True)
    with db.transaction():
        for label in ("one", "two", "three"):
            Order(label=label).save()
    begun.wait()
    match way:
        case "close":
            db.close(drain=0)
        case "sys.exit":
            sys.exit(3)
        case "os._exit":
            os._exit(3)
        case "a signal":
            os.kill(os.getpid(), signal.SIGTERM)
        case "an exception":
            raise RuntimeError("nobody catches this")
        case "hold":
            say("begun")
            sys.stdin.readline()


def work(url):
    """Save and drain beside another process that does the same."""

    @event_handler("order.created", name="mail")
    def mail(order):
        handled.append(order.label)

    with connect(url, worker=True) as db:
        say("ready")
        sys.stdin.readline()
        for number in range(30):
            Order(label=f"child {number}").save()
        db.drain()
        say(",".join(handled))


def call(url):
    """Emit once, when told to, and end without closing."""
    connect(url, worker=False).ready()
    say("ready")
    sys.stdin.readline()
    emit("door.rang")
    say("rang")


def relay(url):
    """The first and the third hop of a chain; a line of stdin is a drain."""

    @event_handler("chain.a", name="first")
    def first(event):
        emit("chain.b", trail=[str(event.id)])

    @event_handler("chain.c", name="third")
    def third(event, *, trail):
        emit("chain.d", trail=[*trail, str(event.id)])

    with connect(url, worker=False) as db:
        say("ready")
        for _ in sys.stdin:
            say(db.drain()["done"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", url]:
            work(url)
        case ["call", url]:
            call(url)
        case ["relay", url]:
            relay(url)
        case [way, url]:
            end(way, url)
