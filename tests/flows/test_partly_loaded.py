"""Records of joined tables that nobody has loaded whole, and rows that are found by more than one way."""

import pytest
from sqlalchemy import ForeignKey, String, delete, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import attach, post_delete, post_update, pre_delete
from tests.flows.stories import log, names, pairs

SEEN: list[tuple[object, ...]] = []


class Models:
    def __init__(self):
        class Base(DeclarativeBase):
            pass

        class Document(Base):
            __tablename__ = "documents"
            id: Mapped[int] = mapped_column(primary_key=True)
            # Its column has another name, of which SQLAlchemy's bulk methods know nothing.
            kind: Mapped[str] = mapped_column("document_type", String)
            title: Mapped[str] = mapped_column(default="")
            body: Mapped[str | None] = mapped_column(deferred=True)
            within: Mapped[int | None] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}

            @pre_delete
            def before(self):
                SEEN.append(("before", self.id))

            @post_delete
            def after(self):
                SEEN.append(("after", self.id))

        class Report(Document):
            __tablename__ = "reports"
            id: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
            pages: Mapped[int] = mapped_column(default=1)
            __mapper_args__ = {"polymorphic_identity": "report"}

        class Comparison(Base):
            __tablename__ = "comparisons"
            id: Mapped[int] = mapped_column(primary_key=True)
            one: Mapped[int | None] = mapped_column(ForeignKey("documents.id", ondelete="SET NULL"))
            other: Mapped[int | None] = mapped_column(ForeignKey("documents.id", ondelete="SET NULL"))

            @post_update
            def changed(self):
                SEEN.append(("changed", self.id))

        attach(Base, log="all")
        self.Base, self.Document, self.Report, self.Comparison = Base, Document, Report, Comparison


@pytest.fixture
def models(db):
    SEEN.clear()
    models = Models()
    models.Base.metadata.create_all(db.engine)
    yield models
    SEEN.clear()


@pytest.fixture
def report(db, models):
    with Session(db.engine) as session:
        session.add(models.Report(id=1, title="one", body="long", pages=4))
        session.commit()


def test_created_and_changed_holds_what_was_not_loaded_for_the_change(db, models):
    """It had what the change had loaded, and so lacked what the record was created with."""
    with Session(db.engine) as session:
        session.bulk_save_objects([models.Report(id=1, title="one", body="long", pages=4)])
        for document in session.scalars(select(models.Document)):
            document.title = "two"
        session.commit()

    (event,) = log(db)
    assert ("report.created", "two", "long", 4) == (
        event.name,
        *(event.payload[name] for name in ("title", "body", "pages")),
    )


@pytest.mark.parametrize("how", ["delete()", "statement", "cascade"])
def test_a_deletion_holds_what_nobody_had_loaded(db, models, how):
    with Session(db.engine) as session:
        session.add(models.Document(id=1))
        session.flush()
        session.add(models.Report(id=2, within=1, title="one", body="long", pages=4))
        session.commit()
        session.expunge_all()
        match how:
            case "delete()":
                session.delete(session.scalars(select(models.Document).where(models.Document.id == 2)).one())
            case "statement":
                session.execute(delete(models.Report).where(models.Report.id == 2))
            case _:
                session.delete(session.get(models.Document, 1))
        session.commit()

    (event,) = (event for event in log(db) if event.name == "report.deleted")
    assert {"id": 2, "title": "one", "body": "long", "within": 1, "pages": 4} == dict(event.payload)


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("how", ["statement", "cascade"])
def test_what_is_left_in_the_base_table_of_a_deleted_row_is_not_told_again(db, models, how):
    """`delete(Report)` deletes the rows of its own table; those of the base were told as a report without values."""
    with Session(db.engine) as session:
        session.add(models.Document(id=7))
        session.flush()
        session.execute(update(models.Document).where(models.Document.id == 1).values(within=7))
        session.execute(delete(models.Report).where(models.Report.id == 1))
        session.commit()
        if how == "statement":
            session.execute(delete(models.Document).where(models.Document.id == 1))
        else:
            session.delete(session.get(models.Document, 7))
        session.commit()
        assert [] == session.execute(text("SELECT id FROM documents WHERE id = 1")).all()

    (event,) = (event for event in log(db) if event.name == "report.deleted")
    assert ("one", "long", 4) == tuple(event.payload[name] for name in ("title", "body", "pages"))
    assert 1 == SEEN.count(("before", 1))


@pytest.mark.usefixtures("report")
def test_deleted_and_made_again_is_compared_with_what_nobody_had_loaded(db, models):
    with Session(db.engine) as session:
        session.delete(session.scalars(select(models.Document)).one())
        session.flush()
        session.add(models.Report(id=1, title="one", body="long", pages=5))
        session.commit()

    assert {"pages": (4, 5)} == pairs(log(db)[-1])


@pytest.mark.parametrize("how", ["delete()", "statement"])
def test_a_row_that_a_cascade_reaches_by_two_ways_goes_once(db, models, how):
    """A row of joined tables is found by the keys of both; its hooks ran twice, and made and gone it was told."""
    with Session(db.engine) as session:
        session.add(models.Document(id=1))
        session.flush()
        session.add(models.Comparison(id=1, one=1, other=1))
        session.commit()
        session.add(models.Report(id=2, within=1))
        session.flush()
        if how == "statement":
            session.execute(delete(models.Document).where(models.Document.id == 1))
        else:
            session.delete(session.get(models.Document, 1))
        session.commit()

    assert ["document.created", "comparison.created"] == names(db)[:2]
    assert ["comparison.updated", "document.deleted"] == sorted(names(db)[2:])
    hooks = [("after", 1), ("after", 2), ("before", 1), ("before", 2), ("changed", 1)]
    assert hooks == sorted(SEEN)


def test_objects_saved_in_bulk_keep_a_discriminator_whose_column_has_another_name(db, models):
    with Session(db.engine) as session:
        session.bulk_save_objects([models.Document(id=1), models.Report(id=2, pages=3)])
        session.commit()

        assert ["document", "report"] == list(
            session.scalars(select(models.Document.kind).order_by(models.Document.id))
        )
    assert ["document.created", "report.created"] == names(db)


def test_a_creation_holds_the_columns_that_nobody_has_set(db, models):
    """It lacked them, and so an audit overlooked what was written there behind its back."""
    with Session(db.engine) as session:
        session.add(models.Document(id=1, title="one"))
        session.commit()
        assert {"id": 1, "title": "one", "body": None, "within": None} == dict(log(db)[0].payload)
        assert [] == list(db.audit(models.Document))

        session.execute(text("UPDATE documents SET body = 'secretly'"))
        session.commit()

    (drift,) = db.audit(models.Document)
    assert {"body": (None, "secretly")} == drift.fields
