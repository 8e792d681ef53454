"""Models: reading, writing, keys, defaults, names, and that they are SQLAlchemy models like any other."""

import asyncio
import copy
import pickle
import sys
from datetime import datetime
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.orm import relationship

from earnorm import (
    BaseModel,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    StringField,
    UUIDField,
    connect,
    event_handler,
    on_event,
    post_save,
    pre_save,
)
from earnorm.errors import NotFound, StaleRecord, UnknownField, ValidationFailed
from tests.flows.stories import log, names, pairs

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


def make_user():
    class User(BaseModel):
        name = StringField()
        nick = StringField(required=False)
        visits = IntegerField(default=0)

    return User


def test_save_returns_the_record():
    User = make_user()
    user = User(name="Ada")

    assert user is user.save()


async def test_asave_returns_the_record():
    user = make_user()(name="Ada")

    assert user is await user.asave()


def test_get_finds_by_key_and_raises_otherwise():
    User = make_user()
    user = User(name="Ada").save()

    assert "Ada" == User.get(user.id).name
    with pytest.raises(NotFound, match="no User has the primary key"):
        User.get(uuid4())


async def test_aget_and_afind_are_their_twins():
    User = make_user()
    user = await User(name="Ada").asave()

    assert "Ada" == (await User.aget(user.id)).name
    assert ["Ada"] == [found.name for found in await User.afind(User.name == "Ada")]
    with pytest.raises(NotFound):
        await User.aget(uuid4())


async def test_no_record_has_the_key_none():
    """SQLAlchemy warned of it on the way, and warnings are errors here."""
    User = make_user()

    for door in (User.aget, partial(asyncio.to_thread, User.get)):
        with pytest.raises(NotFound, match="no User has the primary key None"):
            await door(None)


def test_find_takes_expressions_and_values():
    User = make_user()
    for name, visits in (("Ada", 1), ("Bob", 5), ("Cy", 9)):
        User(name=name, visits=visits).save()

    assert ["Bob"] == [user.name for user in User.find(User.visits > 1, User.visits < 9)]
    assert ["Cy"] == [user.name for user in User.find(name="Cy")]
    assert ["Cy"] == [user.name for user in User.find(User.visits > 1, name="Cy")]
    assert 3 == len(User.find())
    assert [] == User.find(name="Dan")
    with pytest.raises(UnknownField, match="nome"):
        User.find(nome="Ada")


def test_a_composite_key_is_a_tuple():
    class Line(BaseModel):
        order = IntegerField(primary_key=True)
        number = IntegerField(primary_key=True)

    Line(order=1, number=2).save()

    assert (1, 2) == (Line.get((1, 2)).order, Line.get((1, 2)).number)
    for key in ((None, None), (1, None), (None, 2)):
        with pytest.raises(NotFound):
            Line.get(key)


def test_refresh_loads_over_unsaved_changes():
    User = make_user()
    user = User(name="Ada").save()
    other = User.get(user.id)
    other.name = "Bob"
    other.save()
    user.name = "Cy"

    assert "Bob" == user.refresh().name
    assert {} == dict(user.changes)


def test_refresh_of_a_row_that_is_gone_says_so():
    User = make_user()
    user = User(name="Ada").save()
    User.get(user.id).delete()

    with pytest.raises(NotFound):
        user.refresh()


def test_changes_tell_what_is_not_saved_yet():
    User = make_user()
    user = User(name="Ada").save()
    assert {} == dict(user.changes)

    user.name = "Bob"
    assert {"name": ("Ada", "Bob")} == {field: tuple(change) for field, change in user.changes.items()}

    user.save()
    assert {} == dict(user.changes)


def test_changes_in_a_handler_are_those_of_its_event():
    class User(BaseModel):
        name = StringField()

        @pre_save
        def before(self):
            seen.append({field: tuple(change) for field, change in self.changes.items()})

        @post_save
        def after(self):
            seen.append({field: tuple(change) for field, change in self.changes.items()})

    user = User(name="Ada").save()
    seen.clear()
    user.name = "Bob"
    user.save()

    assert [{"name": ("Ada", "Bob")}] * 2 == seen


def test_a_key_is_made_at_construction_and_grows_with_time():
    User = make_user()
    first, second = User(name="Ada"), User(name="Bob")

    assert isinstance(first.id, UUID)
    assert 7 == first.id.version
    assert first.id < second.id


def test_a_key_may_be_given():
    User = make_user()
    key = uuid4()

    assert key == User(id=key, name="Ada").save().id == User.get(key).id


