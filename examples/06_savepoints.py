"""Savepoints: what is rolled back takes its events along, and only the real commit releases the rest."""

import asyncio

from earnorm import BaseModel, IntegerField, StringField, connect, event_handler, post_commit, post_rollback


class Booking(BaseModel):
    guest = StringField()
    seats = IntegerField(min=1)

    @post_commit
    def confirm(self) -> None:
        print(f"    post_commit    {self.guest} is certain")

    @post_rollback
    def regret(self) -> None:
        print(f"    post_rollback  {self.guest} never was")


@event_handler("booking.created")
def send_ticket(booking: Booking) -> None:
    tickets.append(f"{booking.seats} for {booking.guest}")


tickets: list[str] = []


class SoldOutError(Exception):
    pass


def book_or_not(guest: str, seats: int) -> None:
    Booking(guest=guest, seats=seats).save()
    if seats > 4:
        raise SoldOutError(guest)


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://") as db:
        print("  one transaction, three savepoints, one of them rolled back")
        with db.transaction():
            for guest, seats in (("Ada", 2), ("Party of nine", 9), ("Grace", 1)):
                try:
                    with db.transaction():
                        book_or_not(guest, seats)
                except SoldOutError as error:
                    print(f"    sold out       {error}")
            print("    (still open: nothing has been announced)")
        db.drain()
        print(f"  bookings: {len(Booking.find())}, tickets sent: {sorted(tickets)}")

        print("  a transaction that fails at its very end")
        try:
            with db.transaction():
                book_or_not("Edsger", 1)
                raise SoldOutError("the whole evening")
        except SoldOutError as error:
            print(f"    sold out       {error}")
        db.drain()
        print(f"  bookings: {len(Booking.find())}, tickets sent: {sorted(tickets)}")


async def async_door() -> None:
    print("async door")
    tickets.clear()
    async with connect("sqlite://") as db:
        async with db.transaction():
            await Booking(guest="Barbara", seats=3).asave()
            try:
                async with db.transaction():
                    await Booking(guest="Donald", seats=2).asave()
                    raise SoldOutError("the balcony")
            except SoldOutError as error:
                print(f"    sold out       {error}")
        await db.adrain()
        print(f"  bookings: {len(await Booking.afind())}, tickets sent: {sorted(tickets)}")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   one transaction, three savepoints, one of them rolled back
#     sold out       Party of nine
#     (still open: nothing has been announced)
#     post_commit    Ada is certain
#     post_commit    Grace is certain
#   bookings: 2, tickets sent: ['1 for Grace', '2 for Ada']
#   a transaction that fails at its very end
#     post_rollback  Edsger never was
#     sold out       the whole evening
#   bookings: 2, tickets sent: ['1 for Grace', '2 for Ada']
# async door
#     sold out       the balcony
#     post_commit    Barbara is certain
#   bookings: 1, tickets sent: ['3 for Barbara']
