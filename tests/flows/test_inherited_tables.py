"""Inheritance of plain models, in one table, joined tables and tables each; keys of several columns; schemas."""

import uuid
from datetime import date

import pytest
from sqlalchemy import ForeignKey, ForeignKeyConstraint, String, delete, select, update
from sqlalchemy.ext.declarative import AbstractConcreteBase, ConcreteBase, DeferredReflection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column, relationship

from earnorm import (
    BaseModel,
    DateField,
    ForeignKeyField,
    IntegerField,
    StringField,
    attach,
    connect,
    emit,
    event_handler,
    on_event,
    post_save,
    pre_save,
)
from tests.flows.stories import log, names, pairs

SEEN: list[object] = []


@pytest.fixture(autouse=True)
def seen():
    SEEN.clear()
    yield SEEN
    SEEN.clear()


class Stamped:
    """A mixin with a column and a hook."""

    label: Mapped[str] = mapped_column(default="")

    @pre_save
    def stamp(self):
        self.label = f"{type(self).__name__} {self.name}"


def bases():
    class Base(DeclarativeBase):
        pass

    attach(Base, log="all")
    return Base


def single_table():
    Base = bases()

    class Animal(Stamped, Base):
        __tablename__ = "animals"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

        @post_save
        def base_hook(self, event):
            SEEN.append(("base", event.name))

        @on_event("name_changed")
        def renamed(self, old_name, new_name):
            SEEN.append((old_name, new_name))

    class Dog(Animal):
        tricks: Mapped[str | None]
        __mapper_args__ = {"polymorphic_identity": "dog"}

        @post_save
        def dog_hook(self, event):
            SEEN.append(("dog", event.name))

    return Base, Animal, Dog


def joined_tables():
    Base = bases()

    class Animal(Stamped, Base):
        __tablename__ = "animals"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

        @post_save
        def base_hook(self, event):
            SEEN.append(("base", event.name))

        @on_event("name_changed")
        def renamed(self, old_name, new_name):
            SEEN.append((old_name, new_name))

    class Dog(Animal):
        __tablename__ = "dogs"
        id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
        tricks: Mapped[str | None]
        __mapper_args__ = {"polymorphic_identity": "dog"}

        @post_save
        def dog_hook(self, event):
            SEEN.append(("dog", event.name))

    return Base, Animal, Dog


def concrete_tables():
    Base = bases()

    class Animal(Stamped, Base):
        __tablename__ = "animals"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

        @post_save
        def base_hook(self, event):
            SEEN.append(("base", event.name))

        @on_event("name_changed")
        def renamed(self, old_name, new_name):
            SEEN.append((old_name, new_name))

    class Dog(Animal):
        __tablename__ = "dogs"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        label: Mapped[str] = mapped_column(default="")
        tricks: Mapped[str | None]
        __mapper_args__ = {"concrete": True}

        @post_save
        def dog_hook(self, event):
            SEEN.append(("dog", event.name))

    return Base, Animal, Dog


def abstract_base():
    Base = bases()

    class Animal(Stamped, Base):
        __abstract__ = True
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

        @post_save
        def base_hook(self, event):
            SEEN.append(("base", event.name))

        @on_event("name_changed")
        def renamed(self, old_name, new_name):
            SEEN.append((old_name, new_name))

    class Dog(Animal):
        __tablename__ = "dogs"
        tricks: Mapped[str | None]

        @post_save
        def dog_hook(self, event):
            SEEN.append(("dog", event.name))

    return Base, Animal, Dog