def test_a_declared_primary_key_leaves_no_automatic_id():
    class Country(BaseModel):
        code = StringField(primary_key=True)

    Country(code="dk").save()

    assert "dk" == Country.get("dk").code
    assert ["code"] == list(Country.__table__.columns.keys())


def test_a_key_numbered_by_the_database_is_known_in_post_hooks_and_the_log(db):
    class Ticket(BaseModel):
        number = IntegerField(primary_key=True)
        text = StringField()

        @post_save
        def saved(self, event):
            seen.append((self.number, event.key))

    Ticket(text="one").save()

    assert [(1, "ticket:1")] == seen
    assert ["ticket:1"] == [event.key for event in log(db)]


def test_defaults_are_set_at_construction():
    class Order(BaseModel):
        status = StringField(default="open")
        code = UUIDField(default=uuid4)

    first, second = Order(), Order()

    assert ("open", True) == (first.status, first.code != second.code)
    assert "paid" == Order(status="paid").status


def test_fields_are_required_unless_told_otherwise():
    User = make_user()

    with pytest.raises(ValidationFailed, match="name"):
        User().save()
    assert None is User(name="Ada").save().nick


def test_a_failed_validation_writes_and_tells_nothing(db, look):
    User = make_user()
    User(name="Ada").save()

    with pytest.raises(ValidationFailed) as raised:
        User(name=3, visits="many").save()

    assert {"name", "visits"} == {fault.field for fault in raised.value.faults}
    assert (1, ["user.created"]) == (look.rows("users"), names(db))


def test_a_pre_hook_may_still_make_a_record_valid():
    class User(BaseModel):
        name = StringField()
        slug = StringField()

        @pre_save
        def fill(self):
            self.slug = self.name.lower()

    assert "ada" == User(name="Ada").save().slug


def test_equality_is_identity():
    User = make_user()
    user = User(name="Ada").save()
    again = User.get(user.id)

    assert user == user
    assert user != again
    assert 2 == len({user, again})


def test_values_stay_readable_after_the_commit():
    user = make_user()(name="Ada").save()

    assert ("Ada", 0) == (user.name, user.visits)


def test_attributes_that_are_no_fields_are_never_stored():
    User = make_user()
    user = User(name="Ada")
    user.mood = "good"
    user.save()

    assert not hasattr(User.get(user.id), "mood")


def test_the_specs_updated_at_is_an_attribute_like_any_other():
    class User(BaseModel):
        name = StringField()

        @pre_save
        def before_save(self):
            self.updated_at = datetime.now()

    user = User(name="Ada").save()

    assert isinstance(user.updated_at, datetime)


def test_a_naive_datetime_means_local_time_and_comes_back_aware():
    class Meeting(BaseModel):
        at = DateTimeField()

    now = datetime.now()
    meeting = Meeting(at=now).save()

    found = Meeting.get(meeting.id).at
    assert found.tzinfo is not None
    assert now.astimezone() == found


def test_names_follow_the_class_and_may_be_set(db):
    class OrderLine(BaseModel):
        text = StringField()

    class Legacy(BaseModel):
        __tablename__ = "old_things"
        __event_name__ = "thing"
        text = StringField()

    assert ("order_lines", "order_line") == (OrderLine.__tablename__, OrderLine.__event_name__)
    Legacy(text="one").save()
    assert ("old_things", ["thing.created"]) == (Legacy.__tablename__, names(db))


def test_an_event_of_a_model_is_its_name_checked_when_made():
    User = make_user()

    assert "user.created" == User.event("created") == User.event("user.created")
    with pytest.raises(Exception, match="no event name"):
        User.event("crea ted")


def test_a_column_may_be_named_created(db):
    class Order(BaseModel):
        created = StringField()

    Order(created="yesterday").save()

    assert ["yesterday"] == [order.created for order in Order.find(created="yesterday")]


def test_optimistic_locking_refuses_the_second_writer():
    class Account(BaseModel, version=True):
        balance = IntegerField()

    account = Account(balance=1).save()
    other = Account.get(account.id)
    account.balance = 2
    account.save()
    other.balance = 3

    with pytest.raises(StaleRecord, match="refresh"):
        other.save()


def test_models_work_with_relationships_and_select(db):
    class Author(BaseModel):
        name = StringField()
        books = relationship("Book", back_populates="author")

    class Book(BaseModel):
        title = StringField()
        author_id = ForeignKeyField("Author")
        author = relationship("Author", back_populates="books")

    author = Author(name="Ada", books=[Book(title="one"), Book(title="two")]).save()

    assert sorted(["author.created", "book.created", "book.created"]) == sorted(names(db))
    assert "author.created" == names(db)[0]
    with db.transaction() as transaction:
        titles = transaction.session.scalars(select(Book.title).where(Book.author_id == author.id).order_by(Book.title))
        assert ["one", "two"] == list(titles)


