"""Survives a restart: a process ends with events it did not handle; the next one handles them.

The script starts itself three times as a child, on one database file.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from earnorm import BaseModel, EmailField, Event, StringField, connect, event_handler


class User(BaseModel):
    name = StringField()
    email = EmailField()


@event_handler("user.created")
def send_welcome_email(user: User, event: Event) -> None:
    welcomed.append(f"{user.name} (attempt {event.attempt})")


welcomed: list[str] = []


def sign_up_and_die(url: str) -> None:
    """A web process: it commits, leaves the delivery to others, and has a power cut."""
    db = connect(url, worker=False)
    with db.transaction():
        for name in ("Ada", "Grace", "Barbara"):
            User(name=name, email=f"{name.lower()}@example.com").save()
    print("    three users committed; now the power is cut", flush=True)
    os._exit(9)


def start_again(url: str) -> None:
    with connect(url) as db:
        print("    a fresh process on the same file", flush=True)
        counts = db.drain()
        names = ", ".join(sorted(welcomed))
        print(f"    done: {counts['done']}, users: {len(User.find())}, welcomed: {names}", flush=True)


async def astart_again(url: str) -> None:
    """The same through the async door, once more: what was done stays done."""
    async with connect(url) as db:
        counts = await db.adrain()
        users = len(await User.afind())
        print(f"    done: {counts['done']}, users: {users}, welcomed again: {len(welcomed)}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'app.db'}"
        print("first start", flush=True)
        ended = run("die", url)
        print(f"  it ended with {ended}", flush=True)
        print("second start", flush=True)
        run("again", url)
        print("third start, async", flush=True)
        run("async", url)


def run(part: str, url: str) -> int:
    return subprocess.run([sys.executable, __file__, part, url], check=False).returncode


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["die", url]:
            sign_up_and_die(url)
        case ["again", url]:
            start_again(url)
        case ["async", url]:
            asyncio.run(astart_again(url))
        case _:
            main()

# Prints:
#
# first start
#     three users committed; now the power is cut
#   it ended with 9
# second start
#     a fresh process on the same file
#     done: 3, users: 3, welcomed: Ada (attempt 1), Barbara (attempt 1), Grace (attempt 1)
# third start, async
#     done: 0, users: 3, welcomed again: 0
