"""Stages on the grounds: the effect of a transactional handler is an entry appended in the transaction of its mark."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.faults import Line, Trouble, Verbs


class Stages:
    """Those of one process."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def perform(self, work):
        with self.line.begin() as transaction:
            stage = Stage(transaction)
            result = work(stage)
            if stage.severed:
                raise Trouble("the connection was ended below the handlers")
            return result

    def blames(self, error: Exception) -> bool:
        """What a story lets go wrong is nobody's fault."""
        return False


class Stage:
    """One transaction. Its handlers are given its verbs as their session."""

    is_full = False

    def __init__(self, transaction: Verbs) -> None:
        self.transaction = self.session = transaction
        self.severed = False
        self._savepoint = None

    def enter(self) -> None:
        below = self.transaction._transaction
        if hasattr(below, "state"):
            self._savepoint = replace(below.state)
        else:
            below._connection.exec_driver_sql("SAVEPOINT attempt")
        self._calls = len(self.transaction._record.calls)

    def keep(self) -> None:
        below = self.transaction._transaction
        if not hasattr(below, "state"):
            below._connection.exec_driver_sql("RELEASE SAVEPOINT attempt")

    def drop(self) -> None:
        below = self.transaction._transaction
        if hasattr(below, "state"):
            below.state = self._savepoint
        else:
            below._connection.exec_driver_sql("ROLLBACK TO SAVEPOINT attempt")
            below._connection.exec_driver_sql("RELEASE SAVEPOINT attempt")
        del self.transaction._record.calls[self._calls :]

    def async_session(self):
        """No handler of a story is async."""

    def sever(self) -> None:
        self.severed = True

    def hint(self, error: BaseException) -> None:
        return None
