"""Models that do not derive from BaseModel: the same hooks and events, whoever maps them."""

import asyncio

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    declarative_base,
    mapped_column,
    registry,
    relationship,
    scoped_session,
    sessionmaker,
)

import earnorm
from earnorm import (
    BaseModel,
    StringField,
    attach,
    emit,
    event_handler,
    on_event,
    post_create,
    post_save,
    pre_delete,
    pre_save,
)
from earnorm.errors import (
    AttachedOtherwise,
    AutocommitRefused,
    BindNotConnected,
    ConfigurationError,
    DeletedSubject,
    InvalidField,
    NoPrimaryKey,
    NotAttachable,
    ReadOnlySnapshot,
    SensitiveArgument,
    SubjectTaken,
    UnmappedModel,
    UnsatisfiableArgument,
    UnsavedSubject,
    ViewEmitted,
)
from tests.flows.stories import log, names, pairs


class Hooks:
    """What the models of all kinds have in common: hooks that tell what they saw."""

    @pre_save
    def tidy(self):
        self.name = self.name.strip()

    @post_create
    def greet(self, event):
        SEEN.append((str(event), self.name))

    @on_event("name_changed")
    def compare(self, old_name, new_name):
        SEEN.append((old_name, new_name))

    @on_event("poked")
    def note(self, how):
        SEEN.append((self.name, how))


SEEN: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def seen():
    SEEN.clear()
    yield SEEN
    SEEN.clear()


def columns():
    return Column("id", Integer, primary_key=True), Column("name", String, nullable=False)


# --- ways to map a class: each gives (what to attach, a class made before attach, a function that makes one after) ---


def with_declarative_base_class():
    class Base(DeclarativeBase):
        pass

    class Early(Hooks, Base):
        __tablename__ = "early"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    def later():
        class Late(Hooks, Base):
            __tablename__ = "late"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        return Late

    return Base, Early, later, Base.metadata


def with_declarative_base_function():
    Base = declarative_base()

    class Early(Hooks, Base):
        __tablename__ = "early"
        id = Column(Integer, primary_key=True)
        name = Column(String)

    def later():
        class Late(Hooks, Base):
            __tablename__ = "late"
            id = Column(Integer, primary_key=True)
            name = Column(String)

        return Late

    return Base, Early, later, Base.metadata


def with_dataclasses():
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Early(Hooks, Base):
        __tablename__ = "early"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        name: Mapped[str]

    def later():
        class Late(Hooks, Base):
            __tablename__ = "late"
            id: Mapped[int] = mapped_column(primary_key=True, init=False)
            name: Mapped[str]

        return Late

    return Base, Early, later, Base.metadata


def with_sqlmodel():
    sqlmodel = pytest.importorskip("sqlmodel")
    own = registry()

    class Base(sqlmodel.SQLModel, registry=own):
        pass

    class Early(Hooks, Base, table=True):
        __tablename__ = "early"
        id: int | None = sqlmodel.Field(default=None, primary_key=True)
        name: str

    def later():
        class Late(Hooks, Base, table=True):
            __tablename__ = "late"
            id: int | None = sqlmodel.Field(default=None, primary_key=True)
            name: str

        return Late

    return Base, Early, later, own.metadata


def imperatively():
    mapper_registry = registry()

    class Early(Hooks):
        def __init__(self, name):
            self.name = name

    mapper_registry.map_imperatively(Early, Table("early", mapper_registry.metadata, *columns()))

    def later():
        class Late(Hooks):
            def __init__(self, name):
                self.name = name

        mapper_registry.map_imperatively(Late, Table("late", mapper_registry.metadata, *columns()))
        return Late

    return mapper_registry, Early, later, mapper_registry.metadata


WAYS = [
    with_declarative_base_class,
    with_declarative_base_function,
    with_dataclasses,
    with_sqlmodel,
    imperatively,
]


