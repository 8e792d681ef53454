"""What happened inside, told as one frozen record per transition; and the listener that writes it to `logging`.

    undo = telemetry.listen(lambda record: histogram.observe(record.seconds), HandlerDone)

Records and their logger, level:

    Emitted, Appended, RolledBack               earnorm.events     DEBUG
    HandlerStarted, HandlerDone                 earnorm.handlers   DEBUG
    HandlerSkipped, EventMuted                  earnorm.handlers / earnorm.events   INFO
    DeadLetterReopened, DeadLetterDiscarded     earnorm.handlers   INFO
    HandlerFailed, DeliverySetAside, HookSlow   earnorm.handlers   WARNING
    HandlerDead, HandlerStuck                   earnorm.handlers   ERROR

A log line carries ids as fields (`extra`), never the payload, and escapes control characters.
DEBUG records are told only to those who asked: a listener of their type, or the level DEBUG on the logger `earnorm`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakMethod

from earnorm.event import Event

__all__ = [
    "Appended",
    "DeadLetterDiscarded",
    "DeadLetterReopened",
    "DeliverySetAside",
    "Emitted",
    "EventMuted",
    "HandlerDead",
    "HandlerDone",
    "HandlerFailed",
    "HandlerSkipped",
    "HandlerStarted",
    "HandlerStuck",
    "HookSlow",
    "Record",
    "RolledBack",
    "escaped",
    "follows_handlers",
    "listen",
    "on_change",
    "tell",
    "verbose",
    "wanted",
    "warn_of_late_emit",
]


@dataclass(frozen=True, slots=True)
class Record:
    """What every record has: the event it is about."""

    event: Event

    def sentence(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, slots=True)
class Emitted(Record):
    """An event was emitted; nothing is certain yet."""

    def sentence(self) -> str:
        return "emitted"


@dataclass(frozen=True, slots=True)
class Appended(Record):
    """An event was written to the log and its transaction committed."""

    def sentence(self) -> str:
        return "appended to the log"


@dataclass(frozen=True, slots=True)
class RolledBack(Record):
    """An emitted event went with its transaction or savepoint."""

    def sentence(self) -> str:
        return "rolled back"


@dataclass(frozen=True, slots=True)
class EventMuted(Record):
    """An event reached no handler, since a `muted()` block said so."""

    reason: str

    def sentence(self) -> str:
        return f"muted: {self.reason}"


@dataclass(frozen=True, slots=True)
class HandlerRecord(Record):
    """A record about one handler's run."""

    handler: str


@dataclass(frozen=True, slots=True)
class HandlerStarted(HandlerRecord):
    def sentence(self) -> str:
        return f"{self.handler} started"


@dataclass(frozen=True, slots=True)
class HandlerDone(HandlerRecord):
    seconds: float

    def sentence(self) -> str:
        return f"{self.handler} done in {self.seconds * 1000:.1f} ms"


@dataclass(frozen=True, slots=True)
class HandlerSkipped(HandlerRecord):
    reason: str

    def sentence(self) -> str:
        return f"{self.handler} skipped: {self.reason}"


@dataclass(frozen=True, slots=True)
class HandlerFailed(HandlerRecord):
    """A handler raised. Inside the transaction the error goes on to the caller (`propagated`), who reports it."""

    error: BaseException
    propagated: bool = False

    def sentence(self) -> str:
        return f"{self.handler} failed: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class DeliverySetAside(HandlerRecord):
    """A failed attempt waits for its next one, `seconds` from now."""

    seconds: float
    error: str

    def sentence(self) -> str:
        return f"{self.handler} set aside, next attempt in {self.seconds:.1f} s: {self.error}"


@dataclass(frozen=True, slots=True)
class HandlerDead(HandlerRecord):
    """A delivery became a dead letter."""

    error: str

    def sentence(self) -> str:
        return f"{self.handler} gave up, dead letter kept: {self.error}"


@dataclass(frozen=True, slots=True)
class DeadLetterReopened(HandlerRecord):
    """Somebody asked for one more attempt."""

    def sentence(self) -> str:
        return f"{self.handler} is to have attempt {self.event.attempt}"


@dataclass(frozen=True, slots=True)
class DeadLetterDiscarded(HandlerRecord):
    """Somebody removed a dead letter, whose error this was."""

    error: str

    def sentence(self) -> str:
        return f"{self.handler} will not be tried again, dead letter discarded: {self.error}"


@dataclass(frozen=True, slots=True)
class HandlerStuck(HandlerRecord):
    """A handler goes on past its timeout and cannot be stopped: a thread, or a coroutine that swallows being cancelled.

    The attempt counts as timed out and others go on without it. `stack` is where it stands, innermost last.
    """

    seconds: float
    stack: str

    def sentence(self) -> str:
        return f"{self.handler} cannot be stopped after {self.seconds:.1f} s and is left to itself"


@dataclass(frozen=True, slots=True)
class HookSlow(HandlerRecord):
    """Code inside the transaction took longer than its budget."""

    seconds: float
    budget: float
    remedy: str

    def sentence(self) -> str:
        return (
            f"{self.handler} held the transaction for {self.seconds * 1000:.0f} ms "
            f"(budget {self.budget * 1000:.0f} ms); move it after the commit: {self.remedy}"
        )


Listener = Callable[[Any], object]

