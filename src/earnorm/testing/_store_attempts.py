"""The store suite's third part: the failed attempts of deliveries."""

# ruff: noqa: SIM300  expected == actual

from __future__ import annotations

from msgspec import structs

from earnorm.store import ATTEMPTS_KEPT, Store
from earnorm.testing._store_verbs import attempt, attempts, changed, deliveries, set_aside, settle, take


class AttemptSuite:
    """Inherited with `StoreSuite`, whose fixtures it uses."""

    def test_failed_attempts_of_a_delivery_are_kept_in_order_with_who_made_them(self, store: Store) -> None:
        lease = take(store, "ada")
        aside, other = set_aside(), set_aside("audit")
        settle(store, lease, set_aside=[aside, other], attempts=[attempt(aside, 1, worker="ada"), attempt(other, 1)])
        first, _ = deliveries(store)
        full = attempt(
            aside, 2, error="ValueError: \u00e9", traceback="line\nline", fingerprint="abc", version="7", seconds=0.25
        )
        settle(store, lease, rescheduled=[changed(first, attempt=3)], attempts=[full])

        assert attempts(store, first.id) == [attempt(aside, 1, worker="ada"), full]
        assert attempts(store, first.id + 1_000) == []

    def test_attempts_are_forgotten_with_their_delivery(self, store: Store) -> None:
        lease = take(store)
        aside, other = set_aside(), set_aside("audit")
        settle(store, lease, set_aside=[aside, other], attempts=[attempt(aside, 1), attempt(other, 1)])
        first, second = deliveries(store)
        settle(store, lease, finished=[first.id])

        assert (attempts(store, first.id), 1) == ([], len(attempts(store, second.id)))
        settle(store, lease, set_aside=[aside])
        assert attempts(store, deliveries(store)[-1].id) == []

    def test_of_very_many_attempts_the_last_ones_are_kept(self, store: Store) -> None:
        lease = take(store)
        aside = set_aside()
        settle(store, lease, set_aside=[aside], attempts=[attempt(aside, 1)])
        (row,) = deliveries(store)
        for number in range(2, ATTEMPTS_KEPT + 3):
            settle(store, lease, rescheduled=[changed(row, attempt=number + 1)], attempts=[attempt(aside, number)])

        assert list(range(3, ATTEMPTS_KEPT + 3)) == [made.number for made in attempts(store, row.id)]

    def test_the_fingerprint_of_the_last_error_stands_with_the_delivery(self, store: Store) -> None:
        lease = take(store)
        settle(store, lease, set_aside=[set_aside(error="no", fingerprint="abc"), set_aside()])
        first, second = deliveries(store)
        settle(store, lease, rescheduled=[structs.replace(second, fingerprint="def")])

        assert ["abc", "def"] == [d.fingerprint for d in deliveries(store)]
        assert first.fingerprint == "abc"
