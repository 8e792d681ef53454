"""Custom events: a model hears the change of a field, and what you emit about it."""

import asyncio
from datetime import datetime

from earnorm import BaseModel, StringField, connect, on_event


def log_status_change(order: "Order", old_status: str, new_status: str) -> None:
    print(f"    handle_status_change  {old_status} -> {new_status}, while the order says {order.status!r}")


# fmt: off
class Order(BaseModel):
    status = StringField()
    
    @on_event('status_change')
    def handle_status_change(self, old_status, new_status):
        log_status_change(self, old_status, new_status)
        
    @on_event('payment_received')
    def handle_payment(self, payment):
        self.status = 'paid'
        self.paid_at = datetime.now()
        self.save()
# fmt: on


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://"):
        print("  a new order")
        order = Order(status="new").save()
        print("  its status changes")
        order.status = "confirmed"
        order.save()
        print("  a payment comes in: the handler saves, and that save is heard as well")
        order.emit("payment_received", payment={"amount": 40, "currency": "EUR"})
        print(f"  in the database: {Order.get(order.id).status}, paid_at set: {order.paid_at is not None}")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://"):
        print("  a new order")
        order = await Order(status="new").asave()
        print("  its status changes")
        order.status = "confirmed"
        await order.asave()
        print("  a payment comes in: the handler saves, and that save is heard as well")
        await order.aemit("payment_received", payment={"amount": 40, "currency": "EUR"})
        print(f"  in the database: {(await Order.aget(order.id)).status}, paid_at set: {order.paid_at is not None}")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   a new order
#   its status changes
#     handle_status_change  new -> confirmed, while the order says 'confirmed'
#   a payment comes in: the handler saves, and that save is heard as well
#     handle_status_change  confirmed -> paid, while the order says 'paid'
#   in the database: paid, paid_at set: True
# async door
#   a new order
#   its status changes
#     handle_status_change  new -> confirmed, while the order says 'confirmed'
#   a payment comes in: the handler saves, and that save is heard as well
#     handle_status_change  confirmed -> paid, while the order says 'paid'
#   in the database: paid, paid_at set: True