_LEVELS: dict[type[Record], int] = {
    Emitted: logging.DEBUG,
    Appended: logging.DEBUG,
    RolledBack: logging.DEBUG,
    EventMuted: logging.INFO,
    HandlerStarted: logging.DEBUG,
    HandlerDone: logging.DEBUG,
    HandlerSkipped: logging.INFO,
    HandlerFailed: logging.WARNING,
    DeliverySetAside: logging.WARNING,
    HandlerDead: logging.ERROR,
    DeadLetterReopened: logging.INFO,
    DeadLetterDiscarded: logging.INFO,
    HandlerStuck: logging.ERROR,
    HookSlow: logging.WARNING,
}

_EVERY_STEP = frozenset({Emitted, RolledBack, HandlerStarted, HandlerDone})

_events_log = logging.getLogger("earnorm.events")
_root_log = logging.getLogger("earnorm")
_handlers_log = logging.getLogger("earnorm.handlers")
_log = logging.getLogger("earnorm.telemetry")
# What `logging` remembers of `_root_log.isEnabledFor`, by level, until some level is set anew: looked at before
# `verbose` is asked, where each call counts.
remembered: dict[int, bool] = vars(_root_log)["_cache"]
_of_handlers: dict[int, bool] = vars(_handlers_log)["_cache"]
_of_events: dict[int, bool] = vars(_events_log)["_cache"]
_root_log.addHandler(logging.NullHandler())

_stepping = False
_listeners: dict[type[Record], list[Listener]] = {}
_changed: list[WeakMethod[Callable[[], object]]] = []


def listen(listener: Listener, *types: type[Record]) -> Callable[[], None]:
    """Tell `listener` every record of `types` (all, if none is named) from now on; returns what undoes it.

    A listener that raises is logged and harms nobody.
    """
    chosen = types or tuple(_LEVELS)
    for kind in chosen:
        _listeners.setdefault(kind, []).append(listener)
    _announce_change()

    def undo() -> None:
        for kind in chosen:
            if listener in _listeners.get(kind, ()):
                _listeners[kind].remove(listener)
            if not _listeners.get(kind):
                _listeners.pop(kind, None)
        _announce_change()

    return undo


def warn_of_late_emit(name: str) -> None:
    """An event that durable handlers hear was emitted when its database had been closed."""
    _events_log.warning(
        "%s was emitted after the database was closed: its handlers run here and now, and nothing is kept; "
        "emit before close(), or connect() again",
        name,
        extra={"event_name": name},
    )


def on_change(callback: Callable[[], object]) -> None:
    """Call back whenever somebody starts or stops listening (buses recompile what they dispatch with).

    `callback` is a bound method, held only as long as its object.
    """
    _changed.append(WeakMethod(callback, _changed.remove))


def _announce_change() -> None:
    global _stepping  # noqa: PLW0603  # asked on every flush, so that it is kept rather than worked out
    _stepping = not _listeners.keys().isdisjoint(_EVERY_STEP)
    for reference in tuple(_changed):
        if (callback := reference()) is not None:
            callback()


def wanted(kind: type[Record]) -> bool:
    """Whether a record of this type would reach anybody."""
    return bool(_listeners.get(kind)) or _logger(kind).isEnabledFor(_LEVELS[kind])


def stepping() -> bool:
    """Whether a listener wants the records that tell every step."""
    return _stepping


def verbose() -> bool:
    """Whether anybody wants the records that tell every step, listener or log."""
    return _stepping or _root_log.isEnabledFor(logging.DEBUG)


def follows_handlers() -> bool:
    """Whether anybody may want to know of each handler that starts or is done: `wanted` says it exactly, and slower."""
    # What `logging` remembers first: this is asked twice for each delivery.
    return _stepping or (_of_handlers.get(logging.DEBUG) is not False and _handlers_log.isEnabledFor(logging.DEBUG))


def follows_events() -> bool:
    """`follows_handlers`, of each event that is emitted."""
    return _stepping or (_of_events.get(logging.DEBUG) is not False and _events_log.isEnabledFor(logging.DEBUG))


def tell(record: Record) -> None:
    """Hand a record to its listeners and to `logging`."""
    kind = type(record)
    for listener in tuple(_listeners.get(kind, ())):
        try:
            listener(record)
        except Exception:  # noqa: BLE001  # a listener is somebody else's code
            _log.exception("a telemetry listener failed on %s", kind.__name__)
    _write(record)


def _logger(kind: type[Record]) -> logging.Logger:
    return _handlers_log if issubclass(kind, HandlerRecord) else _events_log


def _write(record: Record) -> None:
    kind = type(record)
    logger, level = _logger(kind), logging.DEBUG if getattr(record, "propagated", False) else _LEVELS[kind]
    if not logger.isEnabledFor(level):
        return
    event = record.event
    line = escaped(f"{event.name}{' ' + event.key if event.key else ''}: {record.sentence()}")
    error = getattr(record, "error", None)
    trace = error if isinstance(error, BaseException) else None
    if isinstance(record, HandlerStuck):
        line = f"{line}\n{record.stack}"
    logger.log(level, "%s", line, extra=_fields(record), exc_info=trace)


def _fields(record: Record) -> dict[str, Any]:
    event = record.event
    fields: dict[str, Any] = {
        "event_id": str(event.id),
        "event_name": escaped(event.name),
        "event_key": escaped(event.key),
        "correlation_id": str(event.correlation_id),
        "causation_id": str(event.causation_id) if event.causation_id else None,
        "attempt": event.attempt,
        "transition": type(record).__name__,
    }
    if isinstance(record, HandlerRecord):
        fields["handler"] = escaped(record.handler)
    return fields


def escaped(text: str) -> str:
    """`text` on one line: control characters, separators and lone surrogates as escapes (log injection, CWE-117)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
