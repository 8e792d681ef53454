"""An append at the end of a transaction: written before the COMMIT, or held back to go to the server with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from earnorm.multitude import Happening

__all__ = ["Appending"]


class Appending:
    """The events that a transaction keeps. `last` sends what is held back together with COMMIT, and says whether it
    could; where not, `now` appends it in the ordinary way and returns what is kept then.
    """

    def __init__(
        self,
        kept: Sequence[Happening] = (),
        last: Callable[[], bool] | None = None,
        now: Callable[[], Sequence[Happening]] | None = None,
    ) -> None:
        self.kept = kept
        self._last = last
        self._now = now

    def finish(self) -> None:
        """Before the driver's COMMIT, which has nothing left to do if it went with what was held back."""
        last, self._last = self._last, None
        if last is not None and not last() and self._now is not None:
            self.kept = self._now()
