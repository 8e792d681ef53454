"""Flask-SQLAlchemy: hooks and events on `db.Model` and on BaseModel, through the application's scoped session."""

import threading

import pytest
from flask import Flask, abort
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from earnorm import Abort, BaseModel, IntegerField, attach, connect, emit, event_handler, post_commit, pre_save
from earnorm.errors import BindNotConnected


@pytest.fixture
def heard():
    return []


@pytest.fixture
def flask(tmp_path):
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/shop.db"
    app.config["SQLALCHEMY_BINDS"] = {"archive": f"sqlite:///{tmp_path}/archive.db"}
    app.config["TESTING"] = True
    return app


@pytest.fixture
def db(flask):
    class Base(DeclarativeBase):
        pass

    db = SQLAlchemy(flask, model_class=Base)
    attach(db.Model)
    return db


@pytest.fixture
def Order(db, heard):
    class Order(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = mapped_column(default="new")

        @pre_save
        def check(self):
            if self.status == "bad":
                raise Abort("no such status")

        @post_commit
        def committed(self):
            heard.append(("committed", self.status))

    @event_handler("order.created", name="ship")
    def ship(order):
        heard.append(("durable", order.status))

    @event_handler("order.status.changed", name="note")
    def note(old_status, new_status):
        heard.append((old_status, new_status))

    return Order


@pytest.fixture
def events(flask, db, Order):
    with flask.app_context():
        engines = list(db.engines.values())
        connected = connect(db.engine, worker=False)
        db.create_all()
    with connected:
        yield connected
    for engine in engines:
        engine.dispose()


def test_events_of_a_request_come_with_its_commit(flask, db, events, Order, heard):
    @flask.post("/orders")
    def place():
        db.session.add(Order())
        db.session.flush()
        assert [] == heard
        db.session.commit()
        return "placed"

    flask.test_client().post("/orders")

    assert [("committed", "new")] == heard
    assert 1 == events.drain()["done"]
    assert [("committed", "new"), ("durable", "new")] == heard


def test_a_request_that_ends_without_a_commit_leaves_no_event(flask, db, events, Order, heard):
    @flask.post("/forgotten")
    def forgotten():
        db.session.add(Order())
        db.session.flush()
        return "placed"

    @flask.post("/aborted")
    def aborted():
        db.session.add(Order())
        db.session.flush()
        abort(409)

    for path in ("/forgotten", "/aborted"):
        flask.test_client().post(path)

    assert (0, []) == (events.drain()["done"], heard)


def test_a_veto_reaches_the_view(flask, db, events, Order):
    with flask.app_context():
        db.session.add(Order(status="bad"))
        with pytest.raises(Abort, match="no such status"):
            db.session.commit()
        db.session.rollback()
        assert [] == db.session.scalars(db.select(Order)).all()


def test_savepoints_and_old_values_are_exact(flask, db, events, Order, heard):
    with flask.app_context():
        order = Order()
        db.session.add(order)
        db.session.commit()
        order.status = "paid"
        with pytest.raises(ZeroDivisionError), db.session.begin_nested():
            db.session.add(Order(status="lost"))
            db.session.flush()
            1 / 0
        order.status = "sent"
        db.session.commit()
    events.drain()

    assert ("durable", "lost") not in heard
    assert ("new", "sent") in heard


def test_an_emit_belongs_to_the_session_of_its_record(flask, db, events, Order, heard):
    @event_handler("order.paid", name="receipt")
    def receipt(order, amount):
        heard.append(amount)

    with flask.app_context():
        order = Order()
        db.session.add(order)
        db.session.commit()
        for amount, end in ((1, db.session.rollback), (2, db.session.commit)):
            order.status = "paid"
            db.session.flush()
            emit("order.paid", order, amount=amount)
            end()
    events.drain()

    assert [2] == [told for told in heard if isinstance(told, int)]


def test_a_basemodel_shares_the_session_and_its_transaction(flask, db, events, Order, heard):
    class Payment(BaseModel):
        amount = IntegerField()

    @event_handler("payment.created", name="book")
    def book(payment):
        heard.append(payment.amount)

    events.ready()
    with flask.app_context():
        db.session.add_all([Order(), Payment(amount=1)])
        db.session.rollback()
        db.session.add_all([Order(), Payment(amount=2)])
        db.session.commit()
    assert 2 == events.drain()["done"]

    assert [2] == [told for told in heard if isinstance(told, int)]
    assert [2] == [payment.amount for payment in Payment.find()]


def test_each_thread_has_its_session_and_its_events(flask, db, events, Order, heard):
    def place():
        with flask.app_context():
            db.session.add(Order())
            db.session.commit()

    threads = [threading.Thread(target=place) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (8, 8) == (len(heard), events.drain()["done"])


def test_a_bind_that_is_not_connected_is_refused_before_anything_is_written(flask, db, events, Order):
    class Old(db.Model):
        __bind_key__ = "archive"
        id: Mapped[int] = mapped_column(primary_key=True)

        @post_commit
        def committed(self): ...

    @event_handler("old.created", name="hear")
    def hear(old): ...

    with flask.app_context():
        db.create_all("archive")
        db.session.add(Old())
        with pytest.raises(BindNotConnected, match=r"archive\.db"):
            db.session.commit()
        db.session.rollback()

        with connect(db.engines["archive"], name="archive", worker=False) as archive:
            db.session.add(Old())
            db.session.commit()
            assert 1 == archive.drain()["done"]