@pytest.mark.parametrize("way", WAYS)
def test_hooks_and_handlers_work_on_models_mapped(way, db, seen):
    target, Early, later, metadata = way()
    attach(target)
    Late = later()
    metadata.create_all(db.engine)
    heard = []

    @event_handler("early.*", "late.*", name="all")
    def hear(record, event):
        heard.append((str(event), record.name, type(record).__name__))

    for cls in (Early, Late):
        with Session(db.engine) as session:
            record = cls(name=" Ada ")
            session.add(record)
            session.commit()
            record.name = "Grace"
            session.commit()
            emit(f"{cls.__name__.lower()}.poked", record, how="gently")
            session.delete(record)
            session.commit()
    db.drain()

    assert [
        ("early.created", "Ada"),
        ("Ada", "Grace"),
        ("Grace", "gently"),
        ("late.created", "Ada"),
        ("Ada", "Grace"),
        ("Grace", "gently"),
    ] == seen
    # The record is gone when the worker looks, so that what came before its deletion is skipped.
    assert [("early.deleted", "Grace", "Early"), ("late.deleted", "Grace", "Late")] == sorted(heard)
    assert [
        f"{subject}.{verb}" for subject in ("early", "late") for verb in ("created", "updated", "poked", "deleted")
    ] == names(db)


@pytest.mark.parametrize("way", WAYS)
async def test_an_async_session_is_heard_on_models_mapped(way, db, seen):
    target, Early, _, metadata = way()
    attach(target, log="all")
    metadata.create_all(db.engine)

    async with AsyncSession(db.async_engine, expire_on_commit=False) as session:
        session.add(Early(name=" Ada "))
        await session.commit()

    assert [("early.created", "Ada")] == seen
    assert ["early.created"] == await asyncio.to_thread(names, db)


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_gets_the_record_loaded_fresh_and_at_last_a_snapshot(way, db):
    target, Early, _, metadata = way()
    attach(target)
    metadata.create_all(db.engine)
    found = []

    @event_handler(Early, name="keep")
    def keep(record, event):
        found.append((event.name, record.id, record.name))
        if event.name.endswith("deleted"):
            with pytest.raises(ReadOnlySnapshot):
                record.name = "other"

    with Session(db.engine) as session:
        session.add(record := Early(name="Ada"))
        session.commit()
        db.drain()
        session.delete(record)
        session.commit()
    db.drain()

    assert [("early.created", 1, "Ada"), ("early.deleted", 1, "Ada")] == found


def test_automapped_classes_are_attached_as_they_are_made(db):
    metadata = MetaData()
    Table("person", metadata, *columns())
    metadata.create_all(db.engine)
    Base = automap_base()
    attach(Base, log="all")
    Base.prepare(autoload_with=db.engine)

    with Session(db.engine) as session:
        session.add(Base.classes.person(name="Ada"))
        session.commit()

    assert ["person.created"] == names(db)


def test_the_example_of_pydantic_validation_is_untouched(db):
    sqlmodel = pytest.importorskip("sqlmodel")
    own = registry()

    class Base(sqlmodel.SQLModel, registry=own):
        pass

    class HeroBase(Base):
        name: str
        age: int

    class Hero(HeroBase, table=True):
        id: int | None = sqlmodel.Field(default=None, primary_key=True)

        @pre_save
        def older(self):
            self.age += 1

    attach(Base, log="all")
    own.metadata.create_all(db.engine)

    with pytest.raises(ValueError, match="age"):
        HeroBase.model_validate({"name": "Ada", "age": "old"})
    with sqlmodel.Session(db.engine) as session:
        session.add(Hero.model_validate({"name": "Ada", "age": 36}))
        session.commit()
        hero = session.exec(sqlmodel.select(Hero)).one()

    assert {"id": 1, "name": "Ada", "age": 37} == hero.model_dump()
    assert [{"id": 1, "name": "Ada", "age": 37}] == [dict(event.payload) for event in log(db)]


# --- which models, and by which name --------------------------------------------------------


def note(base=None, name="Note", **names):
    """A plain model: `Note(id, text)`."""
    if base is None:

        class base(DeclarativeBase):
            pass

    body = {
        "__tablename__": f"{name.lower()}s",
        "__annotations__": {"id": Mapped[int], "text": Mapped[str]},
        "id": mapped_column(primary_key=True),
        "text": mapped_column(default=""),
        **names,
    }
    return type(name, (base,), body)


def commit(db, *records):
    type(records[0]).metadata.create_all(db.engine)
    with Session(db.engine, expire_on_commit=False) as session:
        session.add_all(records)
        session.commit()


def test_a_class_not_attached_is_left_alone(db):
    Note = note(post=post_save(lambda self: self.missing))
    commit(db, Note())

    assert [] == log(db)


