"""Watching: who captures the events of a bus, and who has muted some of them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from earnorm import telemetry
from earnorm.errors import InvalidReason
from earnorm.event import Event
from earnorm.names import Patterns
from earnorm.occurrence import Occurrence

__all__ = ["Watch"]


@dataclass(frozen=True, slots=True, eq=False)
class _Muting:
    watch: Watch
    patterns: Patterns
    reason: str


# Of this task or thread alone, so that an import that mutes leaves live traffic as it is.
_mutings: ContextVar[tuple[_Muting, ...]] = ContextVar("earnorm_mutings", default=())


class Watch:
    """Captures and mutings of one bus. While there are none, a bus need not look. `changed` is told of each."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._captures: list[tuple[Patterns, list[Event]]] = []
        self._mutings = 0

    @property
    def active(self) -> bool:
        return bool(self._captures or self._mutings)

    @contextmanager
    def capture(self, patterns: Sequence[str]) -> Iterator[list[Event]]:
        entry = (Patterns.parse(patterns or ("**",)), list[Event]())
        self._captures.append(entry)
        self._changed()
        try:
            yield entry[1]
        finally:
            self._captures = [other for other in self._captures if other is not entry]
            self._changed()

    @contextmanager
    def muted(self, patterns: Sequence[str], reason: object) -> Iterator[None]:
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidReason(reason)
        token = _mutings.set((*_mutings.get(), _Muting(self, Patterns.parse(patterns), reason)))
        self._mutings += 1
        self._changed()
        try:
            yield
        finally:
            _mutings.reset(token)
            self._mutings -= 1
            self._changed()

    def silences(self, occurrence: Occurrence) -> bool:
        """Whether the event is muted here; if not, captures see it."""
        for muting in _mutings.get() if self._mutings else ():
            if muting.watch is self and muting.patterns.matches(occurrence.name):
                telemetry.tell(telemetry.EventMuted(occurrence.event, muting.reason))
                return True
        for patterns, seen in self._captures:
            if patterns.matches(occurrence.name):
                seen.append(occurrence.event)
        return False
