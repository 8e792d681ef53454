"""Peers: other libraries, each made to call the same number of handlers with one object, as it likes to be called.

A peer is a function that gives the statement to time and the names it uses, for so many handlers that `take` and are
given (`give`) keywords besides.
"""

import asyncio
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.timing import Clocked, asynchronous, synchronous

__all__ = ["Peer", "Thing", "awaited_peers", "clocks", "functions", "keyword_peers", "object_peers", "stop_peers"]

Statement = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    build: Callable[..., Statement]


class Thing:
    """What events are about; an object of no library."""


_modules = itertools.count()


def functions(count: int, signature: str, *, awaited: bool = False) -> list[Any]:
    """Handlers that do nothing, each a function of its own, as in a module."""
    # Under a module of their own: a function of the same module and name would be a reload of the earlier one.
    space: dict[str, Any] = {"__name__": f"benchmarks.handlers_{next(_modules)}"}
    colour = "async def" if awaited else "def"
    exec("\n".join(f"{colour} handler_{i}({signature}): pass" for i in range(count)), space)
    return [space[f"handler_{i}"] for i in range(count)]


def clocks(
    peers: list[Peer], count: int, *given: str, loop: asyncio.AbstractEventLoop | None = None
) -> tuple[dict[str, Clocked], dict[str, float | str]]:
    """What can be timed, and why the rest cannot."""
    ready: dict[str, Clocked] = {}
    missing: dict[str, float | str] = {}
    for peer in peers:
        try:
            statement, names = peer.build(count, *given)
            clocked = asynchronous(statement, names, loop) if loop else synchronous(statement, names)
            clocked(10)
            ready[peer.name] = clocked
        except ImportError as error:
            missing[peer.name] = f"not installed ({error.name or error})"
        except Exception as error:
            missing[peer.name] = f"failed ({type(error).__name__}: {error})"
    return ready, missing


# --- about one object ------------------------------------------------------------------------


def _blinker(count: int, take: str = "", give: str = "") -> Statement:
    from blinker import Signal

    signal, handlers = Signal(), functions(count, f"sender{take}")
    for handler in handlers:
        signal.connect(handler)
    # A Signal holds its receivers weakly.
    return f"send(thing{give})", {"send": signal.send, "thing": Thing(), "kept": handlers}


def _django_signal(handlers: list[Any]) -> Any:
    from django.conf import settings
    from django.dispatch import Signal

    if not settings.configured:
        settings.configure()
    signal = Signal()
    for handler in handlers:
        signal.connect(handler)
    return signal


def _django(count: int, take: str = "", give: str = "") -> Statement:
    handlers = functions(count, f"sender{take}, **_")
    return f"send(thing{give})", {"send": _django_signal(handlers).send, "thing": Thing(), "kept": handlers}


def _pyee(count: int, take: str = "", give: str = "") -> Statement:
    from pyee.base import EventEmitter

    emitter = EventEmitter()
    for handler in functions(count, f"thing{take}"):
        emitter.on("thing.done", handler)
    return f"emit('thing.done', thing{give})", {"emit": emitter.emit, "thing": Thing()}


def _psygnal(count: int, door: str = "emit") -> Statement:
    from psygnal import Signal

    class Emitter:
        done = Signal(object)

    emitter = Emitter()
    for handler in functions(count, "thing"):
        emitter.done.connect(handler)
    return "emit(thing)", {"emit": getattr(emitter.done, door), "thing": Thing(), "kept": emitter}


def _pydispatcher(count: int, take: str = "", give: str = "") -> Statement:
    from pydispatch import dispatcher

    # Its signals belong to the process, so each build has one of its own.
    signal, handlers = object(), functions(count, f"sender{take}")
    for handler in handlers:
        dispatcher.connect(handler, signal=signal)
    names = {"send": dispatcher.send, "signal": signal, "thing": Thing(), "kept": handlers}
    return f"send(signal, thing{give})", names


def _sqlalchemy(count: int) -> Statement:
    from sqlalchemy import event
    from sqlalchemy.event import dispatcher

    class Emitter:
        dispatch: Any

    class Emitted(event.Events[Emitter]):
        _dispatch_target = Emitter

        def done(self, thing: Any) -> None: ...

    Emitter.dispatch = dispatcher(Emitted)
    emitter = Emitter()
    for handler in functions(count, "thing"):
        event.listen(emitter, "done", handler)
    return "emitter.dispatch.done(thing)", {"emitter": emitter, "thing": Thing()}


def _pymitter(count: int, take: str = "", give: str = "") -> Statement:
    from pymitter import EventEmitter

    emitter = EventEmitter()
    for handler in functions(count, f"thing{take}"):
        emitter.on("thing.done", handler)
    return f"emit('thing.done', thing{give})", {"emit": emitter.emit, "thing": Thing()}


def object_peers() -> list[Peer]:
    """`emit(name, object)`, or the nearest they have."""
    return [
        Peer("psygnal emit_fast", partial(_psygnal, door="emit_fast")),
        Peer("psygnal", _psygnal),
        Peer("SQLAlchemy events", _sqlalchemy),
        Peer("pyee", _pyee),
        Peer("blinker", _blinker),
        Peer("Django signals", _django),
        Peer("pymitter", _pymitter),
        Peer("PyDispatcher", _pydispatcher),
    ]


# --- with keywords ---------------------------------------------------------------------------


def keyword_peers() -> list[Peer]:
    """Those that hand keywords on to their handlers."""
    return [peer for peer in object_peers() if peer.name not in ("psygnal", "psygnal emit_fast", "SQLAlchemy events")]


# --- awaited ---------------------------------------------------------------------------------


def _blinker_awaited(count: int) -> Statement:
    from blinker import Signal

    signal, handlers = Signal(), functions(count, "sender", awaited=True)
    for handler in handlers:
        signal.connect(handler)
    return "send(thing)", {"send": signal.send_async, "thing": Thing(), "kept": handlers}


def _django_awaited(count: int) -> Statement:
    handlers = functions(count, "sender, **_", awaited=True)
    return "send(thing)", {"send": _django_signal(handlers).asend, "thing": Thing(), "kept": handlers}


def _pymitter_awaited(count: int) -> Statement:
    from pymitter import EventEmitter

    emitter = EventEmitter()
    for handler in functions(count, "thing", awaited=True):
        emitter.on("thing.done", handler)
    return "emit('thing.done', thing)", {"emit": emitter.emit_async, "thing": Thing()}


def _bubus(count: int) -> Statement:
    from bubus import BaseEvent, EventBus

    class Done(BaseEvent[None]):
        thing: int = 0

    # A bus starts its task with the first event, in the loop that then runs.
    bus = EventBus(f"Bench{count}")
    for handler in functions(count, "event", awaited=True):
        bus.on(Done, handler)
    return "dispatch(Done(thing=1))", {"dispatch": bus.dispatch, "Done": Done}


async def stop_peers() -> None:
    """A bus of bubus runs a task that ends only when it is told to."""
    bubus = sys.modules.get("bubus")
    for bus in list(bubus.EventBus.all_instances) if bubus else ():
        await bus.stop(timeout=0, clear=True)


def awaited_peers() -> list[Peer]:
    """Async handlers, awaited. Django and pymitter gather them; blinker awaits one after the other."""
    return [
        Peer("blinker", _blinker_awaited),
        Peer("Django signals (gathered)", _django_awaited),
        Peer("pymitter (gathered)", _pymitter_awaited),
        Peer("bubus", _bubus),
    ]