def test_a_handler_of_a_class_that_is_not_attached_draws_a_warning(db):
    Note = note()
    event_handler(Note, name="in vain")(lambda note: None)
    with pytest.warns(UserWarning, match="listens to Note, of which nothing is told.*earnorm.attach"):
        db.ready()


def test_a_handler_of_a_class_may_come_before_it_is_attached(db):
    Note, heard = note(), []
    event_handler(Note, name="early")(lambda note: heard.append(note.id))
    attach(Note.__base__)
    commit(db, Note())
    db.drain()

    assert [1] == heard


def test_one_class_can_be_attached_alone(db):
    Note = note()
    Other = note(Note.__base__, "Other")
    attach(Note, log="all")
    commit(db, Note(), Other())

    assert ["note.created"] == names(db)


def test_attaching_twice_is_attaching_once(db):
    calls = []
    Note = note(post=post_save(lambda self: calls.append(self)))
    for _ in range(3):
        attach(Note.__base__, log="all")
    commit(db, Note())

    assert (1, ["note.created"]) == (len(calls), names(db))


def test_an_orphan_is_told_though_nobody_hears_of_its_parent(db):
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        lines: Mapped[list["Line"]] = relationship(cascade="all, delete-orphan")

    class Line(Base):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))

        @pre_delete
        def last_words(self, event):
            SEEN.append(("pre", event.name))

    attach(Line, log="all")
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add(order := Order(lines=[Line()]))
        session.commit()
        order.lines.clear()
        session.commit()

    assert [("pre", "line.deleted")] == SEEN
    assert ["line.created", "line.deleted"] == names(db)


def test_the_closest_attachment_counts(db):
    Note = note()
    Other = note(Note.__base__, "Other")
    attach(Note.__base__)
    attach(Other, log="all")
    commit(db, Note(), Other())

    assert ["other.created"] == names(db)


def test_an_event_name_of_the_class_is_its_own_alone(db):
    Note = note(__event_name__="memo")
    attach(Note.__base__, log="all")
    commit(db, Note())

    assert ["memo.created"] == names(db)


def test_a_column_given_later_is_a_field(db):
    Note = note()
    attach(Note.__base__, log="all")
    Note.mood = mapped_column(String, default="good")
    commit(db, Note())

    assert [{"id": 1, "text": "", "mood": "good"}] == [dict(event.payload) for event in log(db)]


def test_fields_of_ours_keep_their_rules_on_a_plain_model(db):
    from earnorm.errors import ValidationFailed

    Note = note(mail=StringField(max_length=3))
    attach(Note.__base__)

    with pytest.raises(ValidationFailed, match="longer than 3"):
        commit(db, Note(mail="ada@example.com"))


def test_two_bases_can_be_attached(db):
    first, second = note(), note(None, "Other")
    attach(first.__base__, log="all")
    attach(second.__base__, log="all")
    commit(db, first())
    commit(db, second())

    assert ["note.created", "other.created"] == names(db)


# --- emitting about them --------------------------------------------------------------------


def test_a_plain_record_in_a_payload_travels_by_reference(db):
    Note = note()
    attach(Note)
    got = []
    event_handler("report.made", name="got")(lambda subject, note: got.append((type(note).__name__, note.id)))
    commit(db, kept := Note(text="x"))
    emit("report.made", note=kept)
    db.drain()

    assert [("Note", 1)] == got


def test_emitting_about_a_plain_record_has_the_same_rules(db):
    Note = note()
    attach(Note)
    with pytest.raises(UnsavedSubject):
        emit("note.read", Note())
    commit(db, kept := Note())
    with pytest.raises(ViewEmitted):
        emit("note.text_changed", kept)
    with Session(db.engine) as session:
        session.delete(session.merge(kept, load=False))
        gone = next(iter(session.deleted))
        session.commit()
    with pytest.raises(DeletedSubject):
        emit("note.read", gone)


def test_scoped_sessions_are_heard(db):
    Note = note()
    attach(Note, log="all")
    Note.metadata.create_all(db.engine)
    Scoped = scoped_session(sessionmaker(db.engine))
    try:
        kept = Note(text="a")
        Scoped.add(kept)
        Scoped.commit()
        kept.text = "b"
        Scoped.commit()
    finally:
        Scoped.remove()

    assert ["note.created", "note.updated"] == names(db)
    assert {"text": ("a", "b")} == pairs(log(db)[1])


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
def test_a_joined_test_session_gives_out_nothing_until_the_outer_transaction_ends_well(db, mode):
    Note = note()
    attach(Note, log="all")
    Note.metadata.create_all(db.engine)
    with db.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.add(Note())
            session.commit()
        if outer.is_active:
            outer.rollback()

    # Only `control_fully` hands the outer transaction to the session, whose commit is then the real one.
    assert (["note.created"] if mode == "control_fully" else []) == names(db)


