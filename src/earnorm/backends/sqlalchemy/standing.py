"""A standing: where the events of a scope went last, for those that follow in the same transaction."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState

from earnorm.backends.sqlalchemy.boundary import is_outbox_of
from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.outbox import ConnectionOutbox

__all__ = ["Standing", "standing_of"]


class Standing(NamedTuple):
    """`found` is the model that the events are about. To ask the session again costs as much as to emit one."""

    transaction: SessionTransaction
    found: Mapping | None
    connection: Connection
    outbox: ConnectionOutbox

    def serves(self, session: Session, found: Mapping | None) -> bool:
        """Whether the session would give the same answer. A savepoint is a transaction of its own, yet to be begun."""
        transaction = self.transaction
        return (
            found is self.found
            and session._transaction is transaction
            and transaction._state is SessionTransactionState.ACTIVE
            and is_outbox_of(self.connection, self.outbox)
        )


def standing_of(
    session: Session, found: Mapping | None, connection: Connection, outbox: ConnectionOutbox
) -> Standing | None:
    """None for a session that has a mind of its own about where things go."""
    transaction = session._transaction
    if transaction is None or type(session).get_bind is not Session.get_bind:
        return None
    return Standing(transaction, found, connection, outbox)
