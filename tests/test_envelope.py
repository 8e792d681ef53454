"""Damaged data of an entry is told as a PayloadError, whatever stands in it; the runner makes a dead letter of that."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from earnorm.codec import decode, decode_identity, encode
from earnorm.envelope import event_of, identity_of
from earnorm.errors import PayloadError
from earnorm.event import Entry


def entry(data):
    made = uuid4()
    return Entry.of(
        id=made,
        name="user.updated",
        subject="user",
        key="user:1",
        data=data,
        at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        correlation_id=made,
        causation_id=None,
        depth=0,
    )


@pytest.mark.parametrize(
    "data",
    [
        b'{"changes": {"name": ["old"]}}',
        b'{"changes": {"name": 7}}',
        b'{"changes": {"name": [1, 2, 3]}}',
        b'{"changes": 7}',
        b'{"hidden": 7}',
        b'{"hidden": [[]]}',
        b'{"payload": [1]}',
        b"7",
        b"",
    ],
)
def test_changes_that_are_no_pairs_are_damage_and_nothing_else(data):
    """A TypeError would end the delivery without an outcome, and so have it made again for ever."""
    with pytest.raises(PayloadError):
        event_of(entry(data))


@pytest.mark.parametrize("data", [b'{"identity": 7}', b'{"identity": "ab"}', b'{"identity": {"a": 1}}'])
def test_an_identity_that_is_no_array_is_damage(data):
    with pytest.raises(PayloadError, match="damaged"):
        identity_of(entry(data))


@pytest.mark.parametrize(
    "data",
    [
        encode({"identity": [UUID(int=7)], "payload": {"name": "Ada"}}),
        encode({"identity": [1, "a", Decimal("1.5")], "payload": {}}),
        encode({"payload": {}}),
        b'{"identity":[{"$uuid":"{01a21f3b-75ce-7d6f-b568-14abcdaa426e}"}]}',
        b'{"identity":null}',
    ],
)
def test_an_identity_is_the_same_read_alone(data):
    assert list(decode(data).get("identity", ()) or ()) == list(decode_identity(data) or ())


@pytest.mark.parametrize("data", [b"", b"7", b'{"identity":[{"$uuid":"x"}]}', b'{"identity":[' + b"[" * 200])
def test_what_is_wrong_with_an_identity_read_alone_is_said_as_ever(data):
    with pytest.raises(PayloadError) as whole:
        decode(data)
    with pytest.raises(PayloadError) as alone:
        decode_identity(data)
    assert str(whole.value) == str(alone.value)
