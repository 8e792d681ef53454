"""A multitude: one kind of change to many records, in flight in a transaction as one value.

It stands for an occurrence each where nobody in this process is handed one: the log alone hears of it. Whoever needs
them one by one after all (composition, telemetry that somebody turned on meanwhile) has them made by `singly`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

from earnorm._uuid7 import Sixteens, joined_uuid7s, uuid7s
from earnorm.bundle import PART, Bundle, bundled
from earnorm.event import Changes, Entries, Running, running
from earnorm.occurrence import Kind, Occurrence
from earnorm.records import Columns, Records, known_as
from earnorm.registry import ModelInfo
from earnorm.tenant import current_tenant

__all__ = ["FEW", "Happening", "Multitude", "singly"]

FEW = 8
"""Fewer are told one by one: a statement of their own would cost more than it saves."""


class Multitude:
    """No record is in it twice. `ids` are those of the events, once the log has them."""

    __slots__ = (
        "_keys",
        "at",
        "database",
        "ids",
        "info",
        "kind",
        "link",
        "name",
        "records",
        "tenant",
    )

    def __init__(self, name: str, kind: Kind, info: ModelInfo, records: Records) -> None:
        self.name = name
        self.kind: Kind = kind
        self.info = info
        self.records = records if info.strange is None else known_as(records, info.strange.logged)
        self.ids: Sequence[bytes] = ()
        self.database = ""
        self.link: Running | None = running()
        self.tenant = current_tenant()
        self.at = time.time()
        self._keys: list[str] | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def keys(self) -> list[str]:
        if self._keys is None:
            self._keys = self.records.keys(self.info.subject)
        return self._keys

    def where(self, chosen: Sequence[bool]) -> Multitude:
        """Those of the records that are chosen."""
        some = Multitude(self.name, self.kind, self.info, self.records.where(chosen))
        some.database, some.link, some.tenant, some.at = self.database, self.link, self.tenant, self.at
        return some

    def entries(self, data: Sequence[bytes]) -> Entries:
        """For the log, with the data of each; from now on each has its id."""
        self.ids = uuid7s(len(self))
        return Entries(ids=self.ids, keys=self.keys, data=data, **self._shared())

    def bundles(self) -> list[Bundle] | None:
        """For the log, to make entries of later, under the ids that each has from now on; None where that cannot be."""
        records, hidden = self.records, self.info.sensitive
        if not isinstance(records, Columns):
            return None
        lots = [slice(start, start + PART) for start in range(0, len(self), PART)]
        contents = [bundled(records.part(some), hidden) for some in lots]
        if None in contents:
            return None
        ids = joined_uuid7s(len(self))
        self.ids = Sixteens(ids)
        shared = self._shared()
        return [
            Bundle(ids=ids[16 * some.start : 16 * some.stop], content=content or b"", **shared)
            for some, content in zip(lots, contents, strict=True)
        ]

    def _shared(self) -> dict[str, Any]:
        """What all of them have in common in the log."""
        cause = None if self.link is None else self.link.event
        return {
            "name": self.name,
            "subject": self.info.subject,
            "at": datetime.fromtimestamp(self.at, UTC),
            "correlation_id": None if cause is None else cause.correlation_id,
            "causation_id": None if cause is None else cause.id,
            "depth": 0 if cause is None else cause.depth + 1,
            "tenant": self.tenant,
        }

    def occurrences(self) -> Iterator[Occurrence]:
        """Each as one of its own, under the id that the log has of it, if it has."""
        records = self.records
        parts = zip(
            records.identities,
            records.payloads,
            records.changes,
            records.subjects,
            self.ids or repeat(b"", len(self)),
            strict=True,
        )
        return (self._single(*part) for part in parts)

    def _single(
        self, identity: tuple[Any, ...], payload: Mapping[str, Any], changes: Changes, subject: Any, sixteen: bytes
    ) -> Occurrence:
        one = Occurrence(
            self.name, subject, payload, kind=self.kind, changes=changes, info=self.info, identity=identity
        )
        one.database, one.link, one.tenant, one.at = self.database, self.link, self.tenant, self.at
        if sixteen:
            one.identify(sixteen)
        return one


Happening = Occurrence | Multitude
"""What enters an outbox."""


def singly(happenings: Iterable[Happening]) -> Iterator[Occurrence]:
    """One by one."""
    for happening in happenings:
        if isinstance(happening, Multitude):
            yield from happening.occurrences()
        else:
            yield happening
