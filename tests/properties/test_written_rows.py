"""Whatever is written, by whichever way and in any order, the log's events folded are the rows of the tables."""

import random

import pytest
from sqlalchemy import Computed, ForeignKey, delete, insert, inspect, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import attach, connect
from earnorm.envelope import event_of

STORIES, TRANSACTIONS, WRITES = 8, 12, 6


class Base(DeclarativeBase):
    pass


class Document(Base):
    """Joined tables, with rows that the database deletes by itself."""

    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column()
    title: Mapped[str | None] = mapped_column("heading", server_default="untitled")
    size: Mapped[int] = mapped_column(default=0)
    within: Mapped[int | None] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}


class Report(Document):
    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    pages: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_identity": "report"}


class Memo(Document):
    to: Mapped[str | None] = mapped_column()
    __mapper_args__ = {"polymorphic_identity": "memo"}


class Line(Base):
    """A composite key, and columns that the database works out."""

    __tablename__ = "lines"
    document: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="", onupdate=lambda: "changed")
    pieces: Mapped[int] = mapped_column(server_default="1")
    twice: Mapped[int] = mapped_column(Computed("pieces * 2"))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[int | None] = mapped_column(ForeignKey("documents.id", ondelete="SET NULL"))
    body: Mapped[str] = mapped_column(default="")


MODELS = (Document, Report, Memo, Line, Note)


class Writer:
    """Writes something, by one of many ways."""

    def __init__(self, chance, session):
        self.chance, self.session = chance, session
        found = list(session.scalars(select(Document.__table__.c.id)))
        self.one = chance.choice(found) if found else 0
        self.some = found[: chance.randrange(5)]
        self.number = chance.randrange(6)

    def write(self):
        ways = [name for name in vars(Writer) if name.startswith("by_")]
        getattr(self, self.chance.choice(ways))()

    def by_add(self):
        kind = self.chance.choice([Document, Report, Memo])
        self.session.add(kind(title=self.chance.choice([None, "new"]), within=self.one or None))
        self.session.add(Note(document=self.one or None, body="b"))

    def by_merge(self):
        if self.one:
            self.session.merge(Line(document=self.one, place=self.number % 3, text=f"merged {self.number}"))

    def by_change(self):
        for document in self.session.scalars(select(Document)):
            document.size = self.chance.choice([document.size, Document.size + 1, self.number])
        for line in self.session.scalars(select(Line).where(Line.place == self.number)):
            line.pieces += 1

    def by_delete(self):
        if (document := self.session.get(Document, self.one)) is not None:
            self.session.delete(document)
            self.session.flush()

    def by_dictionaries(self):
        kind = self.chance.choice([Document, Report, Memo])
        self.session.execute(insert(kind), [{"title": f"{n}"} for n in range(self.number + 1)])

    def by_returning(self):
        rows = [{"pages": n} for n in range(self.number + 1)]
        self.session.scalars(insert(Report).returning(Report), rows).all()

    def by_objects(self):
        self.session.bulk_save_objects([Report(title="saved", pages=3), Memo(to="you"), Note(body="n")])

    def by_statement(self):
        self.session.execute(update(Document).where(Document.size < self.number).values(size=Document.size + 1))
        self.session.execute(update(Line).where(Line.place == self.number).values(pieces=self.number))
        self.session.execute(update(Report).where(Report.id <= self.one).values(pages=Report.pages + 1))

    def by_primary_key(self):
        if self.some:
            self.session.execute(update(Document), [{"id": key, "size": self.number} for key in self.some])

    def by_upsert(self):
        if self.one:
            rows = [{"document": self.one, "place": place, "pieces": self.number} for place in range(3)]
            self.session.execute(
                sqlite.insert(Line)
                .values(rows)
                .on_conflict_do_update(index_elements=["document", "place"], set_={"pieces": 7})
            )

    def by_deletion(self):
        self.session.execute(delete(Document).where(Document.id == self.one))
        self.session.execute(delete(Line).where(Line.place == self.number))


def tell(db, chance):
    """One transaction, with savepoints; it, or they, may be rolled back."""
    with Session(db.engine, expire_on_commit=chance.random() < 0.5) as session:
        try:
            for _ in range(chance.randrange(1, WRITES)):
                if chance.random() < 0.7:
                    Writer(chance, session).write()
                    continue
                with session.begin_nested() as inside:
                    Writer(chance, session).write()
                    if chance.random() < 0.5:
                        inside.rollback()
            if chance.random() < 0.85:
                session.commit()
        except IntegrityError:
            session.rollback()


def fold(events):
    rows = {}
    for event in events:
        kind, what = event.name.split(".")
        key = (kind, event.key)
        match what:
            case "created":
                assert key not in rows
                rows[key] = dict(event.payload)
            case "updated":
                old = {field: change.old for field, change in event.changes.items()}
                assert old.items() <= rows[key].items()
                rows[key] |= {field: change.new for field, change in event.changes.items()}
                # What nobody had loaded is left out.
                assert event.payload.items() <= rows[key].items()
            case _:
                del rows[key]
    return rows


def found(db):
    rows = {}
    with Session(db.engine) as session:
        for model in (Document, Line, Note):
            for record in session.scalars(select(model)):
                kind = type(record).__name__.lower()
                state = inspect(record)
                key = f"{kind}:{'/'.join(map(str, state.identity))}"
                names = [column.key for column in state.mapper.column_attrs if column.key != "kind"]
                rows[kind, key] = {name: getattr(record, name) for name in names}
    return rows


@pytest.fixture
def db(tmp_path):
    attach(Base, log="all")
    with connect(f"sqlite:///{tmp_path}/rows.db?synchronous=OFF", worker=False) as db:
        Base.metadata.create_all(db.engine)
        yield db


def test_the_log_folded_is_what_the_tables_hold(db):
    for number in range(STORIES):
        chance = random.Random(number)
        for turn in range(TRANSACTIONS):
            tell(db, chance)
            with db.store.begin(readonly=True) as transaction:
                events = [event_of(entry) for entry in transaction.read(0, transaction.horizon(), 100_000)]
            assert found(db) == fold(events), f"story {number}, transaction {turn}"
        with db.engine.begin() as connection:
            for table in (*reversed(Base.metadata.sorted_tables), "earnorm_log"):
                connection.execute(text(f"DELETE FROM {table}"))
