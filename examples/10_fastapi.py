"""FastAPI: one transaction a request; the mail goes out once it is committed, and not for a request that failed."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from earnorm import BaseModel, Database, IntegerField, StringField, event_handler_async
from earnorm.fastapi import database, lifespan, transaction

mails: list[str] = []


class Order(BaseModel):
    customer = StringField()
    total = IntegerField()


@event_handler_async("order.created")
async def confirm(order: Order) -> None:
    # On the application's own loop: its HTTP clients and pools work here.
    await asyncio.sleep(0)
    mails.append(f"to {order.customer}: thank you for {order.total}")


app = FastAPI(lifespan=lifespan("sqlite://"))


@app.post("/orders", dependencies=[transaction()])
async def place(customer: str, total: int) -> dict[str, str]:
    order = await Order(customer=customer, total=total).asave()
    if total > 1_000:
        # Like any exception, it rolls the request's transaction back.
        raise HTTPException(402, "no credit")
    return {"id": str(order.id)}


@app.get("/orders")
async def orders() -> list[str]:
    return [order.customer for order in await Order.afind()]


@app.post("/drain")
async def drain(db: Annotated[Database, database()]) -> dict[str, int]:
    return await db.adrain()


def main() -> None:
    with TestClient(app) as client:
        print("Ada orders for 40")
        print(f"  {client.post('/orders?customer=Ada&total=40').status_code}")
        client.post("/drain")  # wait until what is due is done
        print(f"  mails {', '.join(mails)}")
        print("Bob orders for 4000")
        print(f"  {client.post('/orders?customer=Bob&total=4000').status_code}")
        client.post("/drain")
        print(f"  mails {', '.join(mails)}")
        print(f"orders of: {client.get('/orders').json()}")


if __name__ == "__main__":
    main()

# Prints:
#
# Ada orders for 40
#   200
#   mails to Ada: thank you for 40
# Bob orders for 4000
#   402
#   mails to Ada: thank you for 40
# orders of: ['Ada']
