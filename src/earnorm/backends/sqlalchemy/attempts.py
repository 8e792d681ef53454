"""The SQL store's verbs on failed attempts, which are kept beside deliveries set aside and forgotten with them."""

from __future__ import annotations

from collections.abc import Sequence

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.rows import attempt_row, to_attempt
from earnorm.backends.sqlalchemy.verbs import Verbs
from earnorm.delivery import Attempt
from earnorm.store import ATTEMPTS_KEPT

__all__ = ["AttemptVerbs"]


class AttemptVerbs(Verbs):
    """What is remembered of deliveries that failed."""

    __slots__ = ()

    def attempts(self, delivery: int) -> list[Attempt]:
        if delivery >= tables.BEYOND:
            return []
        return [to_attempt(row) for row in self._statements.attempts(self._connection, row=delivery)]

    def _write_attempts(self, attempts: Sequence[Attempt]) -> None:
        if attempts:
            self._dialect.insert(self._connection, tables.attempt, [attempt_row(attempt) for attempt in attempts])
        for attempt in attempts:
            if attempt.number > ATTEMPTS_KEPT:
                words = {"event_id": attempt.event.bytes, "called": attempt.subscription}
                self._statements.trim_attempts(self._connection, **words)
