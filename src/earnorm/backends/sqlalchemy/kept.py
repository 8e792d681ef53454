"""Kept: a new record alone in its flush, of which a log learns and nobody else, as of most that applications write.

What is to be known of it is taken down in three steps, a function each; the long way (`hooks`) takes thirty.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.state import InstanceState

from earnorm.backends.sqlalchemy.hooks import attach_session
from earnorm.backends.sqlalchemy.mapping import Mapping
from earnorm.backends.sqlalchemy.opening import EXPECTED, OPENED, outbox_in, require_boundary
from earnorm.occurrence import Occurrence

__all__ = ["KEPT", "expect", "look", "tell"]

# In a flush's `attributes`: the record (held, as a Session lets go of what it has written), its values, its outbox.
KEPT = "earnorm_kept"


def expect(session: Session, context: UOWTransaction, state: InstanceState[Any], mapping: Mapping) -> None:
    """Before the SQL. Raises AutocommitRefused, BindNotConnected."""
    transaction = session._transaction
    if transaction is not None and transaction.parent is None and not transaction._connections:
        # The flush opens the connection, and with it the outbox.
        session.__dict__[EXPECTED] = {session.get_bind(state.manager.mapper.base_mapper).engine: mapping}
    else:
        require_boundary(session, context, state, mapping)
    context.attributes[KEPT] = [state.obj(), None, None]


def look(session: Session, context: UOWTransaction, mapping: Mapping) -> None:
    """After the SQL, when its values are known."""
    kept = context.attributes[KEPT]
    loaded, opened = kept[0].__dict__, session.__dict__.pop(EXPECTED, None)
    # Nothing is left to be read, so what nobody has set, and no default has, is NULL in its row.
    kept[1] = {name: loaded.get(name) for name in mapping.columns}
    if opened is not None:
        kept[2] = opened.get(OPENED)


def tell(session: Session, context: UOWTransaction, state: InstanceState[Any], mapping: Mapping, name: str) -> None:
    """Once the flush is done: into the outbox."""
    record, values, outbox = context.attributes[KEPT]
    identity = mapping.identity(state)
    occurrence = Occurrence(name, record, values, kind="created", info=mapping.info, identity=identity)
    attach_session(occurrence, session)
    if outbox is None:
        outbox = outbox_in(session, context, state, mapping)
    outbox.keep(occurrence)
