"""An append at the end of a transaction: written before the COMMIT, or held back to go to the server with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from earnorm.multitude import Happening

__all__ = ["Appending", "HeldBack"]


class Appending:
    """The events that a transaction keeps, and whether the workers were told of them by its COMMIT already."""

    told = False

    def __init__(self, kept: Sequence[Happening] = ()) -> None:
        self.kept = kept

    def finish(self) -> None:
        """Before the driver's COMMIT, which has nothing left to do if it went with what was held back."""


class HeldBack(Appending):
    """`last` sends what is held back together with COMMIT, and says whether it could; where not, `now` appends it in
    the ordinary way and returns what is kept then. What `last` may tell the workers, `claim` says.
    """

    def __init__(
        self,
        kept: Sequence[Happening],
        last: Callable[[str | None], bool],
        now: Callable[[], Sequence[Happening]],
        claim: Callable[[], str | None],
    ) -> None:
        super().__init__(kept)
        self._last = last
        self._now = now
        self._claim = claim

    def finish(self) -> None:
        tell = self._claim()
        if self._last(tell):
            self.told = tell is not None
        else:
            self.kept = self._now()
