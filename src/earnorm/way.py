"""The way: what all deliveries to one handler of events about one model have in common, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from earnorm.delivery import Delivery
from earnorm.event import Event
from earnorm.handler import Handler
from earnorm.registry import ModelInfo

__all__ = ["Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a handler is called for events about one model, or about none.

    database   whose log they are in
    timeout    that of an attempt
    told       the event of a delivery, for who asks for it in passing
    call       with `(subject, payload, event, moment)`; where it asks for `nothing`, without any
    when       its condition, called alike
    record, moment, keys   what else it asks for
    """

    handler: Handler
    info: ModelInfo | None
    database: str
    timeout: float | None
    told: Callable[[Delivery], Event]
    call: Callable[..., Any]
    when: Callable[..., Any] | None = None
    nothing: bool = False
    record: bool = False
    moment: bool = False
    keys: frozenset[str] = frozenset()
