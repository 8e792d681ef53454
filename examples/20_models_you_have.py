"""Models you have: hooks and events on plain SQLAlchemy models, a tenant's name on each event, a trash of your own."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from earnorm import Event, attach, connect, current_tenant, event_handler, on_event, post_trash, pre_save, tenant


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    state: Mapped[str] = mapped_column(default="open")
    archived: Mapped[bool] = mapped_column(default=False)

    @pre_save
    def tidy(self) -> None:
        self.title = self.title.strip().capitalize()

    @on_event("state_changed")
    def note(self, old_state: str, new_state: str) -> None:
        print(f"inside the transaction: {self.title!r} {old_state} -> {new_state}")

    @post_trash
    def away(self) -> None:
        print(f"inside the transaction: {self.title!r} is archived")


class Audit(Base):
    """Nobody hears of it, so that nothing of it is kept and saving it costs what it did before."""

    __tablename__ = "audits"

    id: Mapped[int] = mapped_column(primary_key=True)


attach(Base, trash="archived")


@event_handler("ticket.created")
def greet(ticket: Ticket) -> None:
    print(f"after the commit, for {current_tenant()}: {ticket.title!r}")


@event_handler("ticket.trashed")
def clean_up(ticket: Ticket, event: Event) -> None:
    print(f"after the commit, for {event.tenant}: {event}")


def main() -> None:
    with connect("sqlite://", worker=False) as db:
        Base.metadata.create_all(db.engine)
        with tenant("acme"), db.session() as session:
            session.add_all([ticket := Ticket(title="  the printer burns "), Audit()])
            session.commit()
            db.drain()
            ticket.state = "done"
            session.commit()
            ticket.archived = True
            session.commit()
        db.drain()
        with db.store.begin(readonly=True) as transaction:
            print("kept are", *(entry.name for entry in transaction.read(0, transaction.horizon(), 100)))


if __name__ == "__main__":
    main()

# Prints:
#
# after the commit, for acme: 'The printer burns'
# inside the transaction: 'The printer burns' open -> done
# inside the transaction: 'The printer burns' is archived
# after the commit, for acme: ticket.trashed
# kept are ticket.created ticket.trashed
