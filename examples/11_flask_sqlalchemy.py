"""Flask-SQLAlchemy: hooks and events on `db.Model`, through the session the application has had all along."""

from flask import Flask, abort
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from earnorm import Database, attach, connect, event_handler, post_commit, pre_save


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
# Not the base above: Flask-SQLAlchemy makes one of its own from it. It holds for models to come as well.
attach(db.Model)
mails: list[str] = []


class Order(db.Model):  # type: ignore[name-defined, misc]  # Flask-SQLAlchemy makes the class when it runs
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[int]

    @pre_save
    def round_up(self) -> None:
        self.total = max(self.total, 1)

    @post_commit
    def tell(self) -> None:
        print(f"  committed: {self.customer} for {self.total}")


@event_handler("order.created")
def confirm(order: Order) -> None:
    mails.append(f"to {order.customer}")


def create_app(url: str) -> tuple[Flask, Database]:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    with app.app_context():
        # The engine that the session uses, so that events stand in its transactions.
        events = connect(db.engine)
        db.create_all()

    @app.post("/orders/<customer>/<int:total>")
    def place(customer: str, total: int) -> str:
        db.session.add(Order(customer=customer, total=total))
        db.session.flush()
        if total > 1_000:
            # The session is rolled back when the request ends.
            abort(409)
        db.session.commit()
        return "placed"

    return app, events


def main(url: str) -> None:
    app, events = create_app(url)
    client = app.test_client()
    with events:
        for customer, total in (("Ada", 0), ("Bob", 4_000)):
            print(f"{customer} orders for {total}")
            print(f"  {client.post(f'/orders/{customer}/{total}').status_code}")
        events.drain()
    print(f"mails {', '.join(mails)}")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        main(f"sqlite:///{folder}/shop.db")

# Prints:
#
# Ada orders for 0
#   committed: Ada for 1
#   200
# Bob orders for 4000
#   409
# mails to Ada
