"""A stage: a transaction that transactional handlers run in, one after another, and that their settle ends.

A contract beside the store's: what the handlers wrote and what says that they are done are committed by one COMMIT.
Whatever implements it must pass `earnorm.testing.stage_suite.StageSuite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from earnorm.store import Transaction

__all__ = ["Stage", "Stages"]

T = TypeVar("T")


class Stage(Protocol):
    """One transaction. Between `enter` and `keep` or `drop` it belongs to one attempt."""

    @property
    def transaction(self) -> Transaction:
        """The store's verbs, in it."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether no other attempt should begin in it."""
        ...

    @property
    def session(self) -> Any:
        """What the attempt is given as `session`; an async handler is given `async_session()`."""
        ...

    def async_session(self) -> Any: ...

    def enter(self) -> None:
        """An attempt begins, in the context that runs here: the doors called in it open into this transaction."""
        ...

    def keep(self) -> None:
        """It is done, and what it wrote stays. Raises what the database has against that; then it is to be dropped."""
        ...

    def drop(self) -> None:
        """It failed: undo what it wrote, and let what was kept before stand. Raises ConnectionLost."""
        ...

    def hint(self, error: BaseException) -> str | None:
        """What to do about an error of the attempt, where it has to do with running on a stage."""
        ...

    def sever(self) -> None:
        """Break the connection under an attempt that cannot be stopped, from another thread: nothing of it commits."""
        ...


class Stages(Protocol):
    """Where stages come from."""

    def perform(self, work: Callable[[Stage], T]) -> T:
        """Do `work` on a new stage and commit; if it raises, all of it is rolled back. Raises ConnectionLost."""
        ...

    def blames(self, error: Exception) -> bool:
        """Whether what refused a commit is to blame on what was written in it, and would refuse it again."""
        ...

    async def aperform(self, work: Callable[[Stage], T]) -> T:
        """`perform`, on the loop that runs here: `work` is sync code that may `await_here`."""
        ...
