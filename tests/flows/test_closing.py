"""Closing beside work: what commits is in the log, and nobody waits for himself."""

import threading
from pathlib import Path

import pytest

from earnorm import BaseModel, StringField, connect, emit, event_handler
from earnorm.errors import DrainInTransaction
from earnorm.testing import expect_failures


@pytest.fixture
def order():
    class Order(BaseModel):
        status = StringField(default="new")

    return Order


def names_in(file):
    import sqlite3

    with sqlite3.connect(file) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM earnorm_log ORDER BY position")]


def test_a_transaction_of_another_thread_is_waited_for_and_keeps_its_events(order, tmp_path):
    db = connect(f"sqlite:///{tmp_path}/app.db")
    began, may_end = threading.Event(), threading.Event()

    def work():
        with db.transaction():
            order.find()
            began.set()
            may_end.wait(5)
            order().save()

    worker = threading.Thread(target=work)
    worker.start()
    began.wait(5)
    closing = threading.Thread(target=db.close)
    closing.start()
    may_end.set()
    worker.join()
    closing.join()

    assert ["order.created"] == names_in(tmp_path / "app.db")


def test_what_outlives_the_patience_of_close_is_kept_if_anybody_hears_it(order, tmp_path):
    @event_handler("order.created", name="later")
    def later(order):
        raise AssertionError("it is handled after the next start")

    db = connect(f"sqlite:///{tmp_path}/app.db")
    session = db.session()
    session.add(order())
    session.flush()
    db.close(drain=0)
    session.commit()
    session.close()

    assert ["order.created"] == names_in(tmp_path / "app.db")


def test_close_inside_a_transaction_or_a_handler_is_refused(order):
    told = []
    with connect("sqlite://") as db:

        @event_handler("order.created", name="closes")
        def closes(order):
            with pytest.raises(DrainInTransaction, match=r"close\(\) inside the handler"):
                db.close()
            told.append("refused")

        with db.transaction(), pytest.raises(DrainInTransaction, match=r"close\(\) inside a transaction"):
            db.close()
        with expect_failures() as failures:
            order().save()
            db.drain()

    assert (["refused"], []) == (told, failures)


def test_a_private_database_leaves_no_folder(order):
    db = connect("sqlite://")
    order().save()
    folder = Path(db.engine.url.database).parent
    assert folder.is_dir()
    db.close()

    assert not folder.exists()


def test_what_is_emitted_after_the_close_says_that_nothing_is_kept(order, tmp_path, caplog):
    """It was handled in memory without a word, by a program that took it for durable."""
    seen = []
    event_handler("order.paid", "day.ended", name="later")(lambda event: seen.append(event.name))
    event_handler("day.began", name="at once", delivery="after_commit")(lambda event: seen.append(event.name))
    emit("day.ended")
    with connect(f"sqlite:///{tmp_path}/app.db", worker=False):
        paid = order().save()
    paid.emit("paid")
    paid.emit("paid")
    emit("day.ended")
    emit("day.began")

    assert ["day.ended", "order.paid", "order.paid", "day.ended", "day.began"] == seen
    said = [record.getMessage().partition(" was emitted after the database was closed")[0] for record in caplog.records]
    assert ["order.paid", "day.ended"] == said


def test_a_database_that_is_connected_again_keeps_it(order, tmp_path, caplog):
    event_handler("day.ended", name="later")(lambda event: None)
    for _ in range(2):
        with connect(f"sqlite:///{tmp_path}/app.db", worker=False):
            emit("day.ended")

    assert [] == caplog.records
