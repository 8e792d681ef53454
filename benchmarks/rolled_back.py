"""A test inside `rolled_back`, beside the recipe and a test that commits: `python -m benchmarks.rolled_back`.

The recipe is SQLAlchemy's own, on a model nobody listens to. Each saves a record and looks at it; all alternate, so
that a busy machine slows them alike.
"""

import sys
import tempfile
import time
from statistics import median

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from earnorm import BaseModel, IntegerField, connect, event_handler
from earnorm.testing import rolled_back


class Order(BaseModel):
    number = IntegerField()


class Plain(BaseModel):
    number = IntegerField()


@event_handler("order.created", name="ship")
def ship(order):
    order.number += 1


def recipe(db):
    """The outer transaction of SQLAlchemy's documentation, on a model nobody listens to."""
    with db.engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Plain(number=1))
            session.commit()
            assert len(session.scalars(select(Plain)).all()) == 1
        outer.rollback()


def undone(db):
    with rolled_back(db):
        Order(number=1).save()
        assert len(Order.find()) == 1


def undone_and_drained(db):
    with rolled_back(db):
        Order(number=1).save()
        assert db.drain()["done"] == 1


def committed_and_drained(db):
    Order(number=1).save()
    assert db.drain()["done"] == 1
    with db.engine.begin() as connection:
        connection.execute(delete(Order.__table__))


TESTS = (recipe, undone, undone_and_drained, committed_and_drained)


def main(rounds=200):
    with tempfile.TemporaryDirectory() as folder, connect(f"sqlite:///{folder}/app.db", worker=False) as db:
        db.ready()
        times = {test: [] for test in TESTS}
        for _ in range(rounds):
            for test in TESTS:
                began = time.perf_counter()
                test(db)
                times[test].append(time.perf_counter() - began)
    base = median(times[recipe])
    for test in TESTS:
        taken = median(times[test])
        print(f"{test.__name__:24} {1_000 * taken:6.2f} ms a test  {taken / base:5.2f} x the recipe")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