def test_a_model_defined_after_the_connection_gets_its_table(db):
    class Late(BaseModel):
        text = StringField()

    Late(text="one").save()

    assert ["late.created"] == names(db)


async def test_and_an_async_session_finds_it(db):
    class Late(BaseModel):
        text = StringField()

    dialect = db.async_engine.sync_engine.dialect
    async with db.asession() as session:
        begin = dialect.do_begin
        session.add(Late(text="one"))
        await session.commit()

    assert ["late.created"] == await asyncio.to_thread(names, db)
    assert begin != dialect.do_begin  # nothing stands before a transaction once all is there


def test_a_handler_defined_after_the_connection_hears_what_comes_next(db):
    User = make_user()
    User(name="before").save()

    @User.on("created", name="late")
    def created(user):
        seen.append(user.name)

    User(name="after").save()
    db.drain()

    assert ["after"] == seen


def test_a_handler_defined_in_a_transaction_misses_nothing_of_it(db):
    User = make_user()

    with db.transaction():
        user = User(name="Ada").save()

        @User.on("read", name="late")
        def read(user):
            seen.append(user.name)

        user.emit("read")
    db.drain()

    assert ["Ada"] == seen


def test_events_stay_for_a_handler_that_comes_with_the_next_start(path, tmp_path):
    User = make_user()
    url = f"sqlite:///{tmp_path}/restart.db"

    @event_handler("user.created", name="welcome")
    def welcome(user):
        seen.append(user.name)

    with connect(url, name="default2", worker=False) as first, first.transaction():
        User(name="Ada").save()
    with connect(url, name="default2", worker=False) as second:
        second.drain()

    assert ["Ada"] == seen


def test_an_emit_inside_a_handler_is_about_any_record(db):
    class User(BaseModel):
        name = StringField()

        @on_event("greeted")
        def on_greeted(self, by):
            seen.append((self.name, by.name))

        @on_event("met")
        def on_met(self, whom):
            whom.emit("greeted", by=self)

    ada, bob = User(name="Ada").save(), User(name="Bob").save()
    ada.emit("met", whom=bob)

    assert [("Bob", "Ada")] == seen


def test_a_field_that_is_said_to_be_no_secret_draws_no_warning():
    class Service(BaseModel):
        token = StringField(sensitive=False)

    with pytest.warns(UserWarning, match=r"Account2\.password looks like a secret"):

        class Account2(BaseModel):
            password = StringField()

    assert (Service, Account2) == (Service, Account2)


def test_a_record_that_could_not_be_saved_can_be_read_mended_and_saved(db):
    """Its rollback left it expired and without a session: reading a field raised DetachedInstanceError."""

    class User(BaseModel):
        name = StringField(max_length=3)
        note = StringField(default="")

    user = User(name="Ada").save()
    user.name = "Augusta"
    with pytest.raises(ValidationFailed):
        user.save()
    assert ("Augusta", "") == (user.name, user.note)
    user.name = "Eve"
    user.save()

    assert {"name": ("Ada", "Eve")} == pairs(log(db)[-1])


def test_a_record_read_in_a_transaction_that_failed_can_be_read(db):
    class User(BaseModel):
        name = StringField()

    key = User(name="Ada").save().id
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            user = User.get(key)
            1 / 0

    assert "Ada" == user.name


def test_a_copy_of_a_record_saves_itself(db):
    """It shared SQLAlchemy's state with the original: its save wrote nothing, without a word."""
    User = make_user()
    user = User(name="Ada").save()
    user.nick = "countess"
    twin = copy.copy(user)

    twin.name = "Eve"
    twin.save()

    found = User.get(user.id)
    assert ("Eve", "countess", "Ada") == (found.name, found.nick, user.name)
    assert {"name": ("Ada", "Eve"), "nick": (None, "countess")} == pairs(log(db)[-1])


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_a_copy_of_a_new_record_is_new(db, monkeypatch, twin_of):
    class Person(BaseModel):
        name = StringField()

    # Where pickle looks for it.
    Person.__qualname__ = "Person"
    monkeypatch.setattr(sys.modules[__name__], "Person", Person, raising=False)
    user = Person(name="Ada")
    twin = twin_of(user)
    twin.save()

    assert ["Ada"] == [found.name for found in Person.find()]
    user.name = "Eve"
    assert "Ada" == twin.name
