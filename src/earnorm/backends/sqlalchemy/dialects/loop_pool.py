"""A pool for each event loop: a connection of asyncpg's belongs to the loop that opened it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn

from earnorm.backends.sqlalchemy.dialects.shared_pool import SharedPool

__all__ = ["LoopPool"]

_Loop = asyncio.AbstractEventLoop

# Seconds that another thread's loop is given to close its connections.
_PATIENCE = 5.0


class LoopPool(SharedPool):
    """Looks like one pool, of the size that it is given for each loop; a loop that ends takes its own along."""

    # As of any pool (`SharedPool`); a class never inherits it.
    __module__ = SharedPool.__module__

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pools: WeakKeyDictionary[_Loop, tuple[AsyncAdaptedQueuePool, AsyncGenerator[None]]] = WeakKeyDictionary()

    def _connect(self) -> PoolProxiedConnection:
        return self._here().connect()

    def _here(self) -> AsyncAdaptedQueuePool:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._forget_ended()
            pool = self._another()
            keeper = self._closing_with(loop, pool)
            # Begun, so that `asyncio.run` and its like end it, on the loop, before they close that.
            await_only(anext(keeper))
            self._pools[loop] = pool, keeper
        return self._pools[loop][0]

    def dispose(self) -> None:
        super().dispose()
        for loop, (pool, _) in list(self._pools.items()):
            _dispose_on(loop, pool)

    def _another(self) -> AsyncAdaptedQueuePool:
        pool = AsyncAdaptedQueuePool(
            self._creator,
            pool_size=self._pool.maxsize,
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._pool.use_lifo,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            dialect=self._dialect,
            pre_ping=self._pre_ping,
        )
        # Its listeners are those of the whole, the ones to come as well.
        vars(pool)["dispatch"] = self.dispatch
        return pool

    async def _closing_with(self, loop: _Loop, pool: AsyncAdaptedQueuePool) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._pools.pop(loop, None)
            await greenlet_spawn(pool.dispose)

    def _forget_ended(self) -> None:
        """Of a loop that was closed without its ends nothing can be closed any more."""
        for loop in [loop for loop in list(self._pools) if loop.is_closed()]:
            self._pools.pop(loop, None)


def _dispose_on(loop: _Loop, pool: AsyncAdaptedQueuePool) -> None:
    """Close what lies in the pool, on the loop that it belongs to; one that does not run keeps it until it ends."""
    try:
        here: _Loop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is loop:
        pool.dispose()
    elif loop.is_running():
        closing = asyncio.run_coroutine_threadsafe(greenlet_spawn(pool.dispose), loop)
        # One that is busy for so long closes them when it comes to it.
        with suppress(TimeoutError):
            closing.result(_PATIENCE)
