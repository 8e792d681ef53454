"""Model lifecycle events: hooks that run with the write, in its transaction."""

import asyncio
from datetime import datetime

from earnorm import (
    BaseModel,
    EmailField,
    StringField,
    connect,
    post_delete,
    post_save,
    pre_delete,
    pre_save,
)


def notify_user_updated(user: "User") -> None:
    print(f"    after_save     {user.name} is written, set at {type(user.updated_at).__name__}")


def archive_user(user: "User") -> None:
    print(f"    before_delete  {user.name} goes to the archive")


def cleanup_user_data(user: "User") -> None:
    print(f"    after_delete   {user.name}'s data is cleaned up")


# fmt: off
class User(BaseModel):
    name = StringField()
    email = EmailField()
    
    @pre_save
    def before_save(self):
        self.updated_at = datetime.now()
        
    @post_save
    def after_save(self):
        notify_user_updated(self)
        
    @pre_delete
    def before_delete(self):
        archive_user(self)
        
    @post_delete
    def after_delete(self):
        cleanup_user_data(self)
# fmt: on


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://"):
        print("  save a new user")
        ada = User(name="Ada", email="ada@example.com").save()
        print("  save a change")
        ada.name = "Ada Lovelace"
        ada.save()
        print("  save without a change")
        ada.save()
        print("  delete")
        ada.delete()
        print(f"  users left: {len(User.find())}")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://"):
        print("  save a new user")
        grace = await User(name="Grace", email="grace@example.com").asave()
        print("  save a change")
        grace.name = "Grace Hopper"
        await grace.asave()
        print("  save without a change")
        await grace.asave()
        print("  delete")
        await grace.adelete()
        print(f"  users left: {len(await User.afind())}")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   save a new user
#     after_save     Ada is written, set at datetime
#   save a change
#     after_save     Ada Lovelace is written, set at datetime
#   save without a change
#   delete
#     before_delete  Ada Lovelace goes to the archive
#     after_delete   Ada Lovelace's data is cleaned up
#   users left: 0
# async door
#   save a new user
#     after_save     Grace is written, set at datetime
#   save a change
#     after_save     Grace Hopper is written, set at datetime
#   save without a change
#   delete
#     before_delete  Grace Hopper goes to the archive
#     after_delete   Grace Hopper's data is cleaned up
#   users left: 0
