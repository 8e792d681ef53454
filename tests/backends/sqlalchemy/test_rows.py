"""Rows of the log as entries: thousands at once, and the same as one by one."""

from __future__ import annotations

import gc
from datetime import datetime
from uuid import UUID, uuid4

import pytest
from msgspec import structs

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
        at,
        id_,
        cause,
        0,
        tenant,
        1,
        due,
    )


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(), row(due=AT + 1, cause=uuid4().bytes, tenant="acme")],
        [row(at=at) for at in range(AT, AT + 1000)],
        # Text for bytes, which SQLite keeps; times that no datetime can say.
        [row(), row(data="{}")],
        [row(at=-62_000_000_000_000_001), row(due=250_000_000_000_000_001)],
    ],
)
def test_read_together_they_are_what_each_is_alone(rows):
    assert [to_entry(given) for given in rows] == to_entries(rows)


def test_an_id_is_a_uuid_like_any_other():
    (entry,) = to_entries([row()])

    assert UUID(bytes=entry.id.bytes) == entry.id
    assert {entry.id} == {entry.correlation_id}
    assert str(entry.id) == str(UUID(str(entry.id)))


def test_the_garbage_collector_has_nothing_to_look_for_in_them():
    assert not any(map(gc.is_tracked, to_entries([row()])))


def test_nothing_is_made_of_ids_and_times_until_somebody_asks():
    """Two UUIDs an event were most of what the garbage collector had to go through in a backlog."""
    (entry,) = to_entries([row(due=AT + 1, cause=uuid4().bytes, tenant="acme")])

    assert {int, bytes, str} == set(map(type, structs.astuple(entry)))
    assert (UUID, datetime, datetime) == (type(entry.causation_id), type(entry.at), type(entry.due))
