"""A pace: how many entries are read at once. Few while the log is fresh, thousands in a backlog of quick handlers."""

from __future__ import annotations

__all__ = ["Pace"]

_FEWEST, _FIRST, _MOST = 32, 256, 8192
# Seconds that a batch should take: shorter ones are worth less than their settle, longer ones hold the others up.
_SHORT, _LONG = 0.25, 1.0


class Pace:
    """Grows by doubling while full batches are quick, shrinks by halving while they are slow."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or _FIRST
        self._fixed = size is not None

    def note(self, lanes: int, seconds: float) -> None:
        """A batch of so many lanes took so long."""
        if self._fixed:
            return
        if seconds > _LONG:
            self.size = max(_FEWEST, self.size // 2)
        elif seconds < _SHORT and lanes >= self.size // 2:
            self.size = min(_MOST, self.size * 2)