def test_hooks_see_relationships_and_handlers_get_the_hint(db):
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int] = mapped_column(default=0)
        lines: Mapped[list["Line"]] = relationship(back_populates="order")

        @pre_save
        def add_up(self):
            self.total = sum(line.price for line in self.lines)

    class Line(Base):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        price: Mapped[int]
        order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
        order: Mapped[Order] = relationship(back_populates="lines")

        @post_save
        def see_order(self):
            SEEN.append(("line of", self.order.total))

    attach(Base)
    Base.metadata.create_all(db.engine)
    errors = []

    @event_handler("order.created", name="late")
    def late(order):
        try:
            order.lines
        except Exception as error:
            errors.append(type(error).__name__)
            raise

    from earnorm.testing import expect_failures

    with Session(db.engine) as session:
        session.add(Order(lines=[Line(price=2), Line(price=3)]))
        session.commit()
    with expect_failures():
        db.drain()
        with db.store.begin() as transaction:
            (delivery,) = transaction.deliveries()

    assert [("line of", 5), ("line of", 5)] == SEEN
    assert ["DetachedInstanceError"] == errors
    assert "a handler's record is detached" in delivery.error


# --- secrets --------------------------------------------------------------------------------


def test_a_marked_column_stays_out_of_the_log(db):
    Note = note(password=mapped_column(String, default="", info={"earnorm_sensitive": True}))
    attach(Note, log="all")
    kept = Note(password="analytical")
    commit(db, kept)
    with Session(db.engine) as session:
        session.add(kept)
        kept.password = "difference"
        session.commit()

    created, updated = log(db)
    assert "password" not in created.payload
    assert {"password": (None, None)} == pairs(updated)
    with pytest.raises(SensitiveArgument):
        event_handler("note.password_changed", name="leak")(lambda note, old_password: None)


def test_a_column_that_looks_like_a_secret_draws_a_warning():
    Note = note(api_key=mapped_column(String, default=""))
    with pytest.warns(UserWarning, match=r"Note.api_key looks like a secret.*earnorm_sensitive"):
        attach(Note)


def test_a_column_said_to_be_no_secret_draws_none():
    attach(note(token=mapped_column(String, default="", info={"earnorm_sensitive": False})))


def test_a_primary_key_cannot_be_a_secret():
    Note = note(id=mapped_column(primary_key=True, info={"earnorm_sensitive": True}))
    with pytest.raises(InvalidField, match="names its record in every event"):
        attach(Note)


# --- what cannot be attached ----------------------------------------------------------------


def test_an_instance_is_refused_with_its_class_as_the_remedy():
    Note = note()
    with pytest.raises(NotAttachable, match=r"attach its class: attach\(Note\)"):
        attach(Note())


@pytest.mark.parametrize("thing", ["Note", 42, None])
def test_what_is_no_class_is_refused(thing):
    with pytest.raises(NotAttachable, match="expected a class or a registry"):
        attach(thing)


def test_an_unmapped_class_is_refused():
    class Nothing:
        pass

    with pytest.raises(UnmappedModel, match=r"attach\(Nothing\): SQLAlchemy knows no table"):
        attach(Nothing)


def test_our_own_models_have_their_hooks_already():
    class User(BaseModel):
        name = StringField()

    for target in (BaseModel, User, BaseModel.registry):
        with pytest.raises(NotAttachable, match="have their hooks already"):
            attach(target)


def test_two_classes_of_one_event_name_are_refused_together():
    Note = note()
    Memo = note(Note.__base__, "Memo", __event_name__="note")
    with pytest.raises(SubjectTaken, match="set __event_name__ on one of them"):
        attach(Note.__base__)

    assert [None, None] == [earnorm.default_bus.registry.model_of(cls) for cls in (Note, Memo)]


def test_the_name_of_one_of_our_models_is_taken():
    class User(BaseModel):
        name = StringField()

    with pytest.raises(SubjectTaken):
        attach(note(None, "User"))


