"""The import: rows of a file into records, each in its savepoint, twenty a transaction, bookmark included."""

import csv
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from earnorm import Abort, Database
from earnorm.errors import ValidationFailed
from examples.demo.crash import crash
from examples.demo.shop import Bookmark, Order, Refusal, User

HERE = Path(__file__).parent
TOGETHER = 20

Row = dict[str, str]
REFUSED = (ValueError, ValidationFailed, IntegrityError, Abort)


def import_user(row: Row) -> None:
    User(name=row["name"] or None, email=row["email"], born=to_date(row["born"])).save()


def import_order(row: Row) -> None:
    customers = User.find(email=row["customer"])
    if not customers:
        raise ValueError(f"no customer {row['customer']}")
    order = Order(
        number=row["number"],
        customer=customers[0].id,
        item=row["item"] or None,
        amount=to_decimal(row["amount"]),
        placed_on=to_date(row["placed_on"]),
        status="new",
    ).save()
    if row["paid"] == "yes":
        order.emit("payment_received", payment={"amount": row["amount"], "currency": "EUR"})


FILES: dict[str, Callable[[Row], None]] = {"people.csv": import_user, "orders.csv": import_order}


def import_file(db: Database, file: str, die_at: int | None = None) -> int:
    """Read on where the bookmark stands; returns how many lines that were. At line `die_at` this process ends."""
    known = Bookmark.find(file=file)
    bookmark = known[0] if known else Bookmark(file=file)
    start = bookmark.line
    lines = list(lines_of(file))[start - 1 :]
    for first in range(0, len(lines), TOGETHER):
        group = lines[first : first + TOGETHER]
        import_group(db, bookmark, group, die_at)
    return bookmark.line - start


def import_group(db: Database, bookmark: Bookmark, group: list[tuple[int, Row]], die_at: int | None) -> None:
    """One transaction. Of the group before the fatal one, the crash keeps a handler at work."""
    last = group[-1][0]
    if die_at is not None and last >= die_at:
        crash.wait_for_a_handler()
    with db.transaction():
        for line, row in group:
            import_row(db, bookmark.file, line, row)
            if line == die_at:
                crash.strike()
        bookmark.line = last
        bookmark.save()
        if die_at is not None and last + TOGETHER >= die_at:
            crash.arm()


def import_row(db: Database, file: str, line: int, row: Row) -> None:
    """A savepoint a row: what is refused leaves nothing behind, and its neighbours stay."""
    try:
        with db.transaction():
            FILES[file](row)
    except REFUSED as error:
        Refusal(file=file, line=line, reason=reason_of(error)).save()


def lines_of(file: str) -> Iterator[tuple[int, Row]]:
    """Each row with its line in the file; the first line is the heading."""
    with (HERE / file).open(newline="", encoding="utf-8") as opened:
        yield from enumerate(csv.DictReader(opened), start=2)


def to_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date") from None


def to_decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no amount") from None


def reason_of(error: Exception) -> str:
    if isinstance(error, ValidationFailed):
        return "; ".join(fault.message for fault in error.faults)
    if isinstance(error, IntegrityError):
        # SQLite says "UNIQUE constraint failed: users.email".
        return f"this {str(error.orig).rpartition('.')[2]} is there already"
    if isinstance(error, Abort):
        return f"vetoed by a hook: {error}"
    return str(error)
