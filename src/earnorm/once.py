"""Once: which emits under an idempotency key have happened on a bus without a database, in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from earnorm.emission import Emit
from earnorm.errors import KeyReused, NotConnected
from earnorm.handle import Handle, MutedHandle, RepeatedHandle, handle_of
from earnorm.occurrence import Occurrence

__all__ = ["REMEMBERED", "Once"]

REMEMBERED = 10_000
"""How many are remembered, the last ones."""

_Place = tuple[str | None, str, str]


class Once:
    """The first occurrence under each key. One that was vetoed or muted never was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[_Place, Occurrence] = OrderedDict()

    def run(self, occurrence: Occurrence, options: Emit, run: Callable[[Occurrence], Handle]) -> Handle:
        """`run` it, unless an earlier emit had its key. Raises NotConnected, KeyReused."""
        if options.later:
            raise NotConnected(f"{occurrence.name} is emitted for later, which only a log remembers")
        if options.key is None:
            return run(occurrence)
        first = self._first(options.key, occurrence)
        if first is not None:
            return first
        try:
            handle = run(occurrence)
        except BaseException:
            self._forget(options.key, occurrence)
            raise
        if isinstance(handle, MutedHandle):
            self._forget(options.key, occurrence)
        return handle

    def clear(self) -> None:
        """Remember none of them any more."""
        with self._lock:
            self._known.clear()

    def _first(self, key: str, occurrence: Occurrence) -> Handle | None:
        """The handle of the emit that had the key before, or None: this one has it now."""
        with self._lock:
            known = self._known.setdefault(_place(key, occurrence), occurrence)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if known is occurrence:
            return None
        if known.subject != occurrence.subject or known.payload != occurrence.payload:
            raise KeyReused(occurrence.name, key, str(known.event.id))
        return RepeatedHandle(of=handle_of(known.event))

    def _forget(self, key: str, occurrence: Occurrence) -> None:
        with self._lock:
            if self._known.get(_place(key, occurrence)) is occurrence:
                del self._known[_place(key, occurrence)]


def _place(key: str, occurrence: Occurrence) -> _Place:
    return occurrence.tenant, occurrence.name, key
