"""Effects once: a handler's writes commit with the mark that it is done, so that a crash in its middle doubles nothing.

The script starts itself three times as a child, on one database file. The first is killed in the middle of a handler.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from earnorm import BaseModel, IntegerField, StringField, connect, event_handler, event_handler_async


class Payment(BaseModel):
    payer = StringField()
    amount = IntegerField()


class Entry(BaseModel):
    account = StringField()
    amount = IntegerField()


@event_handler("payment.created", transactional=True)
def book(payment: Payment, session: Session) -> None:
    session.add(Entry(account=payment.payer, amount=-payment.amount))
    session.flush()
    if payment.payer == "Grace" and "die" in sys.argv:
        os._exit(9)
    session.add(Entry(account="till", amount=payment.amount))


@event_handler_async("payment.created", transactional=True)
async def thank(payment: Payment, session: AsyncSession) -> None:
    session.add(Entry(account=f"points of {payment.payer}", amount=payment.amount // 10))


def pay_and_die(url: str) -> None:
    with connect(url, worker=False) as db:
        with db.transaction():
            for payer, amount in (("Ada", 30), ("Grace", 50)):
                Payment(payer=payer, amount=amount).save()
        print("    two payments; the process is killed between the two entries of the second", flush=True)
        db.drain()


def start_again(url: str) -> None:
    with connect(url, worker=False) as db:
        counts = db.drain()
        found = sorted((entry.account, entry.amount) for entry in Entry.find())
        print(f"    done: {counts['done'] > 0}, the books:", flush=True)
        for account, amount in found:
            print(f"      {account} has {amount}", flush=True)


async def astart_again(url: str) -> None:
    async with connect(url, worker=False) as db:
        counts = await db.adrain()
        print(f"    done: {counts['done']}, entries: {len(await Entry.afind())}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'books.db'}"
        print("first start", flush=True)
        print(f"  it ended with {run('die', url)}", flush=True)
        print("second start", flush=True)
        run("again", url)
        print("third start, async", flush=True)
        run("async", url)


def run(part: str, url: str) -> int:
    return subprocess.run([sys.executable, __file__, part, url], check=False).returncode


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["die", url]:
            pay_and_die(url)
        case ["again", url]:
            start_again(url)
        case ["async", url]:
            asyncio.run(astart_again(url))
        case _:
            main()

# Prints:
#
# first start
#     two payments; the process is killed between the two entries of the second
#   it ended with 9
# second start
#     done: True, the books:
#       Ada has -30
#       Grace has -50
#       points of Ada has 3
#       points of Grace has 5
#       till has 30
#       till has 50
# third start, async
#     done: 0, entries: 6
