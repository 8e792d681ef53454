"""Reuse: what handlers emitted under an idempotency key that somebody else took before their settle."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from uuid import UUID

from earnorm.emission import IdempotencyKey, Keys
from earnorm.errors import KeyReused

__all__ = ["left_out"]

_log = logging.getLogger("earnorm.worker")


def left_out(transaction: Keys, keys: Sequence[IdempotencyKey]) -> Collection[UUID]:
    """Take the keys; the events that are not to be appended, since another has theirs.

    The handlers have run, so that nothing can be refused any more. One that says something else than the first is told.
    """
    taken = transaction.reserve(keys)
    for key in keys:
        first = taken.get(key.event)
        if first is not None and first.digest != key.digest:
            reused = KeyReused(key.name, key.text, str(first.event))
            _log.warning("%s; what a handler emitted under it is left out", reused)
    return taken.keys()
