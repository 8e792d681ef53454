"""Arguments: what a handler may take, by name and by type, in every phase."""

from dataclasses import dataclass
from types import FunctionType

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from earnorm import (
    BaseModel,
    Change,
    Event,
    StringField,
    event_handler,
    event_type,
    on_event,
    on_event_async,
    post_delete,
    post_save,
    post_save_async,
    pre_save,
    pre_save_async,
)
from earnorm.errors import UnsatisfiableArgument
from tests.flows.stories import log

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


def model(hook, decorator=post_save):
    class Note(BaseModel):
        text = StringField()
        size = StringField(default="small")

        hooked = decorator(fresh(hook))

    return Note


def fresh(hook):
    """A function of its own, since a decorator marks the one it is given."""
    made = FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__)
    made.__qualname__, made.__kwdefaults__, made.__annotations__ = (
        hook.__qualname__,
        hook.__kwdefaults__,
        hook.__annotations__,
    )
    return made


class In:
    """Hooks by what they take; in a class, as decorators want them."""

    def event(self, event):
        seen.append((str(event), event.subject is self, event.key == f"note:{self.id}"))

    def changes(self, changes):
        seen.append(changes)

    def created(self, created):
        seen.append(created)

    def session(self, session):
        seen.append((type(session), self in session))

    def context(self, context):
        seen.append((context.event.name, context.database, context.attempt, context.handler.rpartition(".")[2]))

    def old_and_new(self, old_text, new_text):
        seen.append((old_text, new_text))

    def any_order(self, new_text, event, old_text, created, changes):
        seen.append((old_text, new_text, created, set(changes), event.name))

    def field_values(self, text, size):
        seen.append((text, size))

    def rest(self, text, **data):
        seen.append((text, set(data)))

    def keyword_only(self, *, text):
        seen.append(text)

    def everything(*everything):
        seen.append(len(everything))

    def typed(self, happened: Event):
        seen.append(happened.name)

    def typed_session(self, connection: Session):
        seen.append(type(connection))

    def defaulted(self, colour="red"):
        seen.append(colour)


def test_the_event_and_its_key():
    model(In.event)(text="one").save()

    assert [("note.created", True, True)] == seen


def test_changes_of_a_creation_and_of_an_update():
    note = model(In.changes)(text="one").save()
    note.text = "two"
    note.save()

    assert {"text": Change("one", "two")} == seen[1]


def test_created_tells_a_creation_from_an_update():
    note = model(In.created)(text="one").save()
    note.text = "two"
    note.save()

    assert [True, False] == seen


def test_a_hook_in_the_transaction_may_have_its_session():
    model(In.session)(text="one").save()

    assert [(Session, True)] == seen


async def test_a_plain_hook_gets_a_plain_session_under_asave_as_well():
    await model(In.session)(text="one").asave()

    assert [(Session, True)] == seen


async def test_an_async_hook_gets_the_async_session():
    class Note(BaseModel):
        text = StringField()

        @pre_save_async
        async def check(self, session):
            seen.append((type(session), self in session))

    await Note(text="one").asave()

    assert [(AsyncSession, True)] == seen


def test_the_context_says_who_runs_and_where():
    model(In.context)(text="one").save()

    assert [("note.created", "default", 1, "context")] == seen


def test_old_and_new_of_an_update():
    note = model(In.old_and_new)(text="one").save()
    seen.clear()
    note.text = "two"
    note.save()

    assert [("one", "two")] == seen


def test_old_and_new_of_a_field_that_did_not_change_are_its_value():
    note = model(In.old_and_new)(text="one").save()
    seen.clear()
    note.size = "large"
    note.save()

    assert [("one", "one")] == seen


def test_new_of_a_creation_and_old_of_a_deletion_are_the_value():
    class Note(BaseModel):
        text = StringField()

        @post_save
        def saved(self, new_text):
            seen.append(("new", new_text))

        @post_delete
        def deleted(self, old_text):
            seen.append(("old", old_text))

    Note(text="one").save().delete()

    assert [("new", "one"), ("old", "one")] == seen


