"""FastAPI: a database while the application lives, a transaction a request, events once it is committed."""

import asyncio
import sys
from inspect import signature
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from earnorm import Abort, BaseModel, Database, IntegerField, StringField, connect, event_handler_async, pre_save
from earnorm.errors import MissingExtra, NotConnected, TransactionNotYours
from earnorm.fastapi import database, lifespan, transaction
from earnorm.orm.connected import database_named


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def heard():
    return []


@pytest.fixture
def Order(heard):
    class Order(BaseModel):
        number = IntegerField()
        status = StringField(default="new")

    @event_handler_async("order.created", name="ship")
    async def ship(order):
        heard.append((order.number, id(asyncio.get_running_loop())))

    return Order


@pytest.fixture
def app(Order, url):
    """An application that takes orders, each in a transaction of its own."""
    app = FastAPI(lifespan=lifespan(url))

    @app.post("/orders/{number}", dependencies=[transaction()])
    async def order(number: int, status: str = "new"):
        order = await Order(number=number, status=status).asave()
        if status == "bad":
            raise HTTPException(422, "no such status")
        if status == "broken":
            raise RuntimeError("out of paper")
        return {"id": str(order.id)}

    @app.get("/orders")
    async def orders():
        return sorted(order.number for order in await Order.afind())

    @app.post("/drain")
    async def drain(db: Annotated[Database, database()]):
        return await db.adrain() | {"loop": id(asyncio.get_running_loop())}

    return app


def test_a_request_is_one_transaction_and_its_events_come_after_the_commit(app, heard):
    with TestClient(app) as client:
        assert 200 == client.post("/orders/1").status_code
        told = client.post("/drain").json()

    # On the application's own loop, where its clients and pools live.
    assert [(1, told["loop"])] == heard


@pytest.mark.parametrize("status, code", [("bad", 422), ("broken", 500)])
def test_a_request_that_fails_leaves_no_row_and_no_event(app, heard, status, code):
    with TestClient(app, raise_server_exceptions=False) as client:
        assert code == client.post(f"/orders/1?status={status}").status_code
        assert [] == client.get("/orders").json()
        assert 0 == client.post("/drain").json()["done"]

    assert [] == heard


def test_a_commit_that_fails_is_told_to_the_client(app, heard, Order):
    """Dependencies of the usual scope commit when the response is gone: the client took 200 for a row nobody has."""

    def refuse(_connection):
        raise RuntimeError("disk full")

    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/orders")
        engine = client.portal.call(the_engine)
        event.listen(engine, "commit", refuse)
        assert 500 == client.post("/orders/1").status_code
        event.remove(engine, "commit", refuse)
        assert [] == client.get("/orders").json()

    assert [] == heard


async def the_engine():
    from earnorm.orm.connected import database_named

    return database_named("a test", "default").async_engine.sync_engine


def test_a_veto_may_be_answered_as_the_application_likes(app, Order):
    class Refund(BaseModel):
        amount = IntegerField()

        @pre_save
        def limit(self):
            if self.amount > 100:
                raise Abort("ask a human")

    @app.exception_handler(Abort)
    async def vetoed(request, error):
        return JSONResponse({"detail": error.reason}, 409)

    @app.post("/refunds/{amount}", dependencies=[transaction()])
    async def refund(amount: int):
        await Refund(amount=amount).asave()

    with TestClient(app) as client:
        told = client.post("/refunds/101")
        assert (409, {"detail": "ask a human"}) == (told.status_code, told.json())
        assert 200 == client.post("/refunds/100").status_code


async def test_requests_at_once_have_a_transaction_each(app, heard):
    async with app.router.lifespan_context(app), AsyncClient(transport=ASGITransport(app), base_url="http://t") as http:
        statuses = ["new" if number % 2 else "bad" for number in range(20)]
        answers = await asyncio.gather(
            *(http.post(f"/orders/{number}?status={status}") for number, status in enumerate(statuses))
        )
        stored = (await http.get("/orders")).json()
        await http.post("/drain")

    assert [422 if status == "bad" else 200 for status in statuses] == [answer.status_code for answer in answers]
    assert list(range(1, 20, 2)) == stored
    assert stored == sorted(number for number, _ in heard)


def test_the_session_is_the_one_that_saves_use(app, Order):
    @app.post("/both")
    async def both(
        session: Annotated[AsyncSession, transaction()],
        again: Annotated[AsyncSession, transaction()],
    ):
        session.add(Order(number=1))
        await Order(number=2).asave()
        return {"one": session is again, "inside": await session.run_sync(lambda s: s.in_transaction())}

    with TestClient(app) as client:
        assert {"one": True, "inside": True} == client.post("/both").json()
        assert [1, 2] == client.get("/orders").json()


def test_a_plain_route_is_told_that_the_transaction_is_not_its_own(app, Order):
    @app.post("/plain", dependencies=[transaction()])
    def plain():
        Order(number=1).save()

    @app.post("/right")
    def right(db: Annotated[Database, database()]):
        with db.transaction():
            Order(number=2).save()

    with TestClient(app) as client:
        with pytest.raises(TransactionNotYours, match="open one of its own"):
            client.post("/plain")
        client.post("/right")
        assert [2] == client.get("/orders").json()


def test_a_background_task_sees_no_rollback_and_a_handler_does(app, heard, Order):
    """Why not BackgroundTasks: they are told by the route, before anybody knows whether the commit will succeed."""
    told = []

    @app.post("/background", dependencies=[transaction()])
    async def background(tasks: BackgroundTasks, number: int):
        await Order(number=number).asave()
        tasks.add_task(told.append, number)

    with TestClient(app) as client:
        client.post("/background?number=7")
        client.post("/drain")

    assert ([7], [7]) == (told, [number for number, _ in heard])


def test_an_application_may_be_started_again(app, heard):
    for number in (1, 2):
        with TestClient(app) as client:
            client.post(f"/orders/{number}")
            assert list(range(1, number + 1)) == client.get("/orders").json()

    # Closing finishes what is due.
    assert [1, 2] == [number for number, _ in heard]


def test_what_the_last_run_did_not_handle_is_handled_by_the_next(app, heard, url, Order):
    with connect(url, worker=False):
        Order(number=1).save()
    assert [] == heard

    with TestClient(app) as client:
        assert 1 == client.post("/drain").json()["done"] or heard

    assert [1] == [number for number, _ in heard]


def test_without_its_database_a_request_fails_by_name(app, Order):
    @app.post("/elsewhere", dependencies=[transaction("reports")])
    async def elsewhere(): ...

    client = TestClient(app)
    with pytest.raises(NotConnected, match="no database is connected"):
        client.post("/orders/1")
    with TestClient(app) as client, pytest.raises(NotConnected, match="'reports'"):
        client.post("/elsewhere")


def test_starlette_takes_the_same_lifespan(url, Order):
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def order(request):
        await Order(number=1).asave()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", order)], lifespan=lifespan(url))
    with TestClient(app) as client:
        assert "done" == client.get("/").text


def test_without_fastapi_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)

    with pytest.raises(MissingExtra, match=r"pip install 'earnorm\[fastapi\]'"):
        transaction()


async def test_a_lifespan_takes_what_connect_takes(url):
    """It took four of them, and its docstring said all."""
    assert signature(connect).parameters == signature(lifespan).parameters

    async with lifespan(url, name="kept", worker=False, log="subscribed", retention=None)(object()):
        assert database_named("a test", "kept").retention is None
