"""Emit: options of one emit, and what a bus in memory makes of them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from earnorm import Emit, EventBus, event_type, tenant
from earnorm.errors import EventError, InvalidEmit, KeyReused, NoOutcomes, NotConnected
from earnorm.once import REMEMBERED

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def bus():
    return EventBus("test")


@pytest.fixture
def seen():
    return []


# --- the options ---


@pytest.mark.parametrize(
    "options, names",
    [
        ({"key": ""}, "key=''.*1 to 200 characters"),
        ({"key": "x" * 201}, "1 to 200 characters; of a longer one give a digest"),
        ({"key": 17}, "key=17.*expected text"),
        ({"key": "a\0b"}, "NUL"),
        ({"key": "\ud800"}, "surrogate"),
        ({"delay": -1}, "delay=-1.*between 0 and ten years"),
        ({"delay": "soon"}, "delay='soon'"),
        ({"delay": "11000d"}, "ten years"),
        ({"delay": timedelta(days=-1)}, "between 0 and ten years"),
        ({"delay": True}, "delay=True"),
        ({"at": "tomorrow"}, "at='tomorrow'.*expected a datetime"),
        ({"at": datetime(2200, 1, 1, tzinfo=UTC)}, "more than ten years ahead"),
        ({"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "no calendar has that day"),
        ({"at": NOON, "delay": "1h"}, "give one of them"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, names):
    with pytest.raises(InvalidEmit, match=names):
        Emit(**options)


@pytest.mark.parametrize("delay", ["1h30m", 5_400, 5_400.0, timedelta(minutes=90)])
def test_a_delay_is_counted_from_now(delay):
    assert NOON + timedelta(minutes=90) == Emit(delay=delay).due(lambda: NOON)


def test_a_time_without_a_zone_is_local():
    at = datetime(2026, 1, 1, 12)

    assert at.astimezone(UTC) == Emit(at=at).due(lambda: NOON)


def test_no_delay_is_no_delay():
    assert [False, False, True, True] == [
        options.later for options in (Emit(), Emit(delay=0), Emit(delay="1ms"), Emit(at=NOON))
    ]


# --- in memory ---


def test_a_second_emit_under_a_key_does_nothing(bus, seen):
    @bus.on("order.paid", name="paid")
    def paid(order, amount):
        seen.append(amount)

    first = bus.emit("order.paid", None, Emit(key="r1"), amount=3)
    again = bus.emit("order.paid", None, Emit(key="r1"), amount=3)
    other = bus.emit("order.paid", None, Emit(key="r2"), amount=4)

    assert [3, 4] == seen
    assert first.id == again.id != other.id
    assert [False, True, False] == [first.repeated, again.repeated, other.repeated]


async def test_nor_does_it_awaited(bus, seen):
    @bus.on("order.paid", name="paid")
    async def paid(order, amount):
        seen.append(amount)

    first = await bus.aemit("order.paid", None, Emit(key="r1"), amount=3)
    again = await bus.aemit("order.paid", None, Emit(key="r1"), amount=3)

    assert ([3], first.id) == (seen, again.id)


def test_a_declared_event_may_have_a_key(bus, seen):
    @event_type("emission.sent")
    @dataclass(frozen=True)
    class Sent:
        total: int

    @bus.on(Sent, name="sent")
    def sent(thing, total):
        seen.append((thing, total))

    bus.emit(Sent(total=3), "a", Emit(key="r1"))
    bus.emit(Sent(total=3), "a", Emit(key="r1"))

    assert [("a", 3)] == seen


def test_a_key_says_one_thing(bus):
    first = bus.emit("order.paid", None, Emit(key="r1"), amount=3)

    with pytest.raises(KeyReused, match=f"order.paid: the key 'r1' belongs to event {first.id}"):
        bus.emit("order.paid", None, Emit(key="r1"), amount=4)
    with pytest.raises(KeyReused):
        bus.emit("order.paid", "another", Emit(key="r1"), amount=3)


def test_a_key_is_of_an_event_name_and_a_tenant(bus):
    handles = [bus.emit("order.paid", None, Emit(key="r1")), bus.emit("order.sent", None, Emit(key="r1"))]
    with tenant("acme"):
        handles.append(bus.emit("order.paid", None, Emit(key="r1")))

    assert [False, False, False] == [handle.repeated for handle in handles]


def test_an_emit_that_fails_leaves_its_key(bus, seen):
    @bus.on("order.paid", delivery="transaction", name="paid")
    def paid():
        seen.append("tried")
        if len(seen) == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bus.emit("order.paid", None, Emit(key="r1"))

    assert not bus.emit("order.paid", None, Emit(key="r1")).repeated
    assert 2 == len(seen)


def test_a_handler_that_emits_its_own_event_again_under_the_key_stops_there(bus, seen):
    @bus.on("order.paid", name="paid")
    def paid():
        seen.append(bus.emit("order.paid", None, Emit(key="r1")).repeated)

    bus.emit("order.paid", None, Emit(key="r1"))

    assert [True] == seen


def test_what_is_muted_leaves_the_key(bus):
    with bus.muted("order.*", reason="a test"):
        muted = bus.emit("order.paid", None, Emit(key="r1"))

    assert {} == muted.outcomes()
    assert not bus.emit("order.paid", None, Emit(key="r1")).repeated


def test_memory_remembers_the_last_keys(bus):
    for number in range(REMEMBERED + 1):
        bus.emit("order.paid", None, Emit(key=f"r{number}"))

    assert bus.emit("order.paid", None, Emit(key=f"r{REMEMBERED}")).repeated
    assert not bus.emit("order.paid", None, Emit(key="r0")).repeated


@pytest.mark.parametrize("options", [Emit(delay="1h"), Emit(at=NOON)])
def test_memory_has_no_later(bus, options):
    with pytest.raises(NotConnected, match=r"order\.paid is emitted for later, which only a log remembers"):
        bus.emit("order.paid", None, options)


def test_memory_keeps_no_outcomes(bus):
    with pytest.raises(NoOutcomes, match=r"call earnorm\.connect"):
        bus.emit("order.paid").outcomes()


async def test_memory_keeps_no_outcomes_to_await(bus):
    handle = await bus.aemit("order.paid", None, Emit(key="r1"))
    again = await bus.aemit("order.paid", None, Emit(key="r1"))

    for one in (handle, again):
        with pytest.raises(NoOutcomes):
            await one.aoutcomes()


# --- in the wrong place ---


def test_options_are_no_subject(bus):
    with pytest.raises(EventError, match=r"order.paid: Emit\(\.\.\.\) stands behind the subject"):
        bus.emit("order.paid", Emit(key="r1"))


def test_a_payload_is_no_options(bus):
    with pytest.raises(EventError, match="a payload goes by keyword"):
        bus.emit("order.paid", None, {"amount": 3})
