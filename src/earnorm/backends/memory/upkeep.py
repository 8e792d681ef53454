"""The upkeep of a memory store: dead letters, pruning, how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import structs

from earnorm.backends.memory.log import LogVerbs, is_in
from earnorm.backends.memory.state import change_follower, forget
from earnorm.delivery import Delivery
from earnorm.retention import reach_of
from earnorm.upkeep import Behind, Pruned, Selection, Tally

__all__ = ["UpkeepVerbs"]


class UpkeepVerbs(LogVerbs):
    """What those who run a system ask."""

    # --- dead letters ---

    def dead(self, selection: Selection, limit: int, after: int = 0) -> list[Delivery]:
        return [row for row in self._dead(selection) if row.id > after][:limit]

    def count_dead(self, selection: Selection) -> int:
        return len(self._dead(selection))

    def reopen(self, ids: Sequence[int]) -> list[int]:
        chosen, now = self._chosen(ids), self.now()
        again = {
            number: structs.replace(row, state="open", attempt=row.attempt + 1, chosen=now, error="")
            for number, row in chosen.items()
        }
        self.state.deliveries = {**self.state.deliveries, **again}
        return sorted(chosen)

    def discard(self, ids: Sequence[int]) -> list[int]:
        chosen = self._chosen(ids)
        forget(self.state, chosen.values())
        self.state.deliveries = {number: row for number, row in self.state.deliveries.items() if number not in chosen}
        return sorted(chosen)

    def _dead(self, selection: Selection) -> list[Delivery]:
        rows = sorted(self.state.deliveries.items())
        return [row for _, row in rows if row.state == "dead" and _fits(row, selection)]

    def _chosen(self, ids: Sequence[int]) -> dict[int, Delivery]:
        return {row.id: row for row in self._dead(Selection(ids=tuple(ids)))}

    # --- pruning ---

    def prune(self, before: datetime, limit: int, after: int = 0, *, unseen: datetime, dry: bool = False) -> Pruned:
        followers, cursors = self.state.followers.values(), list(self.state.cursors.values())
        reach = reach_of(followers, cursors, self.state.workers.values(), unseen=unseen, now=self.now())
        passed = self.horizon() if reach.passed is None else reach.passed
        looked_at = [entry for entry in self.state.log if after < entry.position <= passed][:limit]
        old = {entry.position for entry in looked_at if entry.at < before}
        if not dry:
            self.state.log = tuple(entry for entry in self.state.log if entry.position not in old)
            for name, stand in reach.orphans.items():
                missed = self.state.followers[name].missed + sum(position > stand for position in old)
                change_follower(self.state, name, missed=missed)
        return Pruned(len(old), looked_at[-1].position if looked_at else after)

    # --- how it stands ---

    def behind(self, after: int, upto: int, limit: int, slots: Sequence[tuple[int, int]] = ()) -> Behind:
        found = [e for e in self.state.log if after < e.position <= upto and (not slots or is_in(e, slots))][:limit]
        return Behind(len(found), found[0].at if found else None)

    def tally(self) -> dict[str, Tally]:
        rows = list(self.state.deliveries.values())
        names = sorted({row.subscription for row in rows})
        states = {name: [row.state for row in rows if row.subscription == name] for name in names}
        return {name: Tally(found.count("open"), found.count("dead")) for name, found in states.items()}

    def bundled_since(self) -> None:
        """Entries are entries at once."""

    def stall(self) -> None:
        """Whoever writes is alone."""


def _fits(row: Delivery, selection: Selection) -> bool:
    return (
        (selection.ids is None or row.id in selection.ids)
        and selection.handler in (None, row.subscription)
        and selection.event in (None, row.entry.name, str(row.entry.id))
        and (not selection.error or selection.error in row.error or selection.error == row.fingerprint)
        and (selection.since is None or row.due >= selection.since)
    )