def test_names_count_wherever_they_stand():
    note = model(In.any_order)(text="one").save()
    seen.clear()
    note.text = "two"
    note.save()

    assert [("one", "two", False, {"text"}, "note.updated")] == seen


def test_a_fields_name_is_its_value():
    model(In.field_values)(text="one").save()

    assert [("one", "small")] == seen


def test_the_rest_goes_to_the_stars():
    model(In.rest)(text="one").save()

    assert [("one", {"id", "size"})] == seen


def test_keyword_only_arguments_are_given_by_keyword():
    model(In.keyword_only)(text="one").save()

    assert ["one"] == seen


def test_stars_alone_take_the_subject():
    model(In.everything)(text="one").save()

    assert [1] == seen


def test_a_type_says_as_much_as_a_name():
    model(In.typed)(text="one").save()
    assert ["note.created"] == seen


def test_a_session_is_known_by_its_type():
    model(In.typed_session)(text="two").save()

    assert [Session] == seen


def test_a_default_makes_an_argument_optional():
    model(In.defaulted)(text="one").save()

    assert ["red"] == seen


def test_a_pre_hook_has_changes_and_the_event_too():
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def before(self, changes, event, old_text, new_text, created):
            seen.append((set(changes), event.name, old_text, new_text, created))

    note = Note(text="one").save()
    seen.clear()
    note.text = "two"
    note.save()

    assert [({"text"}, "note.updated", "one", "two", False)] == seen


# --- the spec's signatures ---


