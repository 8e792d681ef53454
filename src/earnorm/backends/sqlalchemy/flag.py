"""The flag of a flush: a Session refuses to flush while it takes itself to be flushing."""

from __future__ import annotations

from sqlalchemy.orm import Session

__all__ = ["flagged"]


class flagged:  # noqa: N801  # reads as a word of `with`; a generator's context manager costs three times as much
    """What runs inside finds the flag as given: lowered, it may save though the flush around it is not over."""

    __slots__ = ("_before", "_flushing", "_session")

    def __init__(self, session: Session, *, flushing: bool) -> None:
        self._session = session
        self._flushing = flushing

    def __enter__(self) -> None:
        self._before, self._session._flushing = self._session._flushing, self._flushing

    def __exit__(self, *_: object) -> None:
        self._session._flushing = self._before