def test_a_class_defined_later_under_a_taken_name_is_refused():
    Note = note()
    attach(Note.__base__)
    with pytest.raises(SubjectTaken):
        note(Note.__base__, "Memo", __event_name__="note")


def test_a_hook_that_asks_for_what_is_never_there_attaches_nothing():
    Other = note(None, "Other")
    Note = note(Other.__base__, check=on_event("text_changed")(_asks_for_missing))
    with pytest.raises(UnsatisfiableArgument, match="colour"):
        attach(Other.__base__)

    assert [None, None] == [earnorm.default_bus.registry.model_of(cls) for cls in (Note, Other)]


def _asks_for_missing(self, colour):
    """A hook for a field that no model here has."""


_asks_for_missing.__qualname__ = "Note.check"


def test_attaching_one_base_in_two_ways_is_refused():
    Base = note().__base__
    attach(Base)
    with pytest.raises(AttachedOtherwise, match=r"attached with log='subscribed'.*log='all'"):
        attach(Base, log="all")


def test_what_is_kept_is_one_of_two_words():
    with pytest.raises(ConfigurationError, match="expected 'all' or 'subscribed'"):
        attach(note(), log="some")


def test_a_model_without_a_primary_key_is_refused_when_it_is_mapped():
    mapper_registry = registry()
    attach(mapper_registry)
    table = Table("loose", mapper_registry.metadata, Column("name", String))

    class Loose:
        pass

    with pytest.raises(NoPrimaryKey, match="Loose has no primary key: no column of loose is one"):
        mapper_registry.map_imperatively(Loose, table)


def test_a_primary_key_named_by_the_mapper_will_do(db):
    mapper_registry = registry()
    attach(mapper_registry, log="all")
    table = Table("loose", mapper_registry.metadata, Column("name", String))

    class Loose:
        def __init__(self, name):
            self.name = name

    mapper_registry.map_imperatively(Loose, table, primary_key=[table.c.name])
    mapper_registry.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add(Loose("x"))
        session.commit()

    assert ["loose:x"] == [event.key for event in log(db)]


def test_one_of_our_models_on_a_table_without_a_primary_key_is_refused():
    table = Table("keyless", MetaData(), Column("name", String))
    with pytest.raises(NoPrimaryKey, match="Keyless has no primary key"):

        class Keyless(BaseModel):
            __table__ = table


# --- binds ----------------------------------------------------------------------------------


def test_a_bind_that_is_not_connected_is_refused_before_anything_is_written(db, tmp_path):
    Note = note(post=post_save(lambda self, event: None))
    attach(Note)
    elsewhere = create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    Note.metadata.create_all(elsewhere)
    with Session(elsewhere) as session:
        session.add(Note())
        with pytest.raises(BindNotConnected, match=r"no database is connected on .*elsewhere.db.*connect\(engine"):
            session.commit()
    with Session(elsewhere) as session:
        assert 0 == session.scalar(select(func.count()).select_from(Note))
    elsewhere.dispose()


def test_a_bind_that_is_not_connected_does_not_matter_to_a_model_nobody_hears(db, tmp_path):
    Note = note()
    attach(Note)
    elsewhere = create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    Note.metadata.create_all(elsewhere)
    with Session(elsewhere) as session:
        session.add(Note())
        session.commit()
    elsewhere.dispose()

    assert [] == log(db)


def test_autocommit_is_refused_for_an_attached_model_before_anything_is_written(db):
    Note = note()
    attach(Note, log="all")
    Note.metadata.create_all(db.engine)
    with Session(db.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.add(Note())
        with pytest.raises(AutocommitRefused):
            session.commit()
    with Session(db.engine) as session:
        assert 0 == session.scalar(select(func.count()).select_from(Note))


@pytest.mark.parametrize("expired", [False, True])
def test_the_version_that_an_update_raises_is_among_its_changes(db, expired):
    class Base(DeclarativeBase):
        pass

    class Page(Base):
        __tablename__ = "versioned_pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        version: Mapped[int] = mapped_column()
        __mapper_args__ = {"version_id_col": version}

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    with Session(db.engine, expire_on_commit=expired) as session:
        session.add(page := Page(id=1, title="a"))
        session.commit()
        page.title = "b"
        session.commit()

    assert {"title": ("a", "b"), "version": (1, 2)} == pairs(log(db)[-1])
