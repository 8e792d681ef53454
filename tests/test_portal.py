"""The loop thread: what happens to what runs on it when it stops."""

import asyncio
import threading

from earnorm.portal import LoopThread


def test_what_was_cancelled_comes_to_its_end_when_its_loop_stops():
    """An async handler's transaction stayed open, with its locks, until the garbage collector came by."""
    thread, begun, told = LoopThread(), threading.Event(), []

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            told.append("rolled back")

    async def start():
        return asyncio.get_running_loop().create_task(work())

    task = thread.run(start())
    assert begun.wait(30)
    thread.loop.call_soon_threadsafe(task.cancel)
    thread.close()

    assert ["rolled back"] == told
    assert task.cancelled()
