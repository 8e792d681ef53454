"""Event handlers: functions anywhere that hear events after the commit, durably."""

import asyncio

from earnorm import BaseModel, EmailField, Event, StringField, connect, event_handler


def send_welcome_email(user: "User") -> None:
    print(f"    handle_user_created     welcome, {user.name} <{user.email}>")


def send_password_change_notification(user: "User") -> None:
    print(f"    handle_password_change  {user.name}, your password was changed")


def log_activity(user: "User", event: Event) -> None:
    print(f"    log_user_activity       {event} by {user.name}")


class User(BaseModel):
    name = StringField()
    email = EmailField()
    password = StringField(sensitive=True)


# fmt: off
# Global event handler
@event_handler('user.created')
def handle_user_created(user):
    send_welcome_email(user)
    
# Model-specific handler
@User.on('password_changed')
def handle_password_change(user):
    send_password_change_notification(user)
    
# Multiple events handler
@event_handler(['user.login', 'user.logout'])
def log_user_activity(user, event):
    log_activity(user, event)
# fmt: on


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://") as db:
        print("  a user signs up")
        ada = User(name="Ada", email="ada@example.com", password="analytical").save()
        print(f"    {done(db.drain())}")
        print("  logs in, and out")
        ada.emit("login")
        ada.emit("logout")
        print(f"    {done(db.drain())}")
        print("  and takes a new password: `password_changed` is a view of the update")
        ada.password = "difference engine"
        ada.save()
        print(f"    {done(db.drain())}")
        print("  an email that changes is heard by nobody here")
        ada.email = "lovelace@example.com"
        ada.save()
        print(f"    {done(db.drain())}")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://") as db:
        print("  a user signs up")
        grace = await User(name="Grace", email="grace@example.com", password="nanosecond").asave()
        print(f"    {done(await db.adrain())}")
        print("  logs in, and out")
        await grace.aemit("login")
        await grace.aemit("logout")
        print(f"    {done(await db.adrain())}")
        print("  and takes a new password: `password_changed` is a view of the update")
        grace.password = "microsecond"
        await grace.asave()
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
# sync door
#   a user signs up
#     handle_user_created     welcome, Ada <ada@example.com>
#     deliveries done: 1
#   logs in, and out
#     log_user_activity       user.login by Ada
#     log_user_activity       user.logout by Ada
#     deliveries done: 2
#   and takes a new password: `password_changed` is a view of the update
#     handle_password_change  Ada, your password was changed
#     deliveries done: 1
#   an email that changes is heard by nobody here
#     deliveries done: 0
# async door
#   a user signs up
#     handle_user_created     welcome, Grace <grace@example.com>
#     deliveries done: 1
#   logs in, and out
#     log_user_activity       user.login by Grace
#     log_user_activity       user.logout by Grace
#     deliveries done: 2
#   and takes a new password: `password_changed` is a view of the update
#     handle_password_change  Grace, your password was changed
#     deliveries done: 1
