"""Steps: coroutines taken one after the other, and what is left of one that waits."""

from __future__ import annotations

import asyncio
import gc
from contextvars import Context, ContextVar

import pytest

from earnorm.stepping import Rest, Steps, awaiting

SEEN = ContextVar("seen", default="")


async def told(value):
    return value


async def waiting(value):
    SEEN.set(value)
    await asyncio.sleep(0)
    return SEEN.get()


def first(steps, coroutine):
    found = steps.first(coroutine)
    return steps.ended.value if found is steps.ended else found


def test_many_are_taken_by_the_same_steps():
    steps = Steps()

    assert [1, None, "three"] == [first(steps, told(value)) for value in (1, None, "three")]


def test_one_that_raises_ends_nobody_elses():
    async def fail():
        raise LookupError("no city")

    steps = Steps()
    with pytest.raises(LookupError, match="no city"):
        steps.first(fail())

    assert "next" == first(steps, told("next"))


async def test_one_that_waits_goes_on_in_its_own_context():
    steps, context = Steps(), Context()
    awaits = context.run(steps.first, waiting("mine"))

    assert awaits is not steps.ended
    assert "mine" == await Rest(context, steps, awaits)
    assert "" == SEEN.get()


async def test_what_is_thrown_at_one_that_waits_is_its_own_to_catch():
    async def catching():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "caught"

    steps, context = Steps(), Context()
    rest = Rest(context, steps, context.run(steps.first, catching()))
    task = asyncio.ensure_future(awaiting(rest))
    await asyncio.sleep(0)
    task.cancel()

    assert "caught" == await task


def test_one_that_is_left_waiting_goes_at_once():
    """It may hold a connection: the garbage collector comes when it likes."""
    gone = []

    async def handle():
        try:
            await asyncio.sleep(0)
        finally:
            gone.append("closed")

    gc.disable()
    try:
        steps = Steps()
        steps.first(handle())
        del steps
        assert ["closed"] == gone
    finally:
        gc.enable()
