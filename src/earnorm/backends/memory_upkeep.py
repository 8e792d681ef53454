"""The upkeep of a memory store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from earnorm.delivery import Delivery
from earnorm.upkeep import Pruned, Selection

__all__ = ["MemoryUpkeep"]


class MemoryUpkeep:
    """`Upkeep`, for a transaction that has a `state` and tells the time."""

    state: Any
    now: Callable[[], datetime]

    def dead(self, selection: Selection, limit: int, after: int = 0) -> list[Delivery]:
        return [row for row in self._dead(selection) if row.id > after][:limit]

    def count_dead(self, selection: Selection) -> int:
        return len(self._dead(selection))

    def reopen(self, ids: Sequence[int]) -> list[int]:
        chosen, now = self._chosen(ids), self.now()
        again = {number: replace(row, state="open", attempt=row.attempt + 1, due=now) for number, row in chosen.items()}
        self.state.deliveries = {**self.state.deliveries, **again}
        return sorted(chosen)

    def discard(self, ids: Sequence[int]) -> list[int]:
        chosen = self._chosen(ids)
        self.state.deliveries = {number: row for number, row in self.state.deliveries.items() if number not in chosen}
        return sorted(chosen)

    def prune(self, before: datetime, limit: int, after: int = 0, *, dry: bool = False) -> Pruned:
        passed = min(self.state.cursors.values(), default=self.state.last_position)
        looked_at = [entry for entry in self.state.log if after < entry.position <= passed][:limit]
        old = {entry.position for entry in looked_at if entry.at < before}
        if not dry:
            self.state.log = tuple(entry for entry in self.state.log if entry.position not in old)
        return Pruned(len(old), looked_at[-1].position if looked_at else after)

    def _dead(self, selection: Selection) -> list[Delivery]:
        rows: Mapping[int, Delivery] = self.state.deliveries
        return [row for _, row in sorted(rows.items()) if row.state == "dead" and _fits(row, selection)]

    def _chosen(self, ids: Sequence[int]) -> dict[int, Delivery]:
        return {row.id: row for row in self._dead(Selection(ids=tuple(ids)))}


def _fits(row: Delivery, selection: Selection) -> bool:
    return (
        (selection.ids is None or row.id in selection.ids)
        and selection.handler in (None, row.subscription)
        and selection.event in (None, row.entry.name, str(row.entry.id))
        and (not selection.error or selection.error in row.error)
        and (selection.since is None or row.due >= selection.since)
    )
