"""Attention: the models that somebody listens to. A flush passes over the records of all others.

Of most models a log keeps everything, so that they are never silent. Of those whose events are kept if subscribed to
(`attach(Base)`, `connect(log="subscribed")`) another process may have a handler: the subscriptions recorded in the
database are looked at again every few seconds, by the first flush that writes such a record then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from earnorm.backends.sqlalchemy.boundary import log_of, logs_of
from earnorm.backends.sqlalchemy.mapping import Mapping, _mappings
from earnorm.lifecycle import HOOK_KINDS

__all__ = ["LOOK_AGAIN", "LOUD", "listening", "loud"]

# Seconds for which a model that nobody is subscribed to is passed over without a look at the subscriptions.
LOOK_AGAIN: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Silence:
    """Nobody hears of a model until then; -inf if somebody does."""

    until: float
    now: Callable[[], float] = monotonic


LOUD: Final = _Silence(-inf)


def listening(session: Session, cls: type) -> Mapping | None:
    """The mapping of a class that is known, and that somebody hears of."""
    found = _mappings.get(cls)
    if found is None:
        return None
    silence = found.bus.silences.get(cls)
    if silence is LOUD:
        return found
    if silence is not None:
        if silence.now() < silence.until:
            return None
        if session.connection_callable is not None:
            # Which database a sharded Session writes to, it says of a record alone; the append looks there.
            return found
        _look(session, found)
    silence = found.bus.silences[cls] = _silence(found)
    return found if silence is LOUD else None


def loud(mapping: Mapping) -> bool:
    """Whether this process knows of somebody who hears of the model, in whatever database."""
    return _silence(mapping) is LOUD


def _silence(mapping: Mapping) -> _Silence:
    bus, info = mapping.bus, mapping.info
    if mapping.validate is not None or bus.observed:
        return LOUD
    flows = [bus.plans.flow(mapping.cls, kind) for kind in HOOK_KINDS["commit"]]
    if any(flow.heard or flow.before for flow in flows):
        return LOUD
    logs = logs_of(bus)
    if any(log.keeps_of(info) for log in logs):
        return LOUD
    if not logs:
        return _Silence(inf)
    now = logs[0].clock.monotonic
    return _Silence(now() + LOOK_AGAIN, now)


def _look(session: Session, mapping: Mapping) -> None:
    """See who has subscribed meanwhile, from another process, to the database that this record is written to."""
    connection = session.connection(bind_arguments={"mapper": inspect(mapping.cls)})
    log = log_of(connection.engine)
    if log is not None:
        log.look(connection)
