"""FastAPI and Starlette: a database for as long as the application lives, and a transaction for a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from earnorm.durations import Duration
from earnorm.errors import MissingExtra
from earnorm.orm.connected import database_named
from earnorm.orm.connecting import connect
from earnorm.orm.database import Database
from earnorm.orm.engines import Schemas
from earnorm.orm.log import Kept
from earnorm.orm.tables import Tables

__all__ = ["database", "lifespan", "transaction"]


def lifespan(
    url: str | URL | Engine | AsyncEngine | None = None,
    *,
    name: str = "default",
    worker: bool | None = None,
    tables: Tables = "create",
    log: Kept = "all",
    schemas: Schemas | None = None,
    retention: Duration | None = "30d",
    version: str | None = None,
    groups: Collection[str] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """`FastAPI(lifespan=lifespan(url))`: connect when the application starts, close when it stops.

    It takes what `connect` takes. Each start connects anew, so that tests may start one application many times. The
    worker's async handlers run on the application's loop. Works for Starlette as well, without FastAPI installed.
    """

    @asynccontextmanager
    async def connected(_app: Any) -> AsyncIterator[None]:
        async with connect(
            url,
            name=name,
            worker=worker,
            tables=tables,
            log=log,
            schemas=schemas,
            retention=retention,
            version=version,
            groups=groups,
        ):
            yield

    return connected


def transaction(name: str = "default") -> Any:
    """A dependency: the request is one transaction, committed before its response is sent.

        @app.post("/orders", dependencies=[transaction()])
        async def order(session: Annotated[AsyncSession, transaction()]): ...

    An exception rolls it back, HTTPException as well; a response that is returned commits, whatever its status. If
    the commit fails the client is told so. For `async def` routes: a plain one runs in a thread, which is not the
    transaction's owner. Raises NotConnected when a request comes, MissingExtra.
    """
    return _depends(_transaction_of(name))


def database(name: str = "default") -> Any:
    """A dependency: what `connect` returned.

        @app.post("/drain")
        async def drain(db: Annotated[Database, database()]): ...

    Raises NotConnected when a request comes, MissingExtra.
    """
    return _depends(_database_of(name))


# One function a name, so that FastAPI's cache gives a request one transaction however often it is asked for.
@lru_cache
def _transaction_of(name: str) -> Callable[[], AsyncIterator[AsyncSession]]:
    async def opened() -> AsyncIterator[AsyncSession]:
        async with database_named("transaction()", name).transaction() as transaction:
            yield transaction.session

    return opened


@lru_cache
def _database_of(name: str) -> Callable[[], AsyncIterator[Database]]:
    async def connected() -> AsyncIterator[Database]:
        yield database_named("database()", name)

    return connected


def _depends(dependency: Callable[[], AsyncIterator[Any]]) -> Any:
    try:
        from fastapi import Depends
    except ImportError as error:
        raise MissingExtra("earnorm.fastapi", "fastapi") from error
    # The usual scope commits once the response is on its way, when nobody can be told of a failure.
    return Depends(dependency, scope="function")