SHAPES = [single_table, joined_tables, concrete_tables, abstract_base]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_subclass_has_the_hooks_of_its_base_and_events_of_its_own_name(db, seen, shape):
    Base, Animal, Dog = shape()
    Base.metadata.create_all(db.engine)
    heard = []
    event_handler(Animal, name="animals")(lambda record, event: heard.append((event.name, type(record).__name__)))
    event_handler("animal.*", name="only animals")(lambda record, event: heard.append("only animals"))

    with Session(db.engine) as session:
        session.add(dog := Dog(name="Rex", tricks="sit"))
        session.commit()
        assert "Dog Rex" == dog.label
        dog.name = "Max"
        session.commit()
    db.drain()

    assert [
        ("base", "dog.created"),
        ("dog", "dog.created"),
        ("base", "dog.updated"),
        ("Rex", "Max"),
        ("dog", "dog.updated"),
    ] == seen
    assert [("dog.created", "Dog"), ("dog.updated", "Dog")] == heard
    assert {"name": ("Rex", "Max"), "label": ("Dog Rex", "Dog Max")} == pairs(log(db)[1])


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_handler_gets_the_record_of_the_class_where_another_table_has_the_same_key(db, count, transactional):
    """It got the engineer of that number: what SQLAlchemy loads by a key from the union of tables may be either."""

    class Base(DeclarativeBase):
        pass

    class Employee(ConcreteBase, Base):
        __tablename__ = "employees"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "employee", "concrete": True}

    class Engineer(Employee):
        __tablename__ = "engineers"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "engineer", "concrete": True}

    attach(Base)
    configure_mappers()
    Base.metadata.create_all(db.engine)
    heard = []

    @event_handler(["employee.created", "engineer.created"], name="hear", transactional=transactional)
    def hear(employee, event):
        heard.append((event.key, employee.name))

    numbers = range(1, count + 1)
    with Session(db.engine) as session:
        session.add_all([Employee(id=n, name=f"employee {n}") for n in numbers])
        session.add_all([Engineer(id=n, name=f"engineer {n}") for n in numbers])
        session.commit()
    db.drain()

    assert 2 * count == len(heard)
    assert all(key.replace(":", " ") == name for key, name in heard)


class Staff:
    """Concrete tables whose rows may have the same keys, and hang on a company."""

    def __init__(self, db):
        class Base(DeclarativeBase):
            pass

        class Company(Base):
            __tablename__ = "companies"
            id: Mapped[int] = mapped_column(primary_key=True)
            code: Mapped[str] = mapped_column(unique=True)

        class Employee(Base):
            __tablename__ = "employees"
            id: Mapped[int] = mapped_column(primary_key=True)
            code: Mapped[str] = mapped_column(ForeignKey("companies.code", ondelete="CASCADE", onupdate="CASCADE"))

        class Engineer(Employee):
            __tablename__ = "engineers"
            id: Mapped[int] = mapped_column(primary_key=True)
            code: Mapped[str] = mapped_column(ForeignKey("companies.code", ondelete="CASCADE", onupdate="CASCADE"))
            __mapper_args__ = {"concrete": True}

        attach(Base, log="all")
        Base.metadata.create_all(db.engine)
        self.Company, self.Employee, self.Engineer = Company, Employee, Engineer
        with Session(db.engine) as session:
            session.add(Company(id=1, code="a"))
            session.flush()
            session.add_all([Employee(id=1, code="a"), Engineer(id=1, code="a")])
            session.commit()


@pytest.mark.parametrize("by", ["statement", "flush"])
def test_what_the_database_takes_along_is_told_of_each_table_that_has_the_key(db, by):
    """Of rows with one key in several tables one was told."""
    staff = Staff(db)

    with Session(db.engine) as session:
        session.execute(delete(staff.Company)) if by == "statement" else session.delete(session.get(staff.Company, 1))
        session.commit()

    assert {"company:1", "employee:1", "engineer:1"} == {e.key for e in log(db) if e.name.endswith(".deleted")}


@pytest.mark.parametrize("by", ["statement", "flush"])
def test_who_follows_is_told_of_each_table_that_has_the_key(db, by):
    staff = Staff(db)

    with Session(db.engine) as session:
        if by == "statement":
            session.execute(update(staff.Company).values(code="b"))
        else:
            session.get(staff.Company, 1).code = "b"
        session.commit()

    told = {e.key: pairs(e) for e in log(db) if e.name.endswith(".updated")}
    assert {key: {"code": ("a", "b")} for key in ("company:1", "employee:1", "engineer:1")} == told


def test_records_of_one_key_in_several_tables_are_deleted_by_one_flush(db):
    staff = Staff(db)

    with Session(db.engine) as session:
        for cls in (staff.Employee, staff.Engineer):
            session.delete(session.get(cls, 1))
        session.commit()

    assert ["employee:1", "engineer:1"] == sorted(e.key for e in log(db) if e.name.endswith(".deleted"))


