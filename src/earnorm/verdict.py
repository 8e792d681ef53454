"""The verdict on an attempt that did not end well: its outcome, the text that is kept of it, and its fingerprint."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, TracebackType

from earnorm.backoff import Backoff
from earnorm.delivery import Dead, Outcome, Retry, Skipped
from earnorm.durations import LONGEST, seconds_of
from earnorm.errors import (
    ConnectionLost,
    Control,
    Discard,
    EventLoopError,
    InvalidDuration,
    MissingPayload,
    PayloadError,
    RetryLater,
    SensitiveArgument,
    StopPropagation,
    UnsatisfiableArgument,
    ValidationFailed,
)
from earnorm.telemetry import escaped

__all__ = ["FAILURES", "STOPPED", "Verdict", "error_text", "is_no_attempt", "judge", "process_ends"]

# What a handler may raise and still harm only itself. The last two would otherwise end a thread or a loop.
FAILURES = (Exception, SystemExit, asyncio.CancelledError)

# No later attempt would find anything else.
_HOPELESS = (
    EventLoopError,
    MissingPayload,
    PayloadError,
    SensitiveArgument,
    UnsatisfiableArgument,
    ValidationFailed,
)

STOPPED = (
    "stop_propagation() means nothing in a durable handler, since each is delivered on its own; "
    "raise Discard(reason) to skip this delivery"
)

_TEXT = 4_096
_SUMMARY = 1_000
_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is kept of an error: its text, the first line of which says what, and its fingerprint."""

    text: str
    fingerprint: str

    @classmethod
    def of(cls, error: BaseException, handler: str, stack: str = "") -> Verdict:
        """`stack` is where the handler stands that cannot be stopped, in place of a traceback."""
        place = _place(error.__traceback__) or handler
        return cls(error_text(error, stack), _fingerprint(type(error).__qualname__, _message(error), place))

    @classmethod
    def of_words(cls, kind: str, words: str, handler: str) -> Verdict:
        """Of a reason that a handler gave without an error."""
        return cls(escaped(words)[:_TEXT], _fingerprint(kind, words, handler))


def judge(error: BaseException, text: str, attempt: int, backoff: Backoff, chance: float) -> Outcome:
    """The outcome of attempt number `attempt` that ended in `error`, whose text is kept as `text`."""
    if isinstance(error, Discard):
        return Skipped(escaped(_message(error)))
    if isinstance(error, StopPropagation):
        return Dead(STOPPED)
    if isinstance(error, _HOPELESS) or backoff.exhausted(attempt):
        return Dead(text)
    if isinstance(error, RetryLater):
        return _asked(error.after, attempt, backoff, chance, text)
    return Retry(min(backoff.wait(attempt, chance), LONGEST), text)


def _asked(after: object, attempt: int, backoff: Backoff, chance: float, text: str) -> Retry:
    """A wait that the handler chose. A number past the limits is brought within them; of what is none, all is said."""
    if isinstance(after, (int, float)):
        # max() in this order also makes 0 of what is no number.
        return Retry(min(max(0.0, after), LONGEST), text)
    try:
        return Retry(seconds_of(after), text)
    except InvalidDuration as error:
        return Retry(min(backoff.wait(attempt, chance), LONGEST), f"{text}\n{error_text(error)}"[:_TEXT])


def error_text(error: BaseException, stack: str = "") -> str:
    """The error as a delivery keeps it: type and message, then the last lines of the traceback, about 4 KB at most.

    Control characters are escaped, so that no message can forge lines or break a terminal.
    """
    summary = escaped(f"{type(error).__name__}: {_message(error)}"[:_SUMMARY])
    if isinstance(error, Control):
        return summary[:_TEXT]
    lines = (stack or "".join(traceback.format_tb(error.__traceback__, -_FRAMES))).splitlines()
    kept = "\n".join(map(escaped, lines))[-(_TEXT - len(summary) - 1) :]
    notes = "".join(f"\n{escaped(note)}" for note in getattr(error, "__notes__", ()))
    return f"{summary}{notes[:_SUMMARY]}\n{kept}"[:_TEXT]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  an error's text is code of the user
        return "(its text cannot be shown)"


# --- fingerprints ----------------------------------------------------------------------------

# What differs between two errors of one kind: quoted values, addresses, ids, numbers.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"\b0[xX][0-9a-fA-F]+|\b[0-9a-f]{12,}\b|\d+(?:[.,:]\d+)*")
_PLACES_OF_LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),)
_OURSELVES = str(Path(__file__).parent)


def _fingerprint(kind: str, message: str, place: str) -> str:
    """Twelve hex digits, the same for errors of one type, kind of message and place in the application's code.

    The place is the innermost function outside libraries, without its line, so that it survives an edit above it.
    """
    words = "\0".join((kind, _normalised(message), place))
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _normalised(message: str) -> str:
    text = _UUID.sub("#", _QUOTED.sub("'#'", message[:_SUMMARY]))
    return _NUMBER.sub("#", text)


def _place(trace: TracebackType | None) -> str:
    own = [code for code in _codes(trace) if not _is_library(code.co_filename)]
    return f"{Path(own[-1].co_filename).name}:{own[-1].co_qualname}" if own else ""


def _codes(trace: TracebackType | None) -> Iterator[CodeType]:
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next


@lru_cache(maxsize=1024)
def _is_library(file: str) -> bool:
    return file.startswith(("<earnorm ", "<frozen ", *_PLACES_OF_LIBRARIES, _OURSELVES))


def is_no_attempt(error: BaseException) -> bool:
    """Whether it says nothing of the handler: the connection was lost as its record was loaded, or `process_ends`."""
    return isinstance(error, ConnectionLost) or process_ends(error)


def process_ends(error: BaseException) -> bool:
    """Whether this is no failure of the handler but the end of its task or of the interpreter."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        return task is not None and task.cancelling() > 0
    # Not of its text: that is code of the user.
    words = error.args[0] if isinstance(error, RuntimeError) and error.args else None
    refused = isinstance(words, str) and "cannot schedule new futures" in words
    return refused and not threading.main_thread().is_alive()
