"""How an event is emitted when a name and a payload do not say enough: once under a key, and not before a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from earnorm.durations import LONGEST, Duration, seconds_of
from earnorm.errors import InvalidDuration, InvalidEmit, NotAnOption

__all__ = ["LONGEST_KEY", "Emit", "IdempotencyKey", "Keys", "require_emit"]

LONGEST_KEY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Options of one emit: `order.emit("paid", Emit(key="invoice-17"), amount=3)`.

    key    an idempotency key: of all emits of this event name under it, the first alone happens
    at     durable handlers get the event no earlier than this; without a time zone it is local time
    delay  the same, counted from the emit: seconds, a timedelta, or "90s", "5m", "1h30m", "2d"

    Raises InvalidEmit.
    """

    key: str | None = None
    at: datetime | None = None
    delay: Duration | None = None

    def __post_init__(self) -> None:
        if self.key is not None:
            _require_key(self.key)
        if self.at is not None:
            self._require_at(self.at)
        if self.delay is not None:
            _seconds(self.delay)
        if self.at is not None and self.delay is not None:
            raise InvalidEmit("delay", self.delay, f"at={self.at} is given as well; give one of them")

    @staticmethod
    def _require_at(at: object) -> None:
        if not isinstance(at, datetime):
            raise InvalidEmit("at", at, "expected a datetime")
        try:
            moment = at.astimezone(UTC)
        except (ValueError, OverflowError, OSError):
            raise InvalidEmit("at", at, "no calendar has that day in UTC") from None
        if (moment - datetime.now(UTC)).total_seconds() > LONGEST:
            raise InvalidEmit("at", at, "that is more than ten years ahead")

    @property
    def later(self) -> bool:
        """Whether it asks for a time at all."""
        return self.at is not None or (self.delay is not None and _seconds(self.delay) > 0)

    def due(self, now: Callable[[], datetime]) -> datetime | None:
        """The earliest time of its deliveries, in UTC; the clock is asked only where it counts."""
        if self.at is not None:
            return self.at.astimezone(UTC)
        if self.delay is None or not self.later:
            return None
        return now() + timedelta(seconds=_seconds(self.delay))


def require_emit(options: object) -> Emit:
    """What stands where options do. Raises NotAnOption."""
    if isinstance(options, Emit):
        return options
    raise NotAnOption(f"emit: {options!r} stands where options do, Emit(key=..., delay=...); a payload goes by keyword")


def _require_key(key: object) -> None:
    if not isinstance(key, str):
        raise InvalidEmit("key", key, "expected text")
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidEmit("key", key, f"expected 1 to {LONGEST_KEY} characters; of a longer one give a digest")
    if "\0" in key or any("\ud800" <= letter <= "\udfff" for letter in key):
        raise InvalidEmit("key", key, "no database keeps NUL or half of a surrogate pair")


def _seconds(delay: object) -> float:
    try:
        return seconds_of(delay)
    except InvalidDuration as error:
        raise InvalidEmit("delay", delay, str(error)) from None


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A key as the store keeps it: unique by tenant ("" for none), event name and text; `event` is the first under it.

    `digest` tells whether another emit under it says the same.
    """

    tenant: str
    name: str
    text: str
    event: UUID
    digest: bytes
    at: datetime

    @property
    def place(self) -> tuple[str, str, str]:
        """What is unique."""
        return self.tenant, self.name, self.text


class Keys(Protocol):
    """What a store's transaction does about idempotency keys."""

    def reserve(self, keys: Sequence[IdempotencyKey]) -> dict[UUID, IdempotencyKey]:
        """Take idempotency keys for their events; returns those that others have, by the event that wanted them.

        Waits for a transaction that is taking one of them now. What is taken is given back by a rollback.
        """
        ...

    def reserved(self, tenant: str, name: str, text: str) -> IdempotencyKey | None:
        """The idempotency key as the first event took it, if one did."""
        ...

    def forget_keys(self, before: datetime, limit: int) -> int:
        """Let events emitted before then go from the idempotency keys, `limit` at most; returns how many.

        Not those of which a delivery is still set aside, and open: what is planned under a key is planned once.
        """
        ...
