"""Models that nobody attached, whose rows the database has rows of attached ones hang on."""

import pytest
from sqlalchemy import ForeignKey, delete, event, insert, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import attach, post_delete, pre_delete
from earnorm.errors import BulkRefused
from tests.flows.stories import log, pairs


class Models:
    """Nobody attached Owner; the database deletes, empties and renames what hangs on it."""

    def __init__(self, *, refusing=False):
        class Base(DeclarativeBase):
            pass

        class Owner(Base):
            __tablename__ = "owners"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]
            code: Mapped[str] = mapped_column(unique=True)

        class Pet(Base):
            __tablename__ = "pets"
            if refusing:
                __bulk__ = "refuse"
            id: Mapped[int] = mapped_column(primary_key=True)
            owner_id: Mapped[int] = mapped_column(ForeignKey("owners.id", ondelete="CASCADE"))
            vetoed: Mapped[bool] = mapped_column(default=False)

            @pre_delete
            def veto(self):
                if self.vetoed:
                    raise ValueError("this one stays")

            @post_delete
            def gone(self):
                seen.append(self.id)

        class Card(Base):
            __tablename__ = "cards"
            id: Mapped[int] = mapped_column(primary_key=True)
            code: Mapped[str | None] = mapped_column(ForeignKey("owners.code", onupdate="CASCADE", ondelete="SET NULL"))

        class Stranger(Base):
            __tablename__ = "strangers"
            id: Mapped[int] = mapped_column(primary_key=True)

        self.Base, self.Owner, self.Pet, self.Card, self.Stranger = Base, Owner, Pet, Card, Stranger
        seen = self.seen = []
        attach(Pet, log="all")
        attach(Card, log="all")


def made(db, models):
    models.Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add_all(models.Owner(id=n, name=f"owner {n}", code=f"c{n}") for n in (1, 2))
        session.flush()
        session.add_all([models.Pet(id=n, owner_id=n) for n in (1, 2)])
        session.add_all([models.Card(id=n, code=f"c{n}") for n in (1, 2)])
        session.commit()
    return models


@pytest.fixture
def models(db):
    return made(db, Models())


@pytest.fixture
def since(db, models):
    before = len(log(db))
    return lambda: [(told.name, told.key, pairs(told)) for told in log(db)[before:]]


def write(db, *statement):
    with db.session() as session:
        result = session.execute(*statement)
        rows = result.all() if statement[0]._returning else None
        session.commit()
    return rows


def test_what_a_delete_statement_takes_along_is_told(db, models, since):
    """The statement's own model has no hooks, so nobody looked what the database did to others."""
    write(db, delete(models.Owner).where(models.Owner.name == "owner 1"))

    assert [
        ("card.updated", "card:1", {"code": ("c1", None)}),
        ("pet.deleted", "pet:1", {}),
    ] == sorted(since())
    assert [1] == models.seen


def test_its_result_is_the_caller_s(db, models, since):
    statement = delete(models.Owner).where(models.Owner.id == 2).returning(models.Owner.name)

    assert [("owner 2",)] == write(db, statement)
    assert ["card.updated", "pet.deleted"] == sorted(name for name, *_ in since())


def test_hooks_of_what_it_takes_along_may_veto(db, models, since):
    write(db, update(models.Pet).where(models.Pet.id == 1).values(vetoed=True))

    with pytest.raises(ValueError, match="this one stays"):
        write(db, delete(models.Owner))

    with db.engine.connect() as connection:
        assert 2 == connection.scalar(text("SELECT count(*) FROM owners"))
    assert ["pet.updated"] == [name for name, *_ in since()]


def test_a_model_that_refuses_bulk_writes_refuses_it(db):
    models = made(db, Models(refusing=True))

    with pytest.raises(BulkRefused, match="cascaded by the database of Pet is refused"):
        write(db, delete(models.Owner))

    with db.engine.connect() as connection:
        assert 2 == connection.scalar(text("SELECT count(*) FROM owners"))


def test_who_follows_an_update_statement_is_told(db, models, since):
    write(db, update(models.Owner).where(models.Owner.id == 1).values(code="new"))

    assert [("card.updated", "card:1", {"code": ("c1", "new")})] == since()


def test_who_follows_updates_by_key_is_told(db, models, since):
    write(db, update(models.Owner), [{"id": 1, "code": "one"}, {"id": 2, "name": "two"}])

    assert [("card.updated", "card:1", {"code": ("c1", "one")})] == since()


@pytest.mark.parametrize("method", ["mappings", "objects"])
def test_who_follows_bulk_methods_is_told(db, models, since, method):
    with db.session() as session:
        if method == "mappings":
            session.bulk_update_mappings(models.Owner, [{"id": 2, "code": "two"}])
        else:
            owner = session.get(models.Owner, 2)
            owner.code = "two"
            session.bulk_save_objects([owner])
        session.commit()

    assert [("card.updated", "card:2", {"code": ("c2", "two")})] == since()


def test_an_upsert_that_others_would_follow_is_refused(db, kind, models, since):
    dialect = sqlite if kind == "sqlite" else postgresql
    statement = dialect.insert(models.Owner).values(id=1, name="one", code="new")

    with pytest.raises(BulkRefused, match="its DO UPDATE sets code"):
        write(db, statement.on_conflict_do_update(index_elements=["id"], set_={"code": "new"}))
    write(db, statement.on_conflict_do_update(index_elements=["id"], set_={"name": "other"}))

    assert [] == since()


