"""Clocks, and the identifiers that follow them."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from earnorm._uuid7 import uuid7, uuid7s
from earnorm.clock import Clock, SystemClock, VirtualClock

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def until(condition) -> None:
    """Spin, with the other threads, until they have got there."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0)


class TestSystemClock:
    def test_it_is_a_clock(self):
        assert isinstance(SystemClock(), Clock)

    def test_now_is_aware_and_in_utc(self):
        assert SystemClock().now().tzinfo is UTC

    def test_a_set_event_ends_the_wait_and_a_past_deadline_too(self):
        event = threading.Event()

        assert not SystemClock().wait(event, -1)
        event.set()
        assert SystemClock().wait(event, 60)

    async def test_no_time_is_slept_at_once(self):
        await SystemClock().sleep(-1)

    def test_monotonic_grows(self):
        clock = SystemClock()

        assert clock.monotonic() <= clock.monotonic()


class TestVirtualClock:
    def test_it_is_a_clock(self):
        assert isinstance(VirtualClock(NOON), Clock)

    def test_it_stands_still_until_advanced(self):
        clock = VirtualClock(NOON.astimezone(timezone(timedelta(hours=9))))

        assert (NOON, 0.0) == (clock.now(), clock.monotonic())
        clock.advance(90.5)
        assert (NOON + timedelta(seconds=90.5), 90.5) == (clock.now(), clock.monotonic())
        assert clock.now().tzinfo is UTC

    def test_a_start_without_a_zone_is_refused(self):
        with pytest.raises(ValueError, match="no time zone"):
            VirtualClock(datetime(2026, 1, 31))

    def test_time_does_not_go_back(self):
        with pytest.raises(ValueError, match="does not go back"):
            VirtualClock(NOON).advance(-1)

    def test_a_wait_ends_when_its_time_is_advanced_past(self):
        clock, ended = VirtualClock(NOON), []
        thread = threading.Thread(target=lambda: ended.append(clock.wait(threading.Event(), 1.0)))
        thread.start()
        until(lambda: clock.waiting == 1)
        for _ in range(9):
            clock.advance(0.1)
        assert clock.waiting == 1
        clock.advance(0.1)  # ten tenths are one, in whole nanoseconds
        thread.join(10)

        assert ended == [False]
        assert clock.waiting == 0

    def test_a_wait_ends_when_its_event_is_set(self):
        clock, event, ended = VirtualClock(NOON), threading.Event(), []
        thread = threading.Thread(target=lambda: ended.append(clock.wait(event, 3600)))
        thread.start()
        until(lambda: clock.waiting == 1)
        event.set()
        thread.join(10)

        assert ended == [True]

    def test_no_time_is_waited_at_once(self):
        assert not VirtualClock(NOON).wait(threading.Event(), 0)

    async def test_sleepers_wake_in_their_own_time(self):
        clock, woken = VirtualClock(NOON), []

        async def sleeper(seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(seconds)

        tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (30, 10, 20)]
        await settled()
        assert clock.waiting == 3
        clock.advance(10)
        await settled()
        assert woken == [10]
        clock.advance(20)
        await asyncio.gather(*tasks)

        assert sorted(woken) == [10, 20, 30]
        assert clock.waiting == 0

    async def test_another_thread_may_advance(self):
        clock = VirtualClock(NOON)
        task = asyncio.create_task(clock.sleep(5))
        await settled()
        thread = threading.Thread(target=clock.advance, args=(5,))
        thread.start()

        await asyncio.wait_for(task, 10)
        thread.join()

    async def test_a_cancelled_sleeper_is_forgotten(self):
        clock = VirtualClock(NOON)
        task = asyncio.create_task(clock.sleep(5))
        await settled()
        task.cancel()
        clock.advance(5)
        with pytest.raises(asyncio.CancelledError):
            await task

        assert clock.waiting == 0

    async def test_no_time_is_slept_at_once(self):
        await VirtualClock(NOON).sleep(0)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def send_ids(pipe) -> None:
    pipe.send([uuid7() for _ in range(1000)])


class TestUuid7:
    def test_its_fields_are_those_of_rfc_9562(self):
        before = time.time_ns() // 1_000_000
        made = uuid7()

        assert before - 60_000 <= made.int >> 80 <= before + 60_000
        assert (7, "specified in RFC 4122") == (made.version, made.variant)

    def test_a_hundred_thousand_rise(self):
        made = [uuid7() for _ in range(100_000)]

        assert sorted(set(made)) == made

    def test_many_at_once_rise_among_single_ones(self):
        made = [uuid7(), *(UUID(bytes=one) for one in uuid7s(10_000)), uuid7(), *map(UUID, map(bytes.hex, uuid7s(3)))]

        assert sorted(set(made)) == made
        assert {(7, "specified in RFC 4122")} == {(one.version, one.variant) for one in made}
        assert [] == uuid7s(0)

    def test_threads_make_different_ones_each_rising(self):
        made: list[list] = [[] for _ in range(8)]
        gate = threading.Barrier(8)

        def make(mine: list) -> None:
            gate.wait()
            mine.extend(uuid7() for _ in range(5_000))

        threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert all(sorted(mine) == mine for mine in made)
        assert len({one for mine in made for one in mine}) == 40_000

    @pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_fork_makes_others_even_if_another_thread_held_the_lock(self):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        module = sys.modules["earnorm._uuid7"]
        lock = getattr(module, "_lock", threading.Lock())
        child = context.Process(target=send_ids, args=(theirs,))
        with lock:
            child.start()
        made = {uuid7() for _ in range(1000)}
        assert ours.poll(30)

        assert not made & set(ours.recv())
        child.join(30)
