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
    the ordinary way and returns what is kept then. `tells` is whether `last` tells the workers, too.
    """

    def __init__(
        self,
        kept: Sequence[Happening],
        last: Callable[[], bool],
        now: Callable[[], Sequence[Happening]],
        *,
        tells: bool,
    ) -> None:
        super().__init__(kept)
        self._last = last
        self._now = now
        self._tells = tells

    def finish(self) -> None:
        if self._last():
            self.told = self._tells
        else:
            self.kept = self._now()
