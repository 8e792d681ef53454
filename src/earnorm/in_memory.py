"""In memory: an emit with no transaction around it, and what its handlers emit, as if they had one together."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from earnorm.dispatch import Caller, Dispatcher, Outbox
from earnorm.multitude import singly
from earnorm.occurrence import Occurrence

__all__ = ["run_now"]


@dataclass(frozen=True, slots=True)
class _Here:
    """An emit that is under way in this context."""

    outbox: Outbox
    dispatcher: Dispatcher


_here: ContextVar[_Here | None] = ContextVar("earnorm_here", default=None)


def run_now(occurrence: Occurrence, caller: Caller) -> Iterable[Occurrence]:
    """Run the transaction handlers. Returns what is certain then: of an emit within another one nothing yet."""
    outer = _here.get()
    if outer is not None:
        outer.outbox.emit(occurrence, caller, outer.dispatcher)
        return ()
    here = _Here(Outbox(), Dispatcher())
    token = _here.set(here)
    try:
        here.outbox.emit(occurrence, caller, here.dispatcher)
    finally:
        _here.reset(token)
    return singly(here.outbox.happenings)
