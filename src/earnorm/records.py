"""Records: what happened to many records of one model, in the form it was come by: one by one, or column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import compress
from operator import is_, ne
from typing import Any, NamedTuple, Protocol

from earnorm.codec import Refer, encode_columns
from earnorm.envelope import encode_all_changes
from earnorm.event import NO_CHANGES, Change, Changes
from earnorm.occurrence import key_of

__all__ = ["Changed", "Columns", "Listed", "Records", "changed_between", "known_as"]


class Records(Protocol):
    """Of each its identity, its values, its changes, and the record itself (None) in the same order."""

    @property
    def identities(self) -> Sequence[tuple[Any, ...]]: ...

    @property
    def payloads(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def changes(self) -> Sequence[Changes]: ...

    @property
    def subjects(self) -> Sequence[Any]: ...

    def __len__(self) -> int: ...

    def keys(self, subject: str) -> list[str]: ...

    def where(self, chosen: Sequence[bool]) -> Records:
        """Those of them that are chosen."""
        ...

    def spelled(self, names: AbstractSet[str], spell: Callable[[str, Any], Any]) -> Records:
        """With the values of these names, old and new, as `spell` has them."""
        ...

    def written(self, refer: Refer, hidden: frozenset[str]) -> list[bytes]:
        """The data of each, for the log."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """One by one."""

    identities: Sequence[tuple[Any, ...]]
    payloads: Sequence[Mapping[str, Any]]
    changes: Sequence[Changes]
    subjects: Sequence[Any]

    def __len__(self) -> int:
        return len(self.identities)

    def keys(self, subject: str) -> list[str]:
        if all(len(identity) == 1 and type(identity[0]) is int for identity in self.identities):
            return [f"{subject}:{number}" for (number,) in self.identities]
        return [key_of(subject, identity) for identity in self.identities]

    def where(self, chosen: Sequence[bool]) -> Listed:
        return Listed(
            list(compress(self.identities, chosen)),
            list(compress(self.payloads, chosen)),
            list(compress(self.changes, chosen)),
            list(compress(self.subjects, chosen)),
        )

    def spelled(self, names: AbstractSet[str], spell: Callable[[str, Any], Any]) -> Listed:
        payloads = [{n: spell(n, v) if n in names else v for n, v in each.items()} for each in self.payloads]
        changes = [
            {n: Change(spell(n, c.old), spell(n, c.new)) if n in names else c for n, c in each.items()}
            if each
            else each
            for each in self.changes
        ]
        return Listed(self.identities, payloads, changes, self.subjects)

    def written(self, refer: Refer, hidden: frozenset[str]) -> list[bytes]:
        return encode_all_changes(self.identities, self.payloads, self.changes, refer, hidden)


def known_as(records: Records, name: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Records:
    """The same records, each under the name of its identity."""
    identities = records.identities
    named = [name(identity) for identity in identities]
    if all(map(is_, named, identities)):
        return records
    return Listed(named, records.payloads, records.changes, records.subjects)


class Changed(NamedTuple):
    """A field that changed: what it was in each record, and in which of them it is another now."""

    name: str
    old: Sequence[Any]
    where: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Columns:
    """A column of values for each name; `key` tells which of them are the primary key.

    Nothing is made for a record as long as nobody asks: 10,000 rows are a handful of objects.
    """

    names: tuple[str, ...]
    columns: Sequence[Sequence[Any]]
    key: tuple[int, ...]
    changed: Sequence[Changed] = ()

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def identities(self) -> list[tuple[Any, ...]]:
        return list(zip(*(self.columns[place] for place in self.key), strict=True))

    @property
    def payloads(self) -> list[dict[str, Any]]:
        names = self.names
        return [dict(zip(names, row, strict=True)) for row in zip(*self.columns, strict=True)]

    @property
    def changes(self) -> list[Changes]:
        found: list[Changes] = [NO_CHANGES] * len(self)
        if self.changed:
            found = [{} for _ in found]
        for name, pairs in self._pairs():
            for changes, pair in zip(found, pairs, strict=True):
                if pair is not None:
                    changes[name] = pair  # type: ignore[index]  # each is a dictionary of ours by now
        return found

    @property
    def subjects(self) -> list[Any]:
        return [None] * len(self)

    def keys(self, subject: str) -> list[str]:
        if len(self.key) == 1 and set(map(type, numbers := self.columns[self.key[0]])) == {int}:
            return [f"{subject}:{number}" for number in numbers]
        return [key_of(subject, identity) for identity in self.identities]

    def where(self, chosen: Sequence[bool]) -> Columns:
        kept = [list(compress(column, chosen)) for column in self.columns]
        changed = [
            Changed(name, list(compress(old, chosen)), list(compress(where, chosen)))
            for name, old, where in self.changed
        ]
        return Columns(self.names, kept, self.key, changed)

    def part(self, some: slice) -> Columns:
        """Some of them that follow each other."""
        changed = [Changed(name, old[some], where[some]) for name, old, where in self.changed]
        return Columns(self.names, [column[some] for column in self.columns], self.key, changed)

    def spelled(self, names: AbstractSet[str], spell: Callable[[str, Any], Any]) -> Columns:
        columns = [
            [spell(name, value) for value in column] if name in names else column
            for name, column in zip(self.names, self.columns, strict=True)
        ]
        changed = [
            Changed(name, [spell(name, value) for value in old], where) if name in names else Changed(name, old, where)
            for name, old, where in self.changed
        ]
        return Columns(self.names, columns, self.key, changed)

    def written(self, refer: Refer, hidden: frozenset[str]) -> list[bytes]:
        if any(name in hidden for name, _, _ in self.changed):
            return self._listed().written(refer, hidden)
        written = encode_columns(self, hidden, refer=refer)
        if None not in written:
            return written  # type: ignore[return-value]  # as was just asked
        unfit = [data is None for data in written]
        others = iter(self.where(unfit)._listed().written(refer, hidden))
        return [next(others) if data is None else data for data in written]

    def _listed(self) -> Listed:
        return Listed(self.identities, self.payloads, self.changes, self.subjects)

    def _pairs(self) -> Iterator[tuple[str, Sequence[Change | None]]]:
        for name, old, where in self.changed:
            new = self.columns[self.names.index(name)]
            yield name, [Change(o, n) if c else None for o, n, c in zip(old, new, where, strict=True)]


def changed_between(
    names: Sequence[str], before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]
) -> list[Changed]:
    """The fields that any record has another value in, column by column."""
    found = []
    for name, old, new in zip(names, before, after, strict=True):
        if old is not new and any(where := _differing(old, new)):
            found.append(Changed(name, old, where))
    return found


# Their equal values of one type are the same value.
_COMPARED: frozenset[type] = frozenset({str, int, bool, bytes, type(None)})


def _differing(old: Sequence[Any], new: Sequence[Any]) -> list[bool]:
    kinds = set(map(type, old))
    if len(kinds) == 1 and kinds <= _COMPARED and kinds == set(map(type, new)):
        return list(map(ne, old, new))
    return [
        was is not value and not (type(was) is type(value) and (was == value) is True)
        for was, value in zip(old, new, strict=True)
    ]
