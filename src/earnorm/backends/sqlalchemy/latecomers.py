"""Latecomers: `before_flush` listeners of others that run after ours, and may add, change or delete records.

SQLAlchemy calls listeners in the order they were registered, those of one Session last of all. What others have done
is looked at once all of them are done: in the flush's own subtransaction, the last point before its SQL.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin

__all__ = ["LOOK", "after_others"]

# On a Session that we listen to: what is to be done in the flush that is under way. A table of ours would keep a
# Session alive whose flush ended before its SQL; where one did, the next flush puts its own in its place.
LOOK = "earnorm_look_again"


def after_others(session: Session, look: Callable[[], None]) -> None:
    """Call `look` when every listener of this flush has run, before its SQL."""
    if LOOK not in vars(session):
        event.listen(session, "after_transaction_create", _begun)
    vars(session)[LOOK] = look


def _begun(session: Session, transaction: SessionTransaction) -> None:
    if not session._flushing or transaction.origin is not SessionTransactionOrigin.SUBTRANSACTION:
        return
    look: Callable[[], None] | None = vars(session).get(LOOK)
    if look is None:
        return
    vars(session)[LOOK] = None
    try:
        look()
    except BaseException:
        # The flush has not got hold of its subtransaction yet, and so would leave it open.
        session._transaction = transaction.parent
        raise