def test_an_update_statement_of_its_key_is_refused_where_others_would_follow(db):
    class Base(DeclarativeBase):
        pass

    class Owner(Base):
        __tablename__ = "owners"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Pet(Base):
        __tablename__ = "pets"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[int] = mapped_column(ForeignKey("owners.id", onupdate="CASCADE"))

    attach(Pet, log="all")
    Base.metadata.create_all(db.engine)

    with pytest.raises(BulkRefused, match="it sets the primary key"):
        write(db, update(Owner).values(id=Owner.id + 1))


def test_a_statement_that_takes_nothing_along_is_left_alone(db, models, since):
    seen = []
    event.listen(db.engine, "before_cursor_execute", lambda *given: seen.append(given[2]))

    write(db, insert(models.Stranger), [{"id": 1}, {"id": 2}])
    write(db, update(models.Stranger).where(models.Stranger.id == 1).values(id=3))
    write(db, delete(models.Stranger))
    write(db, update(models.Owner).values(name="other"))

    written = [statement.split()[0] for statement in seen if "strangers" in statement or "owners" in statement]
    assert ["INSERT", "UPDATE", "DELETE", "UPDATE"] == written
    assert [] == since()


def test_joined_tables_of_an_unattached_model_take_along_what_hangs_on_each(db):
    class Base(DeclarativeBase):
        pass

    class Owner(Base):
        __tablename__ = "owners"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "owner"}

    class Company(Owner):
        __tablename__ = "companies"
        id: Mapped[int] = mapped_column(ForeignKey("owners.id"), primary_key=True)
        size: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "company"}

    class Desk(Base):
        __tablename__ = "desks"
        id: Mapped[int] = mapped_column(primary_key=True)
        company_id: Mapped[int] = mapped_column(ForeignKey("companies.id", ondelete="CASCADE"))

    attach(Desk, log="all")
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add_all([Company(id=1, size=3), Company(id=2, size=4)])
        session.flush()
        session.add_all([Desk(id=1, company_id=1), Desk(id=2, company_id=2)])
        session.commit()

    write(db, delete(Company).where(Company.size == 3))

    assert ["desk:1"] == [told.key for told in log(db) if told.name == "desk.deleted"]


# --- a hierarchy of which one class is attached ---


@pytest.fixture(params=["one table", "joined"])
def staff(db, request):
    class Base(DeclarativeBase):
        pass

    class Employee(Base):
        __tablename__ = "employees"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        level: Mapped[int] = mapped_column(default=0)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}

    class Manager(Employee):
        if request.param == "joined":
            __tablename__ = "managers"
            id: Mapped[int] = mapped_column(ForeignKey("employees.id", ondelete="CASCADE"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "manager"}

    class Desk(Base):
        __tablename__ = "desks"
        id: Mapped[int] = mapped_column(primary_key=True)
        employee_id: Mapped[int] = mapped_column(ForeignKey("employees.id", ondelete="CASCADE"))

    attach(Manager, log="all")
    attach(Desk, log="all")
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add_all([Employee(id=1), Manager(id=2)])
        session.flush()
        session.add_all([Desk(id=1, employee_id=1), Desk(id=2, employee_id=2)])
        session.commit()
    return Employee, Manager


def rows(db):
    with db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT id, level FROM employees ORDER BY id"))]


def test_an_update_of_its_base_writes_all_rows_and_tells_of_those_that_are_known(db, staff):
    """On PostgreSQL it wrote the rows alone whose class was attached."""
    Employee, _ = staff

    write(db, update(Employee).values(level=Employee.level + 1))

    assert [(1, 1), (2, 1)] == rows(db)
    assert [("manager:2", {"level": (0, 1)})] == [(e.key, pairs(e)) for e in log(db) if e.name == "manager.updated"]


def test_a_delete_of_its_base_deletes_all_rows_and_tells_of_what_goes_with_each(db, staff):
    """On PostgreSQL it deleted the rows alone whose class was attached; on SQLite desk 1 went in silence."""
    Employee, _ = staff

    write(db, delete(Employee))

    assert [] == rows(db)
    gone = [told.key for told in log(db) if told.name.endswith(".deleted")]
    assert {"manager:2", "desk:1", "desk:2"} == set(gone)
    assert 3 == len(gone)


def test_a_delete_of_its_base_with_returning_gives_all_rows(db, staff):
    Employee, _ = staff

    assert [(1,), (2,)] == sorted(write(db, delete(Employee).returning(Employee.id)))
    assert [] == rows(db)


def test_updates_of_its_base_by_key_tell_of_those_that_are_known(db, staff):
    Employee, _ = staff

    with db.session() as session:
        session.bulk_update_mappings(Employee, [{"id": 1, "level": 7}, {"id": 2, "level": 7}])
        session.commit()
    write(db, update(Employee), [{"id": 1, "level": 8}, {"id": 2, "level": 8}])

    assert [(1, 8), (2, 8)] == rows(db)
    assert [("manager:2", {"level": (0, 7)}), ("manager:2", {"level": (7, 8)})] == [
        (e.key, pairs(e)) for e in log(db) if e.name == "manager.updated"
    ]
