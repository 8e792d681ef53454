"""The safe horizon of a PostgreSQL log: the lock that writers take, and how a reader learns how far it may read.

Positions are given out before their transactions commit, and those commit in any order; so a reader that trusts the
last position it sees steps over rows that are still to come. A trigger lets each writer hold a shared advisory lock
whose key is a lower bound of its positions. A reader takes the lowest of those locks for the end of what is safe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from earnorm.backends.sqlalchemy import tables
from earnorm.clock import Clock

__all__ = ["GUARDS", "Holder", "Horizon", "holder_of"]

_log = logging.getLogger("earnorm.log")

SEQUENCE = f"{tables.log.name}_position_seq"
TRIGGER = "earnorm_log_horizon"
STALLED_AFTER = 5.0

# The key: 16 bits that tell the logs of one database apart, then 48 bits of position. The 16 are the low ones of the
# table's oid: both sides have it at hand, whatever the schema is called and wherever it was restored. Two logs whose
# oids agree in them, or a lock of the application that looks like ours, hold a horizon back and move none forward.
_NAMESPACE_BITS = 65535

# Not dynamic (pg_get_serial_sequence): 8 µs a transaction, not 41. So the schema stands in the function, on its fixed
# search_path; pg_temp is last, or a temporary table of the sequence's name would be read for it. SECURITY DEFINER,
# since a role that may only insert cannot read the sequence. The flag is reverted with the lock by a savepoint's
# rollback, and is one for each log that the transaction writes to.
#
# Two expressions, which PL/pgSQL evaluates by itself: as PERFORM each is a query, and the function takes half as long
# again. AND goes from left to right as long as no side of it is a constant; the lock is taken for being no NULL. Of a
# sequence that has given nothing out `pg_sequence_last_value` is NULL, and 0 is below whatever it begins with.
_FUNCTION = f"""\
DO $earnorm$
BEGIN
  EXECUTE replace($create$
    CREATE OR REPLACE FUNCTION {TRIGGER}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, <schema>, pg_temp AS $body$
    DECLARE
      flag text;
    BEGIN
      IF current_setting('earnorm.h' || TG_RELID::text, true) IS DISTINCT FROM 'y'
        AND pg_advisory_xact_lock_shared(
          ((TG_RELID::bigint & {_NAMESPACE_BITS}) << 48) | coalesce(pg_sequence_last_value('{SEQUENCE}'), 0)
        ) IS NOT NULL
      THEN
        flag := set_config('earnorm.h' || TG_RELID::text, 'y', true);
      END IF;
      RETURN NULL;
    END $body$
  $create$, '<schema>', quote_ident(current_schema()));
END $earnorm$"""

GUARDS: Sequence[str] = (
    _FUNCTION,
    f"""\
CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT ON {tables.log.name}
FOR EACH STATEMENT EXECUTE FUNCTION {TRIGGER}()""",
    # ALWAYS: session_replication_role = replica, which restores and appliers set, switches other triggers off.
    f"ALTER TABLE {tables.log.name} ENABLE ALWAYS TRIGGER {TRIGGER}",
)
"""What stands beside the table of the log. Each does nothing that is done already."""

_LAST = f"SELECT last_value - (NOT is_called)::int FROM {SEQUENCE}"  # noqa: S608  a name of ours

# Locks of all databases stand in one view. Ones still waited for are counted too: they hold back, and lose nothing.
_IS_OURS = f"""\
l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock'
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.classid::bigint >> 16 = '{tables.log.name}'::regclass::oid::bigint & {_NAMESPACE_BITS}"""  # noqa: S608  names of ours
_BOUND = f"(((l.classid::bigint & {_NAMESPACE_BITS}) << 32) | l.objid::bigint)"
_LOWEST = f"SELECT min({_BOUND}) FROM pg_locks l WHERE {_IS_OURS}"  # noqa: S608  names of ours

# In front of the lowest bundle.
_IN_FRONT = f"SELECT min(first) - 1 FROM {tables.bundle.name}"  # noqa: S608  a name of ours

_LOWEST_OF_OTHERS = f"{_LOWEST} AND l.pid IS DISTINCT FROM pg_backend_pid()"

# The locks of a prepared transaction have no pid; one of them is on its xid, which leads to its gid.
_HOLDER = f"""\
SELECT l.pid, p.gid, a.application_name, clock_timestamp() - coalesce(a.xact_start, p.prepared)
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
  AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE {_IS_OURS} ORDER BY {_BOUND}, 4 DESC NULLS LAST LIMIT 1"""  # noqa: S608  names of ours


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose open transaction holds the horizon back. What the reader's role may not see is None."""

    pid: int | None
    gid: str | None
    application: str | None
    age: timedelta | None

    def __str__(self) -> str:
        who = f"the prepared transaction {self.gid!r}" if self.pid is None else f"process {self.pid}"
        name = f" ({self.application})" if self.application else ""
        age = f", open for {self.age.total_seconds():.0f} s" if self.age is not None else ""
        return f"{who}{name}{age}"

    @property
    def remedy(self) -> str:
        """The SQL that ends it."""
        return f"ROLLBACK PREPARED '{self.gid}'" if self.pid is None else f"SELECT pg_terminate_backend({self.pid})"