def test_the_specs_signatures_work_as_written(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("status_change")
        def handle_status_change(self, old_status, new_status):
            seen.append(("status_change", old_status, new_status))

        @on_event("payment_received")
        def handle_payment(self, payment):
            seen.append(("payment", payment))
            self.status = "paid"
            self.save()

    class User(BaseModel):
        name = StringField()

    @event_handler("user.created", name="welcome")
    def handle_user_created(user):
        seen.append(("welcome", user.name))

    @event_handler(["user.login", "user.logout"], name="activity")
    def log_user_activity(user, event):
        seen.append((user.name, str(event)))

    @User.on("password_changed", name="password")
    def handle_password_change(user):
        seen.append(("password", user.name))

    order = Order().save()
    order.emit("payment_received", payment=12)
    assert [("payment", 12), ("status_change", "open", "paid")] == seen

    seen.clear()
    user = User(name="Ada").save()
    user.emit("login")
    user.emit("password_changed")
    user.emit("logout")
    db.drain()
    assert sorted([("welcome", "Ada"), ("Ada", "user.login"), ("password", "Ada"), ("Ada", "user.logout")]) == sorted(
        seen
    )


@pytest.mark.parametrize("spelled", ["status_change", "status_changed", "status.changed", "order.status.changed"])
def test_the_three_spellings_of_a_view_are_one(spelled):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event(spelled)
        def changed(self, old_status, new_status):
            seen.append((old_status, new_status))

    order = Order().save()
    order.status = "paid"
    order.save()

    assert [("open", "paid")] == seen


def test_password_changed_is_a_custom_event_where_there_is_no_such_field(db):
    class User(BaseModel):
        name = StringField()

        @on_event("password_changed")
        def changed(self):
            seen.append("custom")

    User(name="Ada").save().emit("password_changed")

    assert ["custom"] == seen


# --- durable ones ---


def test_a_durable_handler_gets_the_same_arguments(db):
    class Note(BaseModel):
        text = StringField()

    @Note.on("updated", name="all")
    def everything(subject, event, changes, created, context, old_text, new_text, text, **data):
        seen.append((subject.text, event.name, dict(changes), created, old_text, new_text, text, set(data)))
        seen.append((context.handler, context.attempt, context.database))

    note = Note(text="one").save()
    note.text = "two"
    note.save()
    db.drain()

    assert [
        ("two", "note.updated", {"text": Change("one", "two")}, False, "one", "two", "two", {"id"}),
        ("all", 1, "default"),
    ] == seen


def test_a_durable_hook_knows_a_creation(db):
    class Note(BaseModel):
        text = StringField()

        @post_save_async(name="hook")
        async def saved(self, created, text):
            seen.append((created, text))

    note = Note(text="one").save()
    db.drain()
    note.text = "two"
    note.save()
    db.drain()

    assert [(True, "one"), (False, "two")] == seen


def test_a_durable_handler_loads_its_subject_fresh_and_the_payload_has_the_values_at_the_flush(db):
    class Note(BaseModel):
        text = StringField()

    @Note.on("created", name="late")
    def late(note, text):
        seen.append((note.text, text))

    note = Note(text="one").save()
    note.text = "two"
    note.save()
    db.drain()

    assert [("two", "one")] == seen


def test_a_declared_event_arrives_as_its_object_in_every_phase(db):
    @event_type("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        total: int

    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("placed")
        def placed(self, happened: OrderPlaced):
            seen.append(("now", happened))

        @on_event_async("placed", name="later")
        async def later(self, happened: OrderPlaced, total):
            seen.append(("later", happened, total))

    Order().save().emit(OrderPlaced(total=3))
    db.drain()

    assert [("now", OrderPlaced(3)), ("later", OrderPlaced(3), 3)] == seen


def test_a_declared_event_is_kept_with_its_version(db):
    """The log had 1 for all of them, whatever was declared."""

    @event_type("order.placed", version=2)
    @dataclass(frozen=True)
    class OrderPlaced:
        total: int

    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("placed")
        def placed(self, event):
            seen.append(event.version)

        @on_event_async("placed", name="later")
        async def later(self, event):
            seen.append(event.version)

    order = Order().save()
    order.emit(OrderPlaced(total=3))
    order.emit("placed", total=4)
    db.drain()

    assert [2, 2, 2, 2] == seen
    assert {"order.created": 1, "order.placed": 2} == {event.name: event.version for event in log(db)}


def test_what_a_handler_writes_into_its_event_changes_nothing(db):
    """It came into the log, as if it had happened."""

    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("status_change")
        def meddle(self, event, changes):
            event.payload["status"] = "lost"
            with pytest.raises(TypeError, match="assignment"):
                changes["status"] = ("open", "lost")

        @on_event("paid")
        def meddle_again(self, event):
            event.payload["amount"] = 0

        @on_event("paid")
        def pay(self, amount):
            seen.append(amount)

    order = Order().save()
    order.status = "paid"
    order.save()
    order.emit("paid", amount=3)

    _, updated, paid = log(db)
    assert ("paid", ("open", "paid")) == (updated.payload["status"], updated.changes["status"])
    assert [3, 3] == [*seen, paid.payload["amount"]]


def test_a_model_in_a_payload_arrives_loaded(db):
    class User(BaseModel):
        name = StringField()

    class Order(BaseModel):
        status = StringField(default="open")

    @Order.on("bought", name="bought")
    def bought(order, by):
        seen.append((type(by), by.name))

    ada = User(name="Ada").save()
    Order().save().emit("bought", by=ada)
    db.drain()

    assert [(User, "Ada")] == seen


def test_a_durable_handler_that_wants_a_field_nobody_has_is_refused():
    class Note(BaseModel):
        text = StringField()

    with pytest.raises(UnsatisfiableArgument, match="colour"):

        @Note.on("created")
        def created(note, colour):
            pass


def test_names_are_relative_unless_they_start_with_the_own_subject(db):
    class User(BaseModel):
        name = StringField()

        @on_event("login")
        def relative(self):
            seen.append("relative")

        @on_event("user.login")
        def absolute(self):
            seen.append("absolute")

    user = User(name="Ada").save()
    user.emit("login")
    user.emit("user.login")

    assert ["relative", "absolute"] * 2 == seen


def test_the_names_of_a_list_are_relative_too(db):
    """`Model.on` took those of a list for whole names, and its handler never ran."""

    class User(BaseModel):
        name = StringField()

        @on_event(["login", "user.logout"])
        def own(self, event):
            seen.append(f"own {event}")

    @User.on(["login", "name_change"], ["user.logout", "!login"], name="on", delivery="transaction")
    def on(user, event):
        seen.append(f"on {event}")

    user = User(name="Ada").save()
    user.emit("login")
    user.emit("logout")
    user.name = "Bea"
    user.save()

    assert ["own user.login", "own user.logout", "on user.logout", "on user.updated"] == seen
