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
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, TracebackType

from earnorm.backoff import Backoff, RetryRules
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
from earnorm.portal import GreenletExit
from earnorm.telemetry import escaped

__all__ = ["STOPPED", "Verdict", "error_text", "is_no_attempt", "judge", "process_ends"]

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
_LINE = 200
_BEHIND = 8
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


def judge(
    error: BaseException, text: str, attempt: int, backoff: Backoff, chance: float, *, rules: RetryRules | None = None
) -> Outcome:
    """The outcome of attempt number `attempt` that ended in `error`, whose text is kept as `text`.

    `rules` are those that the handler has; `backoff` is what they say of this error.
    """
    if isinstance(error, Discard):
        return Skipped(escaped(_message(error)))
    if isinstance(error, StopPropagation):
        return Dead(STOPPED)
    if _is_hopeless(error, rules) or backoff.exhausted(attempt):
        return Dead(text)
    if isinstance(error, RetryLater):
        return _asked(error.after, attempt, backoff, chance, text)
    return Retry(min(backoff.wait(attempt, chance), LONGEST), text)


def _is_hopeless(error: BaseException, rules: RetryRules | None) -> bool:
    """Whether no later attempt would help, unless the handler says of this very error that one would."""
    named = rules.named(type(error)) if rules is not None else None
    return isinstance(error, _HOPELESS) and not (named is not None and issubclass(named, _HOPELESS))


def _asked(after: object, attempt: int, backoff: Backoff, chance: float, text: str) -> Retry:
    """A wait that the handler chose. One past the limits is brought within them; of what is none, all is said."""
    if isinstance(after, timedelta):
        after = after.total_seconds()
    if isinstance(after, (int, float)) and not isinstance(after, bool):
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
    head = f"{summary}{_notes(error)[:_SUMMARY]}{_behind(error)}"[: _TEXT - 1]
    lines = (stack or "".join(traceback.format_tb(error.__traceback__, -_FRAMES))).splitlines()
    kept = "\n".join(map(escaped, lines))
    return f"{head}\n{kept[max(0, len(kept) - (_TEXT - len(head) - 1)) :]}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001  an error's text is code of the user
        return "(its text cannot be shown)"


def _notes(error: BaseException) -> str:
    """Each on a line of its own. Whatever stands where notes are kept, as the interpreter has it."""
    try:
        return "".join(f"\n{escaped(str(note))}" for note in getattr(error, "__notes__", ()))
    except BaseException:  # noqa: BLE001  as above
        return "\n(its notes cannot be shown)"


def _behind(error: BaseException) -> str:
    """What it came of, and what a group holds, each on a line: a task group's own message names none of them."""
    return "".join(f"\n{escaped(line)}" for line in islice(_behind_it(error, {id(error)}), _BEHIND))


def _behind_it(error: BaseException, seen: set[int]) -> Iterator[str]:
    held = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    cause = error.__context__ if error.__cause__ is None and not error.__suppress_context__ else error.__cause__
    for word, other in (*(("in it", one) for one in held), ("because of", cause)):
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            yield f"{word} {type(other).__name__}: {_message(other)}"[:_LINE]
            yield from _behind_it(other, seen)


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


def is_no_attempt(error: BaseException, *, awaited: bool = False) -> bool:
    """Whether it says nothing of the handler: the connection was lost as its record was loaded, or `process_ends`."""
    return isinstance(error, ConnectionLost) or process_ends(error, awaited=awaited)


def process_ends(error: BaseException, *, awaited: bool = False) -> bool:
    """Whether this is no failure of the handler but the end of its task or of the interpreter.

    `awaited` is said of a handler that a loop may leave behind, to be closed with whatever else it was closed over.
    """
    match error:
        case asyncio.CancelledError():
            task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
            return task is not None and task.cancelling() > 0
        case KeyboardInterrupt():
            # Python raises it in no other thread.
            return threading.current_thread() is threading.main_thread()
        case GreenletExit():
            return True
        case GeneratorExit():
            return awaited and asyncio._get_running_loop() is None
        case _:
            pass
    # Not of its text: that is code of the user.
    words = error.args[0] if isinstance(error, RuntimeError) and error.args else None
    refused = isinstance(words, str) and "cannot schedule new futures" in words
    return refused and not threading.main_thread().is_alive()
