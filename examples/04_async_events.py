"""Async events: coroutines on a model and anywhere else, awaited after the commit, durably."""

import asyncio

from earnorm import (
    BaseModel,
    StringField,
    connect,
    event_handler_async,
    on_event_async,
    post_save_async,
)


async def notify_services(user: "User") -> None:
    await asyncio.sleep(0)
    print(f"    after_save              other services know this {type(user).__name__}")


async def update_search_index(user: "User") -> None:
    await asyncio.sleep(0)
    print(f"    handle_profile_update   {type(user).__name__} is in the search index")


async def notify_followers(user: "User") -> None:
    await asyncio.sleep(0)
    print(f"    handle_profile_update   the followers of this {type(user).__name__} know")


async def process_order_async(order: "Order") -> None:
    await asyncio.sleep(0)
    print(f"    handle_order_completed  {order.title} is processed")


async def notify_shipping_async(order: "Order") -> None:
    await asyncio.sleep(0)
    print(f"    handle_order_completed  {order.title} goes to shipping")


class Order(BaseModel):
    title = StringField()


# fmt: off
class User(BaseModel):
    @post_save_async
    async def after_save(self):
        await notify_services(self)
        
    @on_event_async('profile_updated')
    async def handle_profile_update(self):
        await update_search_index(self)
        await notify_followers(self)

# Global async handler
@event_handler_async('order.completed')
async def handle_order_completed(order):
    await process_order_async(order)
    await notify_shipping_async(order)
# fmt: on


def sync_door() -> None:
    print("sync door: the handlers run on the worker's loop")
    with connect("sqlite://") as db:
        print("  save a user")
        user = User().save()
        print(f"    {done(db.drain())}")
        print("  the profile is updated")
        user.emit("profile_updated")
        print(f"    {done(db.drain())}")
        print("  an order is completed")
        Order(title="a loom").save().emit("completed")
        print(f"    {done(db.drain())}")


async def async_door() -> None:
    print("async door: the handlers run on this loop")
    async with connect("sqlite://") as db:
        print("  save a user")
        user = await User().asave()
        print(f"    {done(await db.adrain())}")
        print("  the profile is updated")
        await user.aemit("profile_updated")
        print(f"    {done(await db.adrain())}")
        print("  an order is completed")
        order = await Order(title="a compiler").asave()
        await order.aemit("completed")
        print(f"    {done(await db.adrain())}")


def done(counts: dict[str, int]) -> str:
    return f"deliveries done: {counts['done']}"


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door: the handlers run on the worker's loop
#   save a user
#     after_save              other services know this User
#     deliveries done: 1
#   the profile is updated
#     handle_profile_update   User is in the search index
#     handle_profile_update   the followers of this User know
#     deliveries done: 1
#   an order is completed
#     handle_order_completed  a loom is processed
#     handle_order_completed  a loom goes to shipping
#     deliveries done: 1
# async door: the handlers run on this loop
#   save a user
#     after_save              other services know this User
#     deliveries done: 1
#   the profile is updated
#     handle_profile_update   User is in the search index
#     handle_profile_update   the followers of this User know
#     deliveries done: 1
#   an order is completed
#     handle_order_completed  a compiler is processed
#     handle_order_completed  a compiler goes to shipping
#     deliveries done: 1