def test_the_table_that_is_captured_is_the_class_s_own(db):
    """It was that of the base."""
    staff = Staff(db)

    assert ["engineers"] == db.captures.install(staff.Engineer)
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM engineers")
        connection.exec_driver_sql("DELETE FROM employees")
    db.drain()

    assert ["engineer:1"] == [e.key for e in log(db) if e.name.endswith(".deleted")]
    assert [] == list(db.audit(staff.Engineer))


@pytest.mark.parametrize("put_off", [AbstractConcreteBase, DeferredReflection])
def test_a_base_is_attached_before_the_classes_are_mapped_whose_mapping_is_put_off(db, put_off):
    """It raised UnmappedClassError, unless `configure_mappers` or `prepare` came first."""

    class Base(DeclarativeBase):
        pass

    if put_off is DeferredReflection:

        class Pet(DeferredReflection, Base):
            __tablename__ = "pets"
    else:

        class Animal(AbstractConcreteBase, Base):
            strict_attrs = True

        class Pet(Animal):
            __tablename__ = "pets"
            id: Mapped[int] = mapped_column(primary_key=True)
            __mapper_args__ = {"polymorphic_identity": "pet", "concrete": True}

    attach(Base, log="all")
    with db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    configure_mappers() if put_off is AbstractConcreteBase else DeferredReflection.prepare(db.engine)
    with Session(db.engine) as session:
        session.add(Pet(id=1))
        session.commit()

    assert ["pet.created"] == [event.name for event in log(db)]


