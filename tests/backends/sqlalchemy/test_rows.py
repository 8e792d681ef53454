"""Rows of the log as entries: thousands at once, and the same as one by one."""

from __future__ import annotations

import gc
from uuid import UUID, uuid4

import pytest

from earnorm.backends.sqlalchemy.rows import to_entries, to_entry

AT = 1_795_820_320_023_396


def row(*, at=AT, due=None, data=b"{}", cause=None, tenant=None):
    """As `Statements.read` gives it."""
    id_ = uuid4().bytes
    return (
        7,
        id_,
        "order.placed",
        "order",
        "order:1",
        data,
        seconds(at),
        id_,
        cause,
        0,
        tenant,
        1,
        seconds(due),
        at,
        due,
    )


def seconds(at):
    if at is None:
        return None
    return at / 1e6 if 0 <= at <= (1 << 33) * 1_000_000 else 1e300


def one_by_one(rows):
    return [to_entry((*given[:6], given[13], *given[7:12], given[14])) for given in rows]


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(), row(due=AT + 1, cause=uuid4().bytes, tenant="acme")],
        [row(at=at) for at in range(AT, AT + 1000)],
        [row(at=(1 << 33) * 1_000_000 - at) for at in range(1000)],
        # Text for bytes, which SQLite keeps; times that no float of seconds is exact for.
        [row(), row(data="{}")],
        [row(at=-62_000_000_000_000_001), row(due=250_000_000_000_000_001)],
    ],
)
def test_read_together_they_are_what_each_is_alone(rows):
    assert one_by_one(rows) == to_entries(rows)


def test_an_id_is_a_uuid_like_any_other():
    (entry,) = to_entries([row()])

    assert UUID(bytes=entry.id.bytes) == entry.id
    assert {entry.id} == {entry.correlation_id}
    assert str(entry.id) == str(UUID(str(entry.id)))


def test_the_garbage_collector_has_nothing_to_look_for_in_them():
    assert not any(map(gc.is_tracked, to_entries([row()])))
