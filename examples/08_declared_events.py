"""Declared events: a class for the payload, known to type checkers, to handlers and to the log."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from earnorm import BaseModel, DecimalField, StringField, connect, event_handler, event_type, on_event
from earnorm.errors import MissingPayload, PayloadError


@event_type("order.placed", version=1)
@dataclass(frozen=True)
class OrderPlaced:
    total: Decimal
    due: date
    items: list[str]


class Order(BaseModel):
    customer = StringField()
    owed = DecimalField(default=Decimal(0))

    @on_event("placed")
    def owe(self, placed: OrderPlaced) -> None:
        self.owed = self.owed + placed.total
        self.save()


# The subject by its place, the declared event by its class.
@event_handler(OrderPlaced)
def send_invoice(order: Order, placed: OrderPlaced) -> None:
    print(f"    send_invoice  {order.customer}, {placed.total} by {placed.due:%d %B %Y}: {', '.join(placed.items)}")
    print(f"                  as {type(placed.total).__name__} and {type(placed.due).__name__}, out of the log")


# A handler that does not know the class asks for the payload by its keys.
@event_handler("order.placed")
def reserve(order: Order, items: list[str]) -> None:
    stock.extend(items)


@event_handler("order.paid")
def thank(order: Order, amount: Decimal) -> None:
    print(f"    thank         {order.customer} for {amount}")


stock: list[str] = []


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://") as db:
        print("  an order is placed")
        order = Order(customer="Ada").save()
        order.emit(OrderPlaced(total=Decimal("19.90"), due=date(2030, 1, 31), items=["tea", "a pot"]))
        db.drain()
        print(f"    owed {Order.get(order.id).owed}, reserved {sorted(stock)}")

        print("  what no handler could read is refused where it is emitted")
        refuse("a payload without `amount`", lambda: order.emit("paid"))
        refuse("a payload that is no data", lambda: order.emit("paid", amount=object()))
        refuse("not a number", lambda: order.emit("paid", amount=float("nan")))
        print(f"    deliveries left: {db.drain()['done']}")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://") as db:
        print("  an order is placed")
        order = await Order(customer="Grace").asave()
        await order.aemit(OrderPlaced(total=Decimal("7.25"), due=date(2030, 2, 28), items=["ribbon"]))
        await db.adrain()
        print("  and paid")
        await order.aemit("paid", amount=Decimal("7.25"))
        await db.adrain()


def refuse(what: str, emit: Callable[[], object]) -> None:
    try:
        emit()
    except (MissingPayload, PayloadError) as error:
        print(f"    {what}: {type(error).__name__}")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   an order is placed
#     send_invoice  Ada, 19.90 by 31 January 2030: tea, a pot
#                   as Decimal and date, out of the log
#     owed 19.90, reserved ['a pot', 'tea']
#   what no handler could read is refused where it is emitted
#     a payload without `amount`: MissingPayload
#     a payload that is no data: PayloadError
#     not a number: PayloadError
#     deliveries left: 0
# async door
#   an order is placed
#     send_invoice  Grace, 7.25 by 28 February 2030: ribbon
#                   as Decimal and date, out of the log
#   and paid
#     thank         Grace for 7.25