@pytest.mark.parametrize("shape", SHAPES)
def test_old_values_are_found_for_a_record_that_had_expired(db, seen, shape):
    """Set without having been loaded: the old values come from whichever table holds them."""
    Base, _, Dog = shape()
    Base.metadata.create_all(db.engine)

    with Session(db.engine) as session:
        session.add_all([dog := Dog(name="Rex", tricks="sit"), Dog(name="Other", tricks="none")])
        session.commit()  # expires them
        dog.name, dog.tricks = "Max", "roll"
        session.commit()

    assert {"name": ("Rex", "Max"), "tricks": ("sit", "roll"), "label": ("Dog Rex", "Dog Max")} == pairs(log(db)[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_deleted_record_of_a_subclass_comes_as_a_snapshot_with_all_its_values(db, shape):
    Base, _, Dog = shape()
    Base.metadata.create_all(db.engine)
    found = []
    event_handler("dog.deleted", name="gone")(lambda dog: found.append((dog.id, dog.name, dog.label, dog.tricks)))

    with Session(db.engine) as session:
        session.add(dog := Dog(name="Rex", tricks="sit"))
        session.commit()
        dog_id = dog.id
        session.delete(dog)
        session.commit()
    db.drain()

    # What was expired and never loaded again is not in the log; what identifies the record always is.
    assert dog_id == found[0][0]


def test_joined_tables_of_our_own_models(db):
    class Animal(BaseModel):
        name = StringField()

    class Dog(Animal):
        __tablename__ = "dogs"
        id = mapped_column(ForeignKey("animals.id"), primary_key=True)
        tricks = StringField(required=False)

    found = []
    event_handler(Animal, name="all")(lambda record, event: found.append((event.name, record.name, record.tricks)))
    dog = Dog(name="Rex", tricks="sit").save()
    db.drain()
    dog.tricks = "roll"
    dog.save()
    db.drain()

    assert [("dog.created", "Rex", "sit"), ("dog.updated", "Rex", "roll")] == found
    assert {"tricks": ("sit", "roll")} == pairs(log(db)[-1])
    assert ["Rex"] == [animal.name for animal in Animal.find()]


JOINS = {
    "a field": lambda: ForeignKeyField("Animal", primary_key=True),
    "a column": lambda: mapped_column(ForeignKey("animals.id"), primary_key=True),
}


@pytest.mark.parametrize("key", JOINS.values(), ids=JOINS)
def test_a_record_of_a_joined_table_has_its_key_from_the_start(db, key):
    """With a field it was refused for want of one, with a column it had none until the INSERT."""

    class Animal(BaseModel):
        name = StringField()

    class Dog(Animal):
        __tablename__ = "dogs"
        id = key()

    dog = Dog(name="Rex")
    assert isinstance(dog.id, uuid.UUID)

    dog.save()

    assert [f"dog:{dog.id}"] == [event.key for event in log(db)]
    assert dog.id == Dog.get(dog.id).id


# --- keys of several columns ----------------------------------------------------------------


def test_a_key_of_several_columns_goes_all_the_way(db):
    class Line(BaseModel):
        order_id = IntegerField(primary_key=True)
        day = DateField(primary_key=True)
        sku = StringField(primary_key=True)
        qty = IntegerField()

    found = []
    event_handler("line.*", name="all")(lambda line, event: found.append((event.name, event.key, line.sku, line.qty)))
    day = date(2026, 1, 2)
    line = Line(order_id=7, day=day, sku="a/b", qty=1).save()
    db.drain()
    assert 1 == Line.get((7, day, "a/b")).qty
    line.qty = 2
    line.save()
    line.emit("counted")
    db.drain()
    line.delete()
    db.drain()

    key = "line:7/2026-01-02/a%2Fb"
    assert [
        ("line.created", key, "a/b", 1),
        ("line.updated", key, "a/b", 2),
        ("line.counted", key, "a/b", 2),
        ("line.deleted", key, "a/b", 2),
    ] == found


def test_a_key_of_several_columns_of_a_plain_model(db):
    Base = bases()

    class Order(Base):
        __tablename__ = "orders"
        tenant: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        lines: Mapped[list["Line"]] = relationship(back_populates="order", cascade="all, delete-orphan")

    class Line(Base):
        __tablename__ = "lines"
        __table_args__ = (ForeignKeyConstraint(["tenant", "number"], ["orders.tenant", "orders.number"]),)
        tenant: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        place: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(String)
        order: Mapped[Order] = relationship(back_populates="lines")

    Base.metadata.create_all(db.engine)
    found = []
    event_handler(Line, name="lines")(lambda line, event: found.append((event.name, line.place, line.text)))
    tenant = uuid.UUID(int=5)

    with Session(db.engine) as session:
        order = Order(tenant=tenant, number=1, lines=[Line(place=1, text="one")])
        session.add(order)
        session.commit()
        db.drain()
        order.lines[0].text = "uno"
        session.commit()
        db.drain()
        order.lines.clear()
        session.commit()
        db.drain()

    assert [("line.created", 1, "one"), ("line.updated", 1, "uno"), ("line.deleted", 1, "uno")] == found
    assert f"line:{tenant}/1/1" == log(db)[-1].key


# --- schemas --------------------------------------------------------------------------------


@pytest.fixture
def warehouse(db, add_schema):
    """A second schema beside the default one."""
    return add_schema(db, "warehouse")


def test_a_model_in_a_schema(db, warehouse):
    class Item(BaseModel):
        __table_args__ = {"schema": warehouse}
        name = StringField()

    found = []
    event_handler("item.*", name="items")(lambda item, event: found.append((event.name, item.name)))
    item = Item(name="nail").save()
    db.drain()
    item.name = "screw"
    item.save()
    db.drain()

    assert [("item.created", "nail"), ("item.updated", "screw")] == found
    assert ["screw"] == [item.name for item in Item.find()]


def test_a_check_looks_for_tables_in_their_schemas(db, warehouse):
    class Item(BaseModel):
        __table_args__ = {"schema": warehouse}
        name = StringField()

    Item(name="nail").save()
    engine = db.engine
    db.close()
    with connect(engine, worker=False, tables="check"):
        assert ["nail"] == [item.name for item in Item.find()]


def test_a_translated_schema_is_written_and_told(db, warehouse):
    """An engine with options is another engine to SQLAlchemy, and the same database to us: each event is told once."""
    Base = bases()

    class Item(Base):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    translated = db.engine.execution_options(schema_translate_map={None: warehouse})
    Base.metadata.create_all(translated)
    with Session(translated, expire_on_commit=False) as session:
        session.add(item := Item(name="nail"))
        session.commit()
        item.name = "screw"
        session.commit()
        emit("item.counted", item)
        session.commit()

        assert ["screw"] == list(session.scalars(select(Item.name)))
    assert ["item.created", "item.updated", "item.counted"] == names(db)
