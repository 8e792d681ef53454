"""An append at the end of a transaction: written before the COMMIT, or gone to the server with it."""

from __future__ import annotations

from collections.abc import Sequence

from earnorm.multitude import Happening

__all__ = ["NOTHING", "Appending"]


class Appending:
    """The events that a transaction keeps.

    With `committed` its COMMIT went with them, and the driver has none left to do; `told` says whether that told the
    workers of them.
    """

    __slots__ = ("committed", "kept", "told")

    def __init__(self, kept: Sequence[Happening] = (), *, committed: bool = False, told: bool = False) -> None:
        self.kept = kept
        self.committed = committed
        self.told = told


NOTHING = Appending()
