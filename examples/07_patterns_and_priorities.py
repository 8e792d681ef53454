"""Patterns and priorities: who hears what, and in which order.

These handlers ask for `delivery="after_commit"`: after the commit, in this process, in one total order. Without it they
would be durable and run side by side.
"""

import asyncio

from earnorm import BaseModel, Event, StringField, connect, emit, event_handler, on_event


class Account(BaseModel):
    owner = StringField()

    @on_event(["login", "logout"])
    def inside_the_transaction(self, event: Event) -> None:
        print(f"    on_event     {event} of {self.owner}, before the commit")


@event_handler("account.*", "!account.viewed", delivery="after_commit", priority=10)
def audit(account: Account, event: Event) -> None:
    print(f"    audit        {event}: every event of an account, but for views; first, by its priority")


@event_handler("account.login", delivery="after_commit")
def greet(account: Account) -> None:
    print(f"    greet        hello, {account.owner}")


@event_handler("account.login", delivery="after_commit", priority=100, after=greet)
def suggest(account: Account) -> None:
    print("    suggest      a high priority, but it asked to come after greet")


@event_handler("account.login", delivery="after_commit", when=lambda device: device == "phone")
def suggest_the_app(account: Account, device: str) -> None:
    print(f"    the app      only `when` the device is a phone: {device}")


@event_handler("**", delivery="after_commit", priority=-10)
def count(event: Event, **payload: object) -> None:
    print(f"    count        {event}, with {' and '.join(sorted(payload)) or 'nothing'}: anything at all, last")


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://"):
        print("  save")
        account = Account(owner="Ada").save()
        print("  login from a desk")
        account.emit("login", device="desk")
        print("  login from a phone")
        account.emit("login", device="phone")
        print("  viewed")
        account.emit("viewed")
        print("  an event about nothing in particular")
        emit("system.night_began", at="22:00")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://"):
        print("  save")
        account = await Account(owner="Grace").asave()
        print("  login from a phone")
        await account.aemit("login", device="phone")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   save
#     audit        account.created: every event of an account, but for views; first, by its priority
#     count        account.created, with id and owner: anything at all, last
#   login from a desk
#     on_event     account.login of Ada, before the commit
#     audit        account.login: every event of an account, but for views; first, by its priority
#     greet        hello, Ada
#     suggest      a high priority, but it asked to come after greet
#     count        account.login, with device: anything at all, last
#   login from a phone
#     on_event     account.login of Ada, before the commit
#     audit        account.login: every event of an account, but for views; first, by its priority
#     greet        hello, Ada
#     suggest      a high priority, but it asked to come after greet
#     count        account.login, with device: anything at all, last
#   viewed
#     count        account.viewed, with nothing: anything at all, last
#   an event about nothing in particular
#     count        system.night_began, with at: anything at all, last
# async door
#   save
#     audit        account.created: every event of an account, but for views; first, by its priority
#     count        account.created, with id and owner: anything at all, last
#   login from a phone
#     on_event     account.login of Grace, before the commit
#     audit        account.login: every event of an account, but for views; first, by its priority
#     greet        hello, Grace
#     suggest      a high priority, but it asked to come after greet
#     count        account.login, with device: anything at all, last
