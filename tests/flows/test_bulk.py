"""Bulk writes: keys, old and new values, order, savepoints, refusals; demands D6, D7, D8, D9, D17 and D33 by name."""

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    Integer,
    String,
    Table,
    UniqueConstraint,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    lambda_stmt,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, with_loader_criteria

import earnorm
from earnorm import (
    Abort,
    BaseModel,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    StringField,
    default_bus,
    event_handler,
    on_event,
    on_event_async,
    post_create,
    post_delete,
    post_update,
    pre_delete,
    pre_save,
    pre_update,
)
from earnorm.errors import BulkRefused, InvalidBulkPolicy, ValidationFailed
from tests.flows.stories import log, names, pairs

NAMES = [{"name": "Ada"}, {"name": "Bob"}, {"name": "Cy"}]


def make_user(**body):
    fields = {
        "id": IntegerField(primary_key=True),
        "name": StringField(max_length=20),
        "visits": IntegerField(default=0),
        "email": StringField(required=False, unique=True),
    }
    return type("User", (BaseModel,), {"__module__": __name__, "__qualname__": "User", **fields, **body})


def execute(db, statement, parameters=None):
    with db.session() as session:
        result = session.execute(statement, parameters)
        session.commit()
        return result


def upsert(db, model):
    return (postgresql if db.engine.dialect.name == "postgresql" else sqlite).insert(model)


# --- D6: bulk writes are not silent ----------------------------------------------------------


def test_d6_a_bulk_write_tells_each_row_or_one_batch_or_is_refused(db):
    Rows = make_user()
    execute(db, insert(Rows), NAMES)

    assert ["user.created"] * 3 == names(db)


def test_d6_a_batch_says_how_many_which_fields_and_which_rows(db):
    heard = []
    User = make_user(__bulk__="batch")
    event_handler("user.*", name="heard")(lambda event, **data: heard.append((str(event), event.key, data)))
    execute(db, insert(User), NAMES)
    execute(db, update(User).where(User.visits == 0).values(visits=1))
    execute(db, delete(User))
    db.drain()

    assert [
        ("user.bulk_created", "", {"count": 3, "fields": ["name"]}),
        ("user.bulk_updated", "", {"count": 3, "fields": ["visits"], "criteria": "users.visits = :visits_1"}),
        ("user.bulk_deleted", "", {"count": 3, "fields": [], "criteria": ""}),
    ] == heard


def test_d6_a_batch_is_heard_by_handlers_of_the_class_and_of_the_model(db):
    """Those that are durable were passed over: a batch is about no record, and so the log knew no model of it."""
    heard = []

    class User(BaseModel):
        __bulk__ = "batch"
        name = StringField()

        @on_event_async("bulk_created", name="model")
        async def later(self, event):
            heard.append(f"model {event}")

    event_handler(User, name="class")(lambda user, event: heard.append(f"class {event}"))
    event_handler(User, name="now", delivery="transaction")(lambda event: heard.append(f"now {event}"))
    execute(db, insert(User), NAMES)
    db.drain()

    assert {"now user.bulk_created", "model user.bulk_created", "class user.bulk_created"} == set(heard)


def test_d6_a_refusal_writes_nothing_and_says_what_to_do(db):
    User = make_user(__bulk__="refuse")
    User(name="Ada").save()

    with pytest.raises(BulkRefused, match=r"an UPDATE statement of User is refused.*save or delete the records"):
        execute(db, update(User).values(visits=9))
    with pytest.raises(BulkRefused, match=r"bulk_insert_mappings\(\) of User"), db.session() as session:
        session.bulk_insert_mappings(User, NAMES)
    assert [("Ada", 0)] == [(user.name, user.visits) for user in User.find()]


def test_a_policy_is_checked_when_the_class_is_made():
    with pytest.raises(InvalidBulkPolicy, match=r"User.__bulk__ = 'all'.*'rows'.*'batch'.*'refuse'"):
        make_user(__bulk__="all")


def test_a_model_nobody_listens_to_is_written_as_ever(memory):
    User = make_user()
    memory.ready()
    statements = []
    with Session(memory.engine) as session:
        connection = session.connection()
        event.listen(connection, "before_cursor_execute", lambda c, cursor, text, *rest: statements.append(text))
        session.execute(update(User).values(visits=1))

    assert [True] == [text.startswith("UPDATE users SET visits") for text in statements]


# --- D7: real keys and values ----------------------------------------------------------------