def holder_of(connection: Connection) -> Holder | None:
    """Who holds the lowest lock now, if anybody does."""
    row = connection.exec_driver_sql(_HOLDER).fetchone()
    return Holder(*row) if row else None


class Horizon:
    """The horizon as this process knows it. Asked on a READ COMMITTED connection, before the rows are read.

    `passes_own` lets a reader pass locks of the very connection it reads on: for a test, whose writers share it.
    """

    def __init__(self) -> None:
        self.passes_own = False
        self._safe: int | None = None
        self._stalled: tuple[int, float] | None = None
        self._warned = False

    def forget(self) -> None:
        """A connection was lost: behind the next one may stand a server that gives the same positions out again."""
        self._safe = None

    def read(self, connection: Connection, clock: Clock) -> int:
        """The last position below which nothing can still be committed."""
        # The order is what makes it safe: a writer whose lock is not seen takes its positions after `last`, and one
        # whose lock is gone has committed before the statement that reads the rows begins.
        last: int = connection.exec_driver_sql(_LAST).scalar_one()
        if last == self._safe:
            return last
        lowest: int | None = connection.exec_driver_sql(_LOWEST_OF_OTHERS if self.passes_own else _LOWEST).scalar_one()
        # Between the locks and the rows. A bundle whose writer's lock is not seen any more is committed, and seen here;
        # or gone with its entries committed, which the statement that reads the rows will find. In one statement with
        # the locks it might be neither: what that sees of tables is older than what it sees of locks.
        bundled: int | None = connection.exec_driver_sql(_IN_FRONT).scalar_one()
        horizon = self.between(last, lowest, bundled, clock)
        if self.is_to_warn(clock):
            self._warn(connection, horizon)
        return horizon

    def between(self, last: int, lowest: int | None, bundled: int | None, clock: Clock) -> int:
        """The horizon, by the last position, the lowest lock and the lowest bundle, which were asked for in this order.

        A bundle below the horizon never comes later: its positions are taken under a lock that is lower.
        """
        if lowest is None or lowest >= last:
            self._safe = last if bundled is None else None
            self._stalled, self._warned = None, False
            horizon = last
        else:
            horizon = self._held_back(lowest, clock)
        return horizon if bundled is None else min(horizon, bundled)

    def _held_back(self, lowest: int, clock: Clock) -> int:
        if self._stalled is None or self._stalled[0] != lowest:
            self._stalled, self._warned = (lowest, clock.monotonic()), False
        return lowest

    def is_to_warn(self, clock: Clock) -> bool:
        """Whether it has been held back for long, and nobody was told."""
        since = None if self._stalled is None or self._warned else self._stalled[1]
        return since is not None and clock.monotonic() - since >= STALLED_AFTER

    def _warn(self, connection: Connection, lowest: int) -> None:
        holder = holder_of(connection)
        if holder is not None:
            self._warned = True
            _log.warning(
                "events past position %d wait for an open transaction that wrote events: %s. If it is stuck, end it "
                "with: %s",
                lowest,
                holder,
                holder.remedy,
            )
