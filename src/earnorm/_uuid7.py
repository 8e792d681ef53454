"""Identifiers. New ones are RFC 9562 UUIDv7, rising within a process; between processes they are no delivery order."""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

__all__ = ["Sixteens", "joined_uuid7s", "sixteen", "uuid7", "uuid7s", "uuid_of"]

# A UUID refuses setattr; its slots do not, and its own questions take three times as long as the rest.
_set_int = vars(uuid.UUID)["int"].__set__
_set_safe = vars(uuid.UUID)["is_safe"].__set__


# A member of an enumeration is found by a function written in Python.
_UNKNOWN = uuid.SafeUUID.unknown


def uuid_of(number: int) -> uuid.UUID:
    """`UUID(int=number)` without its many questions: 0.25 µs, not 0.85, two or three times an entry read."""
    new = uuid.UUID.__new__(uuid.UUID)
    _set_int(new, number)
    _set_safe(new, _UNKNOWN)
    return new


class Sixteens(Sequence[bytes]):
    """Ids as one value of sixteen bytes each, cut up when somebody asks."""

    __slots__ = ("joined",)

    def __init__(self, joined: bytes) -> None:
        self.joined = joined

    def __len__(self) -> int:
        return len(self.joined) // 16

    @overload
    def __getitem__(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[bytes]: ...

    def __getitem__(self, place: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        start = 16 * range(len(self))[place]
        return self.joined[start : start + 16]

    def __iter__(self) -> Iterator[bytes]:
        joined = self.joined
        return iter([joined[start : start + 16] for start in range(0, len(joined), 16)])


if sys.version_info >= (3, 14):
    uuid7 = uuid.uuid7

    def sixteen() -> bytes:
        """One as its bytes."""
        return uuid.uuid7().bytes

    def joined_uuid7s(count: int) -> bytes:
        """So many of them, rising, sixteen bytes each."""
        return b"".join([uuid.uuid7().bytes for _ in range(count)])

else:
    _last = 0  # the 60 bits of time last given: milliseconds, then 4096ths of one
    _lock = threading.Lock()
    _VERSION_AND_VARIANT = 0x7000_8000_0000_0000_0000

    def uuid7() -> uuid.UUID:
        """48 bits of milliseconds, 12 bits below one, 62 random bits."""
        return uuid_of(_number())

    def sixteen() -> bytes:
        """One as its bytes, without the UUID."""
        return _number().to_bytes(16)

    def _number() -> int:
        global _last  # noqa: PLW0603  what makes the ids rise is one number for the whole process
        with _lock:
            # 4096ths of a millisecond; a clock that stands or goes back counts on from the last id.
            _last = ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        # The random bits come from the system each time: after a fork there is no state to share.
        chance = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
        return (ticks >> 12) << 80 | _VERSION_AND_VARIANT | (ticks & 0xFFF) << 64 | chance

    def joined_uuid7s(count: int) -> bytes:
        """So many of them, rising, sixteen bytes each: in a tenth of the time."""
        global _last  # noqa: PLW0603  as above
        with _lock:
            first = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
            _last = first + count - 1
        # All random halves at once, as one long number: the bits of their variant are set in a few steps of C.
        chance = int.from_bytes(os.urandom(8 * count), "big")
        chances = (chance & _repeated(0x3FFF_FFFF_FFFF_FFFF, count) | _repeated(1 << 63, count)).to_bytes(
            8 * count, "big"
        )
        times = struct.pack(f">{count}Q", *_halves(first, count))
        joined = bytearray(16 * count)
        # The first bytes of all, then the second ones: sixteen steps of C.
        for place in range(8):
            joined[place::16], joined[place + 8 :: 16] = times[place::8], chances[place::8]
        return bytes(joined)

    def _halves(first: int, count: int) -> Iterator[int]:
        """The first eight bytes of ids of so many ticks: those of one millisecond follow each other."""
        while count:
            some = min(count, 4096 - (first & 0xFFF))
            start = (first >> 12) << 16 | 0x7000 | first & 0xFFF
            yield from range(start, start + some)
            first, count = first + some, count - some

    @lru_cache(maxsize=8)
    def _repeated(half: int, count: int) -> int:
        return int.from_bytes(half.to_bytes(8, "big") * count, "big")

    def _renew_lock() -> None:
        """A thread that does not exist in the child may have held the lock at the fork."""
        global _lock  # noqa: PLW0603  as above
        _lock = threading.Lock()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew_lock)


def uuid7s(count: int) -> list[bytes]:
    """So many of them, rising, as their sixteen bytes."""
    return list(Sixteens(joined_uuid7s(count)))