def test_d7_rows_of_a_bulk_insert_have_the_keys_and_defaults_the_database_gave(db):
    class User(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        state: Mapped[str] = mapped_column(String, server_default="new")
        shout: Mapped[str] = mapped_column(String, Computed("name || '!'", persisted=True))

    execute(db, insert(User), NAMES)
    told = log(db)
    stored = {user.id: user for user in User.find()}

    assert 3 == len(stored)
    for one in told:
        user = stored[one.payload["id"]]
        assert f"user:{user.id}" == one.key
        assert {"id": user.id, "name": user.name, "state": "new", "shout": f"{user.name}!"} == one.payload


def test_d7_keys_made_by_the_client_are_no_sign_of_an_update(db):
    class User(BaseModel):
        name = StringField()

    with db.session() as session:
        session.bulk_save_objects([User(name="Ada")])
        session.add(User(name="Bob"))
        session.commit()
    execute(db, insert(User), [{"name": "Cy"}])

    assert ["user.created"] * 3 == names(db)
    assert {str(user.id) for user in User.find()} == {event.key.removeprefix("user:") for event in log(db)}


# --- D8: old and new values on every path ----------------------------------------------------


def test_d8_old_and_new_are_exact_for_expressions_on_a_record(db):
    User = make_user()
    user = User(name="Ada", visits=3).save()
    user.visits = User.visits + 1
    user.save()

    assert {"visits": (3, 4)} == pairs(log(db)[-1])
    assert 4 == log(db)[-1].payload["visits"] == user.visits


def test_d8_old_and_new_are_exact_for_generated_columns(db):
    class Item(BaseModel):
        id = IntegerField(primary_key=True)
        count = IntegerField()
        twice: Mapped[int] = mapped_column(Computed("count * 2", persisted=True))

    item = Item(count=1).save()
    item.count = 5
    item.save()
    execute(db, update(Item).values(count=Item.count + 1))

    assert [{}, {"count": (1, 5), "twice": (2, 10)}, {"count": (5, 6), "twice": (10, 12)}] == list(map(pairs, log(db)))


@pytest.mark.parametrize("forget", ["expire", "commit"])
def test_d8_old_and_new_are_exact_for_generated_columns_that_are_not_loaded(db, forget):
    """After a commit SQLAlchemy's sessions have nothing loaded; what an UPDATE changed by itself then was left out."""

    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        count: Mapped[int]
        twice: Mapped[int] = mapped_column(Computed("count * 2", persisted=True))
        saves: Mapped[int] = mapped_column(default=0, onupdate=lambda: 7)

    earnorm.attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    db.ready()
    with Session(db.engine) as session:
        items = [Item(id=number, count=number) for number in (1, 2)]
        session.add_all(items)
        session.commit()
        for item in items:
            if forget == "expire":
                session.refresh(item)
                session.expire(item, ["twice", "saves"])
            item.count = 5
        session.commit()

    told = [{"count": (was, 5), "twice": (2 * was, 10), "saves": (0, 7)} for was in (1, 2)]
    assert told == [pairs(found) for found in log(db)[2:]]


def test_d8_an_expression_in_a_new_record_is_read_back(db):
    User = make_user()
    User(name="Ada", visits=func.abs(-7)).save()

    assert 7 == log(db)[0].payload["visits"]


def test_d8_a_view_hears_of_a_statement_with_old_and_new(db):
    seen = []

    class User(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        status = StringField(default="new")

        @on_event("status_change")
        def changed(self, old_status, new_status):
            seen.append((self.name, old_status, new_status, self.status))

    execute(db, insert(User), NAMES)
    execute(db, update(User).where(User.name != "Bob").values(status="paid"))

    assert [("Ada", "new", "paid", "paid"), ("Cy", "new", "paid", "paid")] == sorted(seen)


def test_d8_an_upsert_tells_new_rows_from_those_that_were_there(db):
    User = make_user()
    User(name="Ada", email="a@example.com").save()
    statement = upsert(db, User)
    statement = statement.on_conflict_do_update(index_elements=["email"], set_={"name": statement.excluded.name})
    rows = [{"name": "Eve", "email": "a@example.com"}, {"name": "Bob", "email": "b@example.com"}]
    execute(db, statement, rows)
    execute(db, statement, rows)

    assert [("user.created", {}), ("user.created", {}), ("user.updated", {"name": ("Ada", "Eve")})] == [
        (event.name, pairs(event)) for event in log(db)
    ]


def test_an_upsert_that_nobody_hears_need_not_say_what_it_meets(tmp_path):
    """SQLite takes one without a conflict target. It was refused: we looked by that for what others follow."""
    User, engine = make_user(), create_engine(f"sqlite:///{tmp_path}/quiet.db")
    User.metadata.create_all(engine)
    given = sqlite.insert(User)
    given = given.on_conflict_do_update(set_={"name": given.excluded.name}).returning(User.name)
    with Session(engine) as session:
        for name in ("Ada", "Eve"):
            found = session.scalars(given, [{"name": name, "email": "a@example.com"}]).all()
        session.commit()
    engine.dispose()

    assert ["Eve"] == found


def test_d8_an_upsert_that_loses_a_race_says_updated(url):
    """PostgreSQL only: our look finds nothing, and then waits in its INSERT for another's row."""
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has one writer: nobody comes between a look and its INSERT")
    with earnorm.connect(url, worker=False) as db:
        User = make_user()
        db.ready()
        statement = postgresql.insert(User)
        statement = statement.on_conflict_do_update(index_elements=["email"], set_={"name": statement.excluded.name})
        first = db.session()
        first.execute(insert(User), [{"name": "Ada", "email": "a@example.com"}])
        other = threading.Thread(target=execute, args=(db, statement, [{"name": "Eve", "email": "a@example.com"}]))
        other.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT IN%%'"
        with db.engine.connect() as look:
            while other.is_alive() and not look.exec_driver_sql(waiting, {}).scalar_one():
                look.rollback()
        first.commit()
        first.close()
        other.join(20)

        assert [("user.created", {}), ("user.updated", {"name": ("Ada", "Eve")})] == [
            (event.name, pairs(event)) for event in log(db)
        ]


# --- D9: one set of events for one action ----------------------------------------------------


def test_d9_however_a_row_is_written_it_tells_the_same(db):
    User = make_user()
    row = {"name": "Ada", "visits": 1}
    with db.session() as session:
        session.add(User(id=1, **row))
        session.commit()
        session.bulk_save_objects([User(id=2, **row)])
        session.bulk_insert_mappings(User, [{"id": 3, **row}])
        session.execute(insert(User), [{"id": 4, **row}])
        session.execute(insert(User).values(id=5, **row))
        session.merge(User(id=6, **row))
        session.commit()

    told = {(event.name, event.payload["name"], event.payload["visits"]) for event in log(db)}
    assert {("user.created", "Ada", 1)} == told
    assert {f"user:{number}" for number in range(1, 7)} == {event.key for event in log(db)}


# --- D17: changed twice in one transaction ---------------------------------------------------


def test_d17_statements_and_records_compose_into_one_event_for_each_record(db):
    User = make_user()
    with db.transaction() as opened:
        user = User(id=1, name="Ada").save()
        opened.session.execute(update(User).values(visits=User.visits + 1))
        user.name = "Eve"
        user.save()
        opened.session.execute(insert(User), [{"id": 2, "name": "Bob"}])
        opened.session.execute(delete(User).where(User.id == 2))

    assert [("user.created", "Eve", 1)] == [(e.name, e.payload["name"], e.payload["visits"]) for e in log(db)]


def test_d17_first_old_and_last_new_of_two_statements(db):
    User = make_user()
    User(id=1, name="Ada").save()
    with db.transaction() as opened:
        opened.session.execute(update(User).values(visits=1))
        opened.session.execute(update(User), [{"id": 1, "visits": 2}])

    assert {"visits": (0, 2)} == pairs(log(db)[-1])


def test_d17_a_savepoint_that_is_rolled_back_takes_its_rows_with_it(db):
    User = make_user()
    with db.transaction() as opened:
        opened.session.execute(insert(User), [{"name": "Ada"}])
        with pytest.raises(Abort), db.transaction():
            opened.session.execute(insert(User), [{"name": "Bob"}])
            opened.session.execute(update(User).values(visits=9))
            raise Abort("no")

    assert [("user.created", "Ada", 0)] == [(e.name, e.payload["name"], e.payload["visits"]) for e in log(db)]


# --- D33: cascades ---------------------------------------------------------------------------


def make_family(**body):
    class Order(BaseModel):
        id = IntegerField(primary_key=True)

    fields = {
        "id": IntegerField(primary_key=True),
        "order_id": ForeignKeyField("Order", type_=int, on_delete="cascade"),
    }
    Line = type("Line", (BaseModel,), {"__module__": __name__, "__qualname__": "Line", **fields, **body})
    return Order, Line


def seed_family(db, Order, Line):
    with db.session() as session:
        session.add_all([Order(id=1), Order(id=2)])
        session.flush()
        session.add_all([Line(id=number, order_id=1 + number % 2) for number in range(1, 5)])
        session.commit()


@pytest.mark.parametrize("how", ["delete()", "statement", "by key"])
def test_d33_rows_that_the_database_takes_along_are_told_with_their_last_values(db, how):
    seen = []

    def gone(self):
        seen.append((self.id, self.order_id))

    gone.__qualname__ = "Line.gone"
    Order, Line = make_family(gone=post_delete(gone))
    seed_family(db, Order, Line)
    if how == "delete()":
        Order.get(1).delete()
    else:
        execute(db, delete(Order).where(Order.id == 1))

    assert [(2, 1), (4, 1)] == seen
    assert [("order.deleted", "order:1"), ("line.deleted", "line:2"), ("line.deleted", "line:4")] == [
        (event.name, event.key) for event in log(db) if event.name.endswith("deleted")
    ]


def test_d33_a_pre_delete_hook_of_a_row_that_would_be_taken_along_can_veto(db):
    def keep(self):
        raise Abort(f"line {self.id} stays")

    keep.__qualname__ = "Line.keep"
    Order, Line = make_family(keep=pre_delete(keep))
    seed_family(db, Order, Line)

    with pytest.raises(Abort, match="line 2 stays"):
        Order.get(1).delete()
    with pytest.raises(Abort, match="line 2 stays"):
        execute(db, delete(Order).where(Order.id == 1))
    assert (2, 4) == (len(Order.find()), len(Line.find()))


def test_d33_a_cascade_onto_a_model_that_refuses_is_an_error_before_anything_is_written(db):
    Order, Line = make_family(__bulk__="refuse")
    with db.session() as session:
        session.add(Order(id=1))
        session.flush()
        session.add(Line(id=1, order_id=1))
        session.commit()

    with pytest.raises(BulkRefused, match="a deletion cascaded by the database of Line"):
        Order.get(1).delete()
    assert 1 == len(Order.find())


def test_d33_a_cascade_goes_through_tables_that_no_model_has(db):
    class Order(BaseModel):
        id = IntegerField(primary_key=True)

    shelf = Table(
        "shelves",
        BaseModel.metadata,
        Column("id", Integer, primary_key=True),
        Column("order_id", ForeignKey("orders.id", ondelete="CASCADE")),
    )

    class Book(BaseModel):
        id = IntegerField(primary_key=True)
        shelf_id: Mapped[int] = mapped_column(ForeignKey("shelves.id", ondelete="CASCADE"))

    with db.session() as session:
        session.add(Order(id=1))
        session.flush()
        session.execute(shelf.insert(), {"id": 7, "order_id": 1})
        session.add(Book(id=3, shelf_id=7))
        session.commit()
    Order.get(1).delete()

    assert ["book.deleted", "order.deleted"] == sorted(name for name in names(db) if name.endswith("deleted"))


def test_a_cascade_is_told_though_nobody_knows_the_model_it_comes_from(db):
    """A lone record that no one hears of had its flush taken for settled, with all that the database took along."""

    class Base(DeclarativeBase):
        pass

    class Whole(Base):
        __tablename__ = "wholes"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Part(Base):
        __tablename__ = "parts"
        id: Mapped[int] = mapped_column(primary_key=True)
        whole_id: Mapped[int] = mapped_column(ForeignKey("wholes.id", ondelete="CASCADE"))

    earnorm.attach(Part, log="all")
    Base.metadata.create_all(db.engine)
    with db.session() as session:
        session.add(Whole(id=1))
        session.flush()
        session.add(Part(id=2, whole_id=1))
        session.commit()
        session.expunge_all()
        session.delete(session.get(Whole, 1))
        session.commit()

    assert ["part.created", "part.deleted"] == names(db)


# --- hooks -----------------------------------------------------------------------------------


def test_what_a_pre_hook_sets_on_a_row_of_dictionaries_is_written(db):
    def clean(self):
        self.name = self.name.upper()

    clean.__qualname__ = "User.clean"
    User = make_user(clean=pre_save(clean))
    execute(db, insert(User), NAMES)
    with db.session() as session:
        session.bulk_insert_mappings(User, [{"name": "dan"}])
        session.bulk_save_objects([User(name="eve")])
        session.commit()

    assert ["ADA", "BOB", "CY", "DAN", "EVE"] == sorted(user.name for user in User.find())


def test_a_hook_that_no_statement_can_run_is_named(db):
    def clean(self): ...

    clean.__qualname__ = "User.clean"
    User = make_user(clean=pre_update(clean))

    with pytest.raises(BulkRefused, match=r"the hook \S*clean may change each record before its SQL"):
        execute(db, update(User).values(visits=1))


def test_a_post_hook_may_veto_and_nothing_is_left(db):
    def no(self):
        raise Abort("no")

    no.__qualname__ = "User.no"
    User = make_user(no=post_create(no))
    with db.session() as session:
        with pytest.raises(Abort):
            session.execute(insert(User), NAMES)
        session.rollback()
        session.commit()

    assert [] == User.find() == names(db)


def test_a_post_hook_has_the_record_of_the_session_with_its_new_values(db):
    seen = []

    def after(self, session):
        seen.append((self.visits, self in session))

    after.__qualname__ = "User.after"
    User = make_user(after=post_update(after))
    User(id=1, name="Ada").save()
    with db.session() as session:
        mine = session.get(User, 1)
        session.execute(update(User).values(visits=User.visits + 1).execution_options(synchronize_session=False))

        assert [(1, True)] == seen
        assert 1 == mine.visits


def test_a_deleted_row_is_handed_to_its_hook_with_its_last_values(db):
    seen = []

    def after(self):
        seen.append(self.name)

    after.__qualname__ = "User.after"
    User = make_user(after=post_delete(after))
    execute(db, insert(User), NAMES)
    execute(db, delete(User).where(User.name < "C"))

    assert ["Ada", "Bob"] == sorted(seen)


def test_what_a_handler_emits_and_saves_for_a_row_follows_it(db):
    def welcome(self):
        self.visits = 100
        self.save()
        self.emit("welcomed")

    welcome.__qualname__ = "User.welcome"
    User = make_user(welcome=post_create(welcome))
    execute(db, insert(User), NAMES[:1])

    assert [("user.created", 100), ("user.welcomed", None)] == [(e.name, e.payload.get("visits")) for e in log(db)]


# --- validation ------------------------------------------------------------------------------


FAULTY = {
    "one dictionary of many": lambda s, User: s.execute(insert(User), [{"name": "Ada"}, {"name": "x" * 21}]),
    "a required field is absent": lambda s, User: s.execute(insert(User), [{"visits": 1}]),
    "values": lambda s, User: s.execute(insert(User).values(name=7)),
    "many values": lambda s, User: s.execute(insert(User).values([{"name": None}])),
    "update": lambda s, User: s.execute(update(User).values(name="x" * 21)),
    "update by key": lambda s, User: s.execute(update(User), [{"id": 1, "name": None}]),
    "bulk_insert_mappings": lambda s, User: s.bulk_insert_mappings(User, [{"name": ""}, {"name": 1}]),
    "bulk_update_mappings": lambda s, User: s.bulk_update_mappings(User, [{"id": 1, "visits": "many"}]),
    "bulk_save_objects": lambda s, User: s.bulk_save_objects([User(name="x" * 21)]),
}


@pytest.mark.parametrize("write", FAULTY.values(), ids=FAULTY)
def test_values_of_bulk_writes_are_validated_before_anything_is_written(db, write):
    User = make_user()
    with db.session() as session:
        with pytest.raises(ValidationFailed):
            write(session, User)
        session.commit()

    assert [] == User.find() == names(db)


def test_a_faulty_row_of_an_update_is_told_with_its_key_and_what_to_do(db):
    """It was told that "a new User" cannot be saved."""
    User = make_user()
    rows = [{"id": 6, "name": "Ada"}, {"id": 7, "name": "x" * 21, "visits": None}]
    told = (
        "an update of User:7 cannot be saved:\n"
        "  User.name: name = 'xxxxxxxxxxxxxxxxxxxxx' is longer than 20 characters\n"
        "  User.visits: visits is required\n"
        "nothing was written; correct it and run the statement again"
    )

    for write in (lambda s: s.execute(update(User), rows), lambda s: s.bulk_update_mappings(User, rows)):
        with db.session() as session, pytest.raises(ValidationFailed) as failed:
            write(session)
        assert (told, "User:7") == (str(failed.value), failed.value.key)


def test_an_update_of_rows_that_it_does_not_name_is_told_as_one(db):
    User = make_user()

    with (
        db.session() as session,
        pytest.raises(ValidationFailed, match=r"an update of User cannot be saved:") as failed,
    ):
        session.execute(update(User).values(id=9, name=7))

    assert "" == failed.value.key


def test_expressions_are_for_the_database_to_judge(db):
    User = make_user()
    execute(db, insert(User).values(name=func.upper("ada")))
    execute(db, update(User).values(visits=User.visits + 1, email=None))

    assert [("ADA", 1)] == [(user.name, user.visits) for user in User.find()]


# --- around it -------------------------------------------------------------------------------


async def test_an_async_session_tells_the_same(db):
    seen = []

    def after(self):
        seen.append(self.name)

    after.__qualname__ = "User.after"
    User = make_user(after=post_create(after))
    await db.aready()
    async with AsyncSession(db.async_engine, expire_on_commit=False) as session:
        await session.execute(insert(User), NAMES)
        await session.execute(update(User).values(visits=User.visits + 1))
        await session.run_sync(lambda s: s.bulk_insert_mappings(User, [{"name": "Dan"}]))
        await session.execute(delete(User).where(User.name == "Bob"))
        await session.commit()

    assert ["Ada", "Bob", "Cy", "Dan"] == sorted(seen)
    assert ["user.created"] * 3 == names(db)


async def test_a_pre_hook_that_is_async_is_awaited(db):
    async def clean(self):
        self.name = self.name.upper()

    clean.__qualname__ = "User.clean"
    User = make_user(clean=earnorm.pre_create_async(clean))
    async with db.transaction() as opened:
        await opened.session.execute(insert(User), NAMES[:1])

    assert ["ADA"] == [user.name for user in await User.afind()]


def test_muted_rows_are_silent_and_a_capture_sees_the_records(db):
    User = make_user()
    db.ready()
    with default_bus.muted("user.created", reason="an import"):
        execute(db, insert(User), NAMES)
    with default_bus.capture("user.updated") as events:
        execute(db, update(User).values(visits=1))

    assert ["Ada", "Bob", "Cy"] == sorted(event.subject.name for event in events)
    assert ["user.updated"] * 3 == names(db)


def test_a_statement_on_a_base_class_tells_of_each_row_under_its_own_name(db):
    class Animal(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Dog(Animal):
        tricks = IntegerField(default=0)

    Animal(id=1, name="Tom").save()
    Dog(id=2, name="Rex").save()
    execute(db, update(Animal).values(name="Max"))
    execute(db, insert(Dog), [{"id": 3, "name": "Bo"}])
    execute(db, delete(Animal))

    assert [
        *("animal.created", "dog.created", "animal.updated", "dog.updated"),
        *("dog.created", "animal.deleted", "dog.deleted", "dog.deleted"),
    ] == names(db)


def test_rows_of_joined_tables_are_told_whole(db):
    class Person(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()

    class Engineer(Person):
        __tablename__ = "engineers"
        id: Mapped[int] = mapped_column(ForeignKey("persons.id", ondelete="CASCADE"), primary_key=True)
        language = StringField()

    execute(db, insert(Engineer), [{"id": 1, "name": "Ada", "language": "C"}])
    execute(db, update(Engineer).values(language="Ada"))
    execute(db, update(Person).values(name="Eve"))

    assert [
        ("engineer.created", {"id": 1, "name": "Ada", "language": "C"}, {}),
        ("engineer.updated", {"id": 1, "name": "Ada", "language": "Ada"}, {"language": ("C", "Ada")}),
        ("engineer.updated", {"id": 1, "name": "Eve", "language": "Ada"}, {"name": ("Ada", "Eve")}),
    ] == [(event.name, event.payload, pairs(event)) for event in log(db)]


def test_a_part_written_in_bulk_bubbles_to_its_whole(db):
    seen = []

    class Order(BaseModel):
        id = IntegerField(primary_key=True)

        @on_event("line.created")
        def more(self):
            seen.append(self.id)

    class Line(BaseModel, bubbles_to="order_id"):
        id = IntegerField(primary_key=True)
        order_id = ForeignKeyField("Order", type_=int)

    Order(id=1).save()
    execute(db, insert(Line), [{"id": 1, "order_id": 1}, {"id": 2, "order_id": 1}])

    assert [1, 1] == seen


def test_models_of_any_base_are_told_of_too(db):
    class Base(DeclarativeBase):
        __bulk__ = "rows"

    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    earnorm.attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    execute(db, insert(Thing), NAMES)
    execute(db, update(Thing).where(Thing.name == "Bob").values(name="Bo"))

    assert ["thing.created"] * 3 + ["thing.updated"] == names(db)


def test_returning_gives_the_caller_what_he_asked_for_and_no_more(db):
    User = make_user()
    with db.session() as session:
        made = session.scalars(insert(User).returning(User), NAMES).all()
        pairs_ = session.execute(insert(User).returning(User.name, User.visits), [{"name": "Dan", "visits": 2}]).all()
        one = session.scalar(update(User).where(User.name == "Dan").values(visits=3).returning(User.visits))
        gone = session.execute(delete(User).where(User.name == "Dan").returning(User.name)).one()
        count = session.execute(update(User).values(visits=7)).rowcount
        key = session.execute(insert(User).values(name="Eve")).inserted_primary_key
        session.commit()

    assert ["Ada", "Bob", "Cy"] == [user.name for user in made]
    assert ([("Dan", 2)], 3, ("Dan",), 3) == (pairs_, one, gone, count)
    assert key[0] == User.find(name="Eve")[0].id


def test_many_rows_are_told_in_statements_of_a_thousand(db):
    User = make_user()
    execute(db, insert(User), [{"name": f"n{number}"} for number in range(2_500)])
    execute(db, update(User).values(visits=User.id))

    assert {"user.created": 2_500, "user.updated": 2_500} == {
        name: names(db).count(name) for name in ("user.created", "user.updated")
    }


def test_a_moment_is_told_as_it_will_be_loaded(db):
    class Visit(BaseModel):
        id = IntegerField(primary_key=True)
        at = DateTimeField()

    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    execute(db, insert(Visit), [{"id": 1, "at": noon}])

    assert noon == log(db)[0].payload["at"]


def links_of_posts_and_tags():
    return Table(
        "links",
        BaseModel.metadata,
        Column("post_id", ForeignKey("posts.id"), primary_key=True),
        Column("tag_id", ForeignKey("tags.id"), primary_key=True),
    )


def test_a_many_to_many_change_is_an_event_of_both_sides(db):
    links = links_of_posts_and_tags()
    seen = []

    class Post(BaseModel):
        id = IntegerField(primary_key=True)
        tags = relationship("Tag", secondary=links, back_populates="posts")

        @on_event("tags_changed")
        def changed(self, added, removed):
            seen.append(([tag.id for tag in added], [tag.id for tag in removed]))

    class Tag(BaseModel):
        id = IntegerField(primary_key=True)
        posts = relationship("Post", secondary=links, back_populates="tags")

    with db.session() as session:
        session.add(Post(id=1, tags=[Tag(id=1), Tag(id=2)]))
        session.commit()
        post = session.get(Post, 1)
        post.tags.remove(session.get(Tag, 1))
        session.commit()

    assert [([1, 2], []), ([], [1])] == seen
    told = [event for event in log(db) if event.name.endswith(".changed")]
    post, tag = "post.tags.changed", "tag.posts.changed"
    assert [post, tag, tag, post, tag] == [event.name for event in told]
    assert [("tag", (1,))] == [(ref.subject, ref.key) for ref in told[3].payload["removed"]]


def test_what_no_session_has_is_no_change_of_a_collection(db):
    """SQLAlchemy writes no row for it, and warns."""
    links = links_of_posts_and_tags()

    class Tag(BaseModel):
        id = IntegerField(primary_key=True)

    class Post(BaseModel):
        id = IntegerField(primary_key=True)
        tags = relationship(Tag, secondary=links, cascade="")

    with db.session() as session:
        session.add(tag := Tag(id=1))
        session.add(Post(id=1, tags=[tag, Tag(id=2)]))
        with pytest.warns(SAWarning, match="not in session"):
            session.commit()

    (told,) = (event for event in log(db) if event.name == "post.tags.changed")
    assert [("tag", (1,))] == [(ref.subject, ref.key) for ref in told.payload["added"]]


def test_a_statement_that_others_rewrite_is_told_as_it_ran(db):
    """A tenant's listener narrows every statement: what it kept is not told."""
    User = make_user()
    execute(db, insert(User), NAMES)
    with db.session() as session:

        @event.listens_for(session, "do_orm_execute")
        def narrow(state):
            state.statement = state.statement.options(with_loader_criteria(User, User.name == "Bob"))

        session.execute(update(User).values(visits=5))
        session.commit()

    assert ["Bob"] == [e.payload["name"] for e in log(db) if e.name == "user.updated"]
    assert 1 == len(User.find(User.visits == 5))


def test_setting_the_primary_key_is_refused(db):
    User = make_user()

    with pytest.raises(BulkRefused, match="it sets the primary key"):
        execute(db, update(User).where(User.id == 1).values(id=2))


def test_select_is_left_alone(db):
    User = make_user()

    assert [] == execute(db, select(User)).all()


def test_a_statement_that_puts_rows_into_the_trash_says_so(db):
    class Page(earnorm.SoftDelete):
        id = IntegerField(primary_key=True)

    Page(id=1).save()
    execute(db, update(Page).values(trashed_at=datetime(2026, 1, 1, tzinfo=UTC)))
    execute(db, update(Page), [{"id": 1, "trashed_at": None}])

    assert ["page.created", "page.trashed", "page.restored"] == names(db)


def test_a_bulk_method_writes_nothing_else_that_is_dirty(db):
    """Telling of it ended a subtransaction, whose end flushed the Session: another record was written too early."""
    User = make_user()
    ada, eve = (User(name=name, email=f"{name}@example.com").save() for name in ("Ada", "Eve"))

    with db.session() as session:
        ada, eve = session.get(User, ada.id), session.get(User, eve.id)
        ada.name, eve.name = "Ada L.", "Eve M."
        session.bulk_save_objects([ada])

        assert [eve] == [record for record in session.dirty if record is eve]
        session.rollback()


def test_a_class_that_was_unmapped_since_is_passed_over(db):
    class Base(DeclarativeBase):
        pass

    class Passing(DeclarativeBase):
        metadata = Base.metadata

    class Whole(Base):
        __tablename__ = "wholes"
        id: Mapped[int] = mapped_column(primary_key=True)

        @post_delete
        def gone(self): ...

    class Part(Passing):
        __tablename__ = "parts"
        id: Mapped[int] = mapped_column(primary_key=True)
        whole_id: Mapped[int] = mapped_column(ForeignKey("wholes.id", ondelete="CASCADE"))

    earnorm.attach(Base)
    earnorm.attach(Passing)
    Base.metadata.create_all(db.engine)
    Passing.registry.dispose()

    with db.session() as session:
        session.add(whole := Whole(id=1))
        session.commit()
        session.delete(whole)
        session.commit()

        assert session.get(Whole, 1) is None


@pytest.mark.parametrize("table", ["order", "Users", 'a"b', "plain"])
def test_an_upsert_and_what_is_beside_it_mind_names_that_must_be_quoted(db, table):
    class Thing(BaseModel):
        __tablename__ = table
        key = IntegerField(primary_key=True, column="group")
        value = StringField(default="", column="Select")

    execute(db, upsert(db, Thing).values([{"key": 1, "value": "a"}]))
    statement = upsert(db, Thing).values([{"key": 1, "value": "b"}, {"key": 2, "value": "c"}])
    new = statement.excluded["Select"]
    execute(db, statement.on_conflict_do_update(index_elements=["group"], set_={"Select": new}))
    execute(db, update(Thing).where(Thing.key == 2).values(value="d"))
    execute(db, delete(Thing))
    told = ["thing.created", "thing.created", "thing.updated", "thing.updated", "thing.deleted", "thing.deleted"]
    assert told == names(db)


# --- inside another statement --------------------------------------------------


@pytest.mark.parametrize("build", [insert, update, delete], ids=["insert", "update", "delete"])
def test_a_cte_that_writes_a_model_is_refused_where_it_is_built(build):
    User = make_user()
    statement = build(User)
    with pytest.raises(BulkRefused, match=rf"{type(statement).__name__}\.cte\(\) of User.*RETURNING.*__table__"):
        statement.returning(User.id).cte("written")


def test_a_cte_that_writes_a_table_or_a_model_that_nobody_hears_is_built():
    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)

    earnorm.attach(Base)
    assert update(Row).values(id=1).returning(Row.id).cte("written") is not None
    assert insert(make_user().__table__).values(name="Ada").cte("written") is not None

    @event_handler("row.updated", name="hear rows")
    def hear(row): ...

    with pytest.raises(BulkRefused, match="of Row"):
        update(Row).values(id=1).returning(Row.id).cte("written")


WRITES = [
    pytest.param(lambda user: insert(user).values(id=3, name="Ada"), id="insert"),
    pytest.param(lambda user: update(user).values(name="Ada"), id="update"),
    pytest.param(lambda user: delete(user), id="delete"),
]


@pytest.mark.parametrize(
    "build, told",
    [
        (WRITES[0].values[0], ("user.created", "user:3")),
        (WRITES[1].values[0], ("user.updated", "user:1")),
        (WRITES[2].values[0], ("user.deleted", "user:1")),
    ],
)
def test_a_write_inside_a_select_is_told(db, build, told):
    """`select(User).from_statement(insert(User).returning(User))` wrote its rows and told nothing."""
    User = make_user()
    User(id=1, name="Bob").save()
    with db.session() as session:
        heard = []
        event.listen(session, "do_orm_execute", lambda state: heard.append(state.is_from_statement))
        statement = select(User).from_statement(build(User).returning(User))
        (found,) = session.scalars(statement.execution_options(populate_existing=True))
        assert told[1] == f"user:{found.id}"
        assert 1 == heard.count(True)
        # What reads the rows before the UPDATE or DELETE is a SELECT.
        assert (told[0] != "user.created") == (False in heard)
        session.commit()
        assert [] == session.scalars(select(User).from_statement(select(User).where(User.id == 9))).all()
    assert [("user.created", "user:1"), told] == [(each.name, each.key) for each in log(db)]


@pytest.mark.parametrize("build", WRITES)
def test_a_write_inside_a_select_of_something_else_is_refused(db, build):
    User = make_user()
    User(id=1, name="Bob").save()
    with db.session() as session:
        with pytest.raises(BulkRefused, match=r"in select\(\.\.\.\)\.from_statement\(\) of User.*returning"):
            session.execute(select(User.name).from_statement(build(User).returning(User.id, User.name)))
        assert ["Bob"] == session.scalars(select(User.name)).all()


def test_a_write_by_a_lambda_is_told(db):
    User = make_user()
    User(id=1, name="Bob").save()
    execute(db, lambda_stmt(lambda: update(User)) + (lambda statement: statement.values(visits=3)))
    execute(db, lambda_stmt(lambda: delete(User)))
    assert ["user.created", "user.updated", "user.deleted"] == names(db)


@pytest.mark.parametrize("build", WRITES)
def test_a_write_of_a_model_on_a_connection_is_refused(db, build):
    """No Session is there to tell of it; `connection.execute(update(User))` wrote its rows and told nothing."""
    User = make_user()
    User(id=1, name="Bob").save()
    with db.engine.begin() as connection:
        with pytest.raises(BulkRefused, match=r"on a Connection of User.*session\.execute.*__table__"):
            connection.execute(build(User))
        assert ["Bob"] == connection.scalars(select(User.name)).all()
        connection.execute(insert(User.__table__).values(id=2, name="Cy", visits=0))
    with db.engine.connect() as connection, Session(connection) as session:
        session.execute(build(User))
        session.commit()
    assert len(names(db)) >= 2


# --- upserts ---------------------------------------------------------------------


def make_setting():
    fields = {
        "id": IntegerField(primary_key=True),
        "scope": StringField(default="global"),
        "name": StringField(),
        "place": StringField(default=lambda: "here"),
        "value": IntegerField(default=0),
        "__table_args__": (UniqueConstraint("scope", "name"), UniqueConstraint("place", "name")),
    }
    return type("Setting", (BaseModel,), {"__module__": __name__, "__qualname__": "Setting", **fields})


@pytest.mark.parametrize("in_list", [False, True], ids=["values", "list"])
def test_an_upsert_knows_the_row_that_it_meets_by_a_default(db, in_list):
    """SQLite told `created` of the row that was there, and PostgreSQL gave up after five looks."""
    Setting = make_setting()
    Setting(id=1, name="lang").save()
    given = {"id": 2, "name": "lang", "value": 7}
    statement = upsert(db, Setting) if in_list else upsert(db, Setting).values(given)
    statement = statement.on_conflict_do_update(index_elements=["scope", "name"], set_={"value": 7})
    execute(db, statement, [given] if in_list else None)
    assert ["setting.created", "setting.updated"] == names(db)
    assert {"value": (0, 7)} == pairs(log(db)[-1])


def test_an_upsert_that_only_the_database_can_match_is_refused(db):
    Setting = make_setting()
    Setting(id=1, name="lang").save()
    statement = upsert(db, Setting).values(name="lang", value=7)
    statement = statement.on_conflict_do_update(index_elements=["place", "name"], set_={"value": 7})
    with pytest.raises(BulkRefused, match=r"place gets its default only as the row is inserted.*give a value"):
        execute(db, statement)
    assert ["setting.created"] == names(db)


def test_an_upsert_that_gives_a_row_another_key_is_refused(db):
    """It told of a new record and forgot the old one."""
    Setting = make_setting()
    Setting(id=1, name="lang").save()
    statement = upsert(db, Setting).values(id=2, name="lang", value=7)
    new = {column.name: column for column in statement.excluded}
    for sets in (new, {Setting.id: 2}):
        with pytest.raises(BulkRefused, match="sets the primary key 'id'; leave that out of set_"):
            execute(db, statement.on_conflict_do_update(index_elements=["scope", "name"], set_=sets))
    # By the key itself it stays what it is.
    execute(db, statement.values(id=1).on_conflict_do_update(index_elements=["id"], set_=new))
    assert ["setting.created", "setting.updated"] == names(db)


def test_an_upsert_into_a_partitioned_table_is_told(db, kind):
    """PostgreSQL gives no xmax of its rows back, and the upsert failed."""
    if kind == "sqlite":
        pytest.skip("SQLite has no partitions")

    class Reading(BaseModel):
        id = IntegerField(primary_key=True)
        day = IntegerField(primary_key=True)
        value = IntegerField(default=0)
        __table_args__ = {"postgresql_partition_by": "RANGE (day)"}

    db.ready()
    with db.engine.begin() as connection:
        for number in (0, 1):
            limits = f"FROM ({10 * number}) TO ({10 * number + 10})"
            connection.exec_driver_sql(f"CREATE TABLE readings_{number} PARTITION OF readings FOR VALUES {limits}")
    execute(db, insert(Reading), [{"id": 1, "day": 1}, {"id": 1, "day": 11}])
    for value in (5, 6):
        statement = upsert(db, Reading)
        statement = statement.on_conflict_do_update(index_elements=["id", "day"], set_={"value": value})
        execute(db, statement, [{"id": 1, "day": 11}, {"id": value, "day": 2}])
    assert ["created", "created"] == [name.removeprefix("reading.") for name in names(db)[:2]]
    told = sorted((found.name, found.key, str(pairs(found))) for found in log(db)[2:])
    assert [
        ("reading.created", "reading:5/2", "{}"),
        ("reading.created", "reading:6/2", "{}"),
        ("reading.updated", "reading:1/11", "{'value': (0, 5)}"),
        ("reading.updated", "reading:1/11", "{'value': (5, 6)}"),
    ] == told


def test_insert_or_replace_is_refused(db):
    """It told `created` of rows that were there, and nothing of those that it deleted."""
    User = make_user()
    User(id=1, name="Ada").save()
    with pytest.raises(BulkRefused, match=r"OR REPLACE deletes rows.*on_conflict_do_update"):
        execute(db, insert(User).prefix_with("OR REPLACE"), [{"id": 1, "name": "Bob"}])
    assert ["user.created"] == names(db)


# --- classes of one table --------------------------------------------------------


def make_papers(db):
    class Paper(BaseModel):
        id = IntegerField(primary_key=True)
        title = StringField(unique=True)

    class Memo(Paper):
        text = StringField(required=False)

    class Bill(Paper):
        total = IntegerField(required=False)

    Memo(id=1, title="m").save()
    Bill(id=2, title="b", total=3).save()
    return Paper, Memo, Bill


def test_a_statement_that_changes_the_class_of_its_rows_is_refused(db):
    """It told nothing, though one record went and another came."""
    Paper, Memo, _ = make_papers(db)
    told = names(db)
    for model in (Paper, Memo):
        with pytest.raises(BulkRefused, match=f"of {model.__name__}.*sets 'kind'.*__table__"):
            execute(db, update(model).values(kind="bill"))
    for given in ({"id": 1, "kind": "bill"}, {"id": 1, "kind": "unheard"}):
        with pytest.raises(BulkRefused, match="sets 'kind' of Memo 1"):
            execute(db, update(Paper), [given])
        with db.session() as session, pytest.raises(BulkRefused, match="sets 'kind' of Memo 1"):
            session.bulk_update_mappings(Paper, [given])
    assert told == names(db)
    execute(db, update(Paper), [{"id": 1, "kind": "memo", "title": "n"}, {"id": 2, "kind": "bill", "title": "b"}])
    assert [*told, "memo.updated"] == names(db)


def test_an_upsert_that_meets_a_record_of_another_class_is_refused(db):
    """It was a KeyError."""
    _, Memo, Bill = make_papers(db)
    told = names(db)
    for model, met in ((Bill, "Memo 1"), (Memo, "Bill 2")):
        statement = upsert(db, model)
        statement = statement.on_conflict_do_update(index_elements=["title"], set_={"title": "new"})
        title = "m" if model is Bill else "b"
        with pytest.raises(BulkRefused, match=f"it meets {met}, a record of another class"):
            execute(db, statement, [{"id": 9, "title": title}])
    assert told == names(db)


def test_classes_told_apart_by_an_expression_are_told_by_their_own_names(db):
    """Rows were told as records of the class that the statement names."""

    class Base(DeclarativeBase):
        pass

    class Account(Base):
        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        code: Mapped[str]
        value: Mapped[int] = mapped_column(default=0)
        __mapper_args__ = {
            "polymorphic_on": case(
                (func.substr(literal_column("accounts.code"), 1, 1) == "S", "savings"), else_="account"
            ),
            "polymorphic_identity": "account",
        }

    class Savings(Account):
        __mapper_args__ = {"polymorphic_identity": "savings"}

    earnorm.attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    execute(db, insert(Account), [{"id": 1, "code": "A1"}, {"id": 2, "code": "S1"}])
    execute(db, update(Account).values(value=Account.value + 1))
    execute(db, update(Account), [{"id": 1, "value": 5}, {"id": 2, "value": 5}])
    execute(db, delete(Account).returning(Account.id))
    told = [
        f"{subject}.{verb}"
        for verb in ("created", "updated", "updated", "deleted")
        for subject in ("account", "savings")
    ]
    assert told == names(db)
    assert {"id": 2, "code": "S1", "value": 5} == dict(log(db)[-1].payload)
