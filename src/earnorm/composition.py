"""Composition: the lifecycle events of one transaction, one per record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from earnorm.event import NO_CHANGES, Change, Changes
from earnorm.multitude import Happening, Multitude
from earnorm.occurrence import CHANGING, Kind, Occurrence, recast

__all__ = ["compose", "compose_parts", "fold"]


def compose(happenings: Sequence[Happening]) -> list[Happening]:
    """Lifecycle events of one transaction, one per record; custom events as they are.

    create+update = created with final values; update+update = updated, first old, last new; update+delete = deleted;
    create+delete = nothing; delete+create = updated. An update that takes the record into the trash or out of it is
    trashed or restored, by where it was first and is last. A creation or update stands where the record's first flush
    stood, a deletion where its last one did. An update that came back to where it began is nothing.
    """
    if len(happenings) == 1:
        return list(happenings)
    placed: list[Happening | None] = []
    where: dict[str, int] = {}
    before: dict[str, Mapping[str, Any]] = {}
    for occurrence in _apart(happenings):
        if isinstance(occurrence, Multitude):
            placed.append(occurrence)
            continue
        if occurrence.kind == "event" or occurrence.key not in where:
            if occurrence.kind != "event":
                where[occurrence.key] = len(placed)
            placed.append(occurrence)
            continue
        index = where.pop(occurrence.key)
        earlier = placed[index]
        assert isinstance(earlier, Occurrence)
        folded = fold(earlier, occurrence, before.get(occurrence.key))
        if earlier.kind in CHANGING:
            # Deleted and made again, the record is compared with what it was before the transaction.
            before.setdefault(occurrence.key, {**earlier.payload, **{f: c.old for f, c in earlier.changes.items()}})
        placed[index] = None
        if folded is None:
            continue
        if folded.kind == "deleted":
            index = len(placed)
            placed.append(None)
        placed[index] = folded
        where[occurrence.key] = index
    return [o for o in placed if o is not None]


def compose_parts(happenings: Sequence[Happening], ends: Sequence[int]) -> list[Happening]:
    """`compose` of each part by itself, the parts being what happened up to each of `ends`, and what happened since."""
    if not ends:
        return compose(happenings)
    parts = pairwise([0, *ends, len(happenings)])
    return [composed for start, end in parts for composed in compose(happenings[start:end])]


def _apart(happenings: Sequence[Happening]) -> Iterable[Happening]:
    """The same, with each multitude one by one that has a record of which there is more."""
    if not any(isinstance(happening, Multitude) for happening in happenings):
        return happenings
    keys: list[str] = []
    for happening in happenings:
        if isinstance(happening, Multitude):
            keys += happening.keys
        elif happening.kind != "event":
            keys.append(happening.key)
    if len(set(keys)) == len(keys):
        return happenings
    more = {key for key, times in Counter(keys).items() if times > 1}
    return chain.from_iterable(
        happening.occurrences()
        if isinstance(happening, Multitude) and not more.isdisjoint(happening.keys)
        else (happening,)
        for happening in happenings
    )


def fold(earlier: Occurrence, later: Occurrence, before: Mapping[str, Any] | None = None) -> Occurrence | None:
    """Two lifecycle events of one record as one, or None if nothing is left; `before` is what a deleted one was."""
    match earlier.kind, later.kind:
        case "created", "updated" | "trashed" | "restored":
            return _recast(later, earlier, "created", NO_CHANGES)
        case "created", "deleted":
            return None
        case "updated" | "trashed" | "restored", "updated" | "trashed" | "restored":
            return _changed(later, earlier, _joined(earlier.changes, later.changes))
        case "deleted", "created":
            old = earlier.payload if before is None else before
            return _changed(later, earlier, _difference(old, later.payload), later.payload)
        case _, "deleted" if (values := _values(earlier, later)) is not later.payload:
            return _recast(later, later, "deleted", later.changes, values)
        case _:
            return later


def _changed(
    last: Occurrence, first: Occurrence, changes: Changes, values: Mapping[str, Any] | None = None
) -> Occurrence | None:
    """An UPDATE from the first values to the last, if they differ."""
    assert last.info is not None
    return _recast(last, first, last.info.kind_of(changes), changes, values) if changes else None


def _joined(first: Changes, second: Changes) -> Changes:
    both = {**first, **{f: Change(first[f].old if f in first else c.old, c.new) for f, c in second.items()}}
    return {f: c for f, c in both.items() if not _equal(c.old, c.new)}


def _difference(old: Any, new: Any) -> Changes:
    return {f: Change(old.get(f), new[f]) for f in new if not _equal(old.get(f), new[f])}


def _equal(old: Any, new: Any) -> bool:
    return type(old) is type(new) and (old == new) is True


def _values(first: Occurrence, last: Occurrence) -> Mapping[str, Any]:
    """The last values; what was not loaded when they were taken is as it was first."""
    unloaded = first.payload.keys() - last.payload.keys()
    return {**last.payload, **{f: first.payload[f] for f in unloaded}} if unloaded else last.payload


def _recast(
    last: Occurrence, first: Occurrence, kind: Kind, changes: Changes, values: Mapping[str, Any] | None = None
) -> Occurrence:
    """The last values under the identity of the first event."""
    assert last.info is not None
    name = f"{last.info.subject}.{kind}"
    payload = _values(first, last) if values is None else values
    event = recast(first.event, name, changes, last.subject, last.event, payload=payload)
    return Occurrence(
        name,
        last.subject,
        payload,
        kind=kind,
        changes=changes,
        info=last.info,
        identity=last.identity,
        session=last.session,
        event=event,
    )
