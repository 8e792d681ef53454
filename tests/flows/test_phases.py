"""When each kind of handler runs, through which door, who may veto, and what the world sees at that moment."""

import pytest
from sqlalchemy.orm import Session

from earnorm import (
    Abort,
    BaseModel,
    StringField,
    emit,
    event_handler,
    event_handler_async,
    on_event,
    on_event_async,
    post_commit,
    post_create,
    post_create_async,
    post_delete,
    post_delete_async,
    post_rollback,
    post_save,
    post_save_async,
    post_update,
    post_update_async,
    pre_create,
    pre_create_async,
    pre_delete,
    pre_delete_async,
    pre_save,
    pre_save_async,
    pre_update,
    pre_update_async,
)
from earnorm.errors import AsyncHandlerUnderSync, NotConnected
from earnorm.testing import expect_failures
from tests.flows.stories import DOORS, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


def model():
    """A model with every plain hook."""

    class Note(BaseModel):
        text = StringField()

        @pre_save
        def a(self):
            seen.append("pre_save")

        @pre_create
        def b(self):
            seen.append("pre_create")

        @pre_update
        def c(self):
            seen.append("pre_update")

        @pre_delete
        def d(self):
            seen.append("pre_delete")

        @post_save
        def e(self):
            seen.append("post_save")

        @post_create
        def f(self):
            seen.append("post_create")

        @post_update
        def g(self):
            seen.append("post_update")

        @post_delete
        def h(self):
            seen.append("post_delete")

        @post_commit
        def i(self):
            seen.append("post_commit")

        @post_rollback
        def j(self):
            seen.append("post_rollback")

    return Note


def hooked(decorator, hook):
    """A model whose one hook does `hook(self)`."""

    class Note(BaseModel):
        text = StringField()

        @decorator
        def hooked(self):
            return hook(self)

    return Note


def hooked_async(decorator, hook):
    class Note(BaseModel):
        text = StringField()

        @decorator
        async def hooked(self):
            return hook(self)

    return Note


@pytest.fixture(params=DOORS.values(), ids=DOORS)
def door(request, db):
    return request.param(db)


@pytest.fixture(params=[DOORS["save"], DOORS["Session"]], ids=["save", "Session"])
def sync_door(request, db):
    return request.param(db)


@pytest.fixture(params=[DOORS["asave"], DOORS["AsyncSession"]], ids=["asave", "AsyncSession"])
def async_door(request, db):
    return request.param(db)


@pytest.fixture(params=[DOORS["Session"], DOORS["AsyncSession"]], ids=["Session", "AsyncSession"])
def memory_door(request, memory):
    return request.param(memory)


def create(door, model):
    note = model(text="one")
    door.create(note)
    return note


# --- the order of a life ---


CREATED = ["pre_save", "pre_create", "post_save", "post_create", "post_commit"]
UPDATED = ["pre_save", "pre_update", "post_save", "post_update", "post_commit"]
DELETED = ["pre_delete", "post_delete", "post_commit"]


def test_a_life_runs_its_hooks_in_order_through_every_door(door):
    note = create(door, model())
    assert CREATED == seen

    seen.clear()
    door.update(note, text="two")
    assert UPDATED == seen

    seen.clear()
    door.delete(note)
    assert DELETED == seen


def test_a_life_runs_the_same_hooks_on_a_bus_in_memory(memory, memory_door):
    Note = model()

    note = create(memory_door, Note)
    memory_door.update(note, text="two")
    memory_door.delete(note)

    assert [*CREATED, *UPDATED, *DELETED] == seen


def test_what_happened_stands_in_the_log_through_every_door(db, door):
    note = create(door, model())
    door.update(note, text="two")
    door.delete(note)

    assert ["note.created", "note.updated", "note.deleted"] == names(db)


def test_save_without_a_database_says_so():
    Note = model()

    with pytest.raises(NotConnected, match=r"Note\.save"):
        Note(text="one").save()


def test_a_clean_record_runs_no_hook(door):
    note = create(door, model())
    seen.clear()

    door.update(note)
    door.update(note, text="one")

    assert [] == seen


def test_a_save_that_changes_nothing_emits_nothing(db, door):
    note = create(door, model())

    door.update(note)
    door.update(note, text="one")

    assert ["note.created"] == names(db)


def test_a_value_set_and_set_back_emits_nothing(db, door):
    note = create(door, model())
    note.text = "two"

    door.update(note, text="one")

    assert ["note.created"] == names(db)


def test_a_pre_hook_that_changes_a_clean_looking_field_is_written(door, look, db):
    class Note(BaseModel):
        text = StringField()
        slug = StringField(required=False)

        @pre_save
        def fill(self):
            self.slug = self.text.lower()

    note = Note(text="One")
    door.create(note)
    door.update(note, text="Two")

    with Session(db.engine) as session:
        assert "two" == session.get(Note, note.id).slug


# --- the async twins inside the transaction ---


PRE_ASYNC = {
    "pre_save_async": (pre_save_async, "save"),
    "pre_create_async": (pre_create_async, "save"),
    "pre_update_async": (pre_update_async, "update"),
    "pre_delete_async": (pre_delete_async, "delete"),
}


def go_through(door, Note, action):
    note = create(door, Note) if action == "save" else None
    if note is None:
        note = Note(text="one")
        door.create(note)
        door.update(note, text="two") if action == "update" else door.delete(note)
    return note


@pytest.mark.parametrize("decorator, action", PRE_ASYNC.values(), ids=PRE_ASYNC)
def test_an_async_pre_hook_is_awaited_in_the_transaction(async_door, look, decorator, action):
    before = {"save": 0, "update": 1, "delete": 1}[action]
    Note = hooked_async(decorator, lambda self: seen.append(look.rows("notes")))

    go_through(async_door, Note, action)

    assert before == seen[-1]


@pytest.mark.parametrize("decorator, action", PRE_ASYNC.values(), ids=PRE_ASYNC)
def test_an_async_pre_hook_may_veto(async_door, db, decorator, action):
    def veto(self):
        raise Abort("no")

    with pytest.raises(Abort, match="no"):
        go_through(async_door, hooked_async(decorator, veto), action)

    assert [] == [name for name in names(db) if name != "note.created"]


@pytest.mark.parametrize("decorator, action", PRE_ASYNC.values(), ids=PRE_ASYNC)
def test_an_async_pre_hook_under_a_sync_door_is_an_error_that_names_it(sync_door, look, decorator, action):
    Note = hooked_async(decorator, seen.append)

    with pytest.raises(AsyncHandlerUnderSync, match=r"Note\.hooked is async"):
        go_through(sync_door, Note, action)

    assert [] == seen


def test_the_error_under_save_names_asave(db):
    with pytest.raises(AsyncHandlerUnderSync, match=r"await asave\(\)"):
        hooked_async(pre_save_async, seen.append)(text="one").save()


def test_the_error_under_emit_names_aemit(db):
    note = hooked_async(on_event_async("read", delivery="transaction"), seen.append)(text="one").save()

    with pytest.raises(AsyncHandlerUnderSync, match=r"await aemit\(\)"):
        note.emit("read")


def test_the_error_of_an_emit_within_a_save_names_asave(db):
    class Note(BaseModel):
        text = StringField()

        @post_save
        def tell(self):
            self.emit("read")

        @on_event_async("read", delivery="transaction")
        async def read(self): ...

    with pytest.raises(AsyncHandlerUnderSync, match=r"await asave\(\)"):
        Note(text="one").save()


def test_the_error_under_delete_names_adelete(db):
    note = hooked_async(pre_delete_async, seen.append)(text="one").save()

    with pytest.raises(AsyncHandlerUnderSync, match=r"await adelete\(\)"):
        note.delete()


# --- what a second connection sees ---


def seen_rows(door, look, decorator, action, make=hooked):
    """The rows of others' connections while the hook of this action runs."""
    Note = make(decorator, lambda self: seen.append((look.rows("notes"), look.rows("earnorm_log"))))
    go_through(door, Note, action)
    return seen[-1]


INSIDE = {
    "pre_save": (pre_save, "save", (0, 0)),
    "pre_create": (pre_create, "save", (0, 0)),
    "post_save": (post_save, "save", (0, 0)),
    "post_create": (post_create, "save", (0, 0)),
    "on_event created": (on_event("created"), "save", (0, 0)),
    "on_event saved": (on_event("saved"), "save", (0, 0)),
    "pre_update": (pre_update, "update", (1, 1)),
    "post_update": (post_update, "update", (1, 1)),
    "on_event updated": (on_event("updated"), "update", (1, 1)),
    "on_event text_change": (on_event("text_change"), "update", (1, 1)),
    "pre_delete": (pre_delete, "delete", (1, 1)),
    "post_delete": (post_delete, "delete", (1, 1)),
    "on_event deleted": (on_event("deleted"), "delete", (1, 1)),
}


@pytest.mark.parametrize("decorator, action, expected", INSIDE.values(), ids=INSIDE)
def test_a_hook_in_the_transaction_runs_before_anybody_sees_the_change(door, look, decorator, action, expected):
    assert expected == seen_rows(door, look, decorator, action)


@pytest.mark.parametrize("decorator, action, expected", INSIDE.values(), ids=INSIDE)
def test_a_hook_in_the_transaction_may_veto_it(door, db, look, decorator, action, expected):
    rows, _ = expected

    def veto(self):
        raise Abort("not today")

    with pytest.raises(Abort, match="not today"):
        go_through(door, hooked(decorator, veto), action)

    assert rows == look.rows("notes")
    assert ["note.created"] * rows == names(db)


@pytest.mark.parametrize("decorator, action, expected", INSIDE.values(), ids=INSIDE)
def test_what_a_hook_in_the_transaction_raises_is_not_wrapped(door, decorator, action, expected):
    error = ValueError("mine")

    def fail(self):
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        go_through(door, hooked(decorator, fail), action)

    assert error is raised.value
    assert any("Note.hooked" in note and "note." in note for note in raised.value.__notes__)


AFTER = {
    "post_commit": (post_commit, "save", (1, 1)),
    "post_save after_commit": (post_save(delivery="after_commit"), "save", (1, 1)),
    "post_create after_commit": (post_create(delivery="after_commit"), "save", (1, 1)),
    "post_update after_commit": (post_update(delivery="after_commit"), "update", (1, 2)),
    "post_delete after_commit": (post_delete(delivery="after_commit"), "delete", (0, 2)),
    "on_event after_commit": (on_event("saved", delivery="after_commit"), "save", (1, 1)),
}


@pytest.mark.parametrize("decorator, action, expected", AFTER.values(), ids=AFTER)
def test_an_after_commit_hook_runs_when_everybody_sees_the_change(door, look, decorator, action, expected):
    assert expected == seen_rows(door, look, decorator, action)


@pytest.mark.parametrize("decorator, action, expected", AFTER.values(), ids=AFTER)
def test_an_after_commit_hook_cannot_veto_and_its_error_reaches_nobody(door, db, look, decorator, action, expected):
    def fail(self):
        raise ValueError("too late")

    with expect_failures() as failures:
        go_through(door, hooked(decorator, fail), action)

    assert expected == (look.rows("notes"), look.rows("earnorm_log"))
    assert {"too late"} == {str(failure.error) for failure in failures}


ASYNC_AFTER = {
    "post_save_async": (post_save_async(delivery="after_commit"), "save", (1, 1)),
    "post_create_async": (post_create_async(delivery="after_commit"), "save", (1, 1)),
    "post_update_async": (post_update_async(delivery="after_commit"), "update", (1, 2)),
    "post_delete_async": (post_delete_async(delivery="after_commit"), "delete", (0, 2)),
    "on_event_async": (on_event_async("created", delivery="after_commit"), "save", (1, 1)),
}


@pytest.mark.parametrize("decorator, action, expected", ASYNC_AFTER.values(), ids=ASYNC_AFTER)
def test_an_async_after_commit_hook_runs_under_every_door(door, look, decorator, action, expected):
    assert expected == seen_rows(door, look, decorator, action, hooked_async)


ASYNC_INSIDE = {
    "post_save_async": (post_save_async(delivery="transaction"), "save", (0, 0)),
    "post_create_async": (post_create_async(delivery="transaction"), "save", (0, 0)),
    "post_update_async": (post_update_async(delivery="transaction"), "update", (1, 1)),
    "post_delete_async": (post_delete_async(delivery="transaction"), "delete", (1, 1)),
    "on_event_async": (on_event_async("created", delivery="transaction"), "save", (0, 0)),
}


@pytest.mark.parametrize("decorator, action, expected", ASYNC_INSIDE.values(), ids=ASYNC_INSIDE)
def test_an_async_hook_moved_into_the_transaction_is_awaited_there(async_door, look, decorator, action, expected):
    assert expected == seen_rows(async_door, look, decorator, action, hooked_async)


@pytest.mark.parametrize("decorator, action, expected", ASYNC_INSIDE.values(), ids=ASYNC_INSIDE)
def test_an_async_hook_moved_into_the_transaction_is_refused_under_sync(sync_door, look, decorator, action, expected):
    with pytest.raises(AsyncHandlerUnderSync):
        go_through(sync_door, hooked_async(decorator, seen.append), action)

    assert [] == seen


# --- durable ones wait for the log to be read ---


DURABLE = {
    "post_save_async": (post_save_async, "save", (1, 1)),
    "post_create_async": (post_create_async, "save", (1, 1)),
    "post_update_async": (post_update_async, "update", (1, 2)),
    "post_delete_async": (post_delete_async, "delete", (0, 2)),
    "on_event_async": (on_event_async("created"), "save", (1, 1)),
}


def durable(decorator, found):
    named = {
        "post_save_async": post_save_async(name="hook"),
        "post_create_async": post_create_async(name="hook"),
        "post_update_async": post_update_async(name="hook"),
        "post_delete_async": post_delete_async(name="hook"),
        "on_event_async": on_event_async("created", name="hook"),
    }
    return hooked_async(named[decorator], lambda self: seen.append(found()))


@pytest.mark.parametrize("decorator", DURABLE)
def test_a_durable_hook_runs_after_the_commit_when_the_log_is_read(db, door, look, decorator):
    _, action, expected = DURABLE[decorator]
    go_through(door, durable(decorator, lambda: (look.rows("notes"), look.rows("earnorm_log"))), action)
    assert [] == seen

    assert 1 == db.drain()["done"]

    assert [expected] == seen


@pytest.mark.parametrize("decorator", DURABLE)
def test_in_memory_a_durable_hook_runs_right_after_the_commit(memory, memory_door, look, decorator):
    Note = durable(decorator, lambda: look.rows("notes"))
    go_through(memory_door, Note, DURABLE[decorator][1])

    rows, _ = DURABLE[decorator][2]
    assert [rows] == seen


def test_a_durable_handler_that_fails_is_counted_and_harms_nobody(db, look):
    Note = model()

    @event_handler("note.created", name="broken")
    def broken(note):
        raise ValueError("no")

    with expect_failures() as failures:
        create(DOORS["save"](db), Note)
        counts = db.drain()

    assert 1 == look.rows("notes")
    assert 1 == counts["retry"]
    assert ["no"] == [str(failure.error) for failure in failures]


def test_event_handlers_of_every_spelling_are_durable(db):
    Note = model()

    @event_handler("note.created", name="plain")
    def plain(note):
        seen.append("event_handler")

    @event_handler_async("note.created", name="async")
    async def asynchronous(note):
        seen.append("event_handler_async")

    @Note.on("created", name="on")
    def on(note):
        seen.append("Model.on")

    @event_handler(Note, name="class")
    def of_class(note):
        seen.append("event_handler(Note)")

    @event_handler(Note.event("created"), name="object")
    def of_object(note):
        seen.append("Note.event")

    create(DOORS["save"](db), Note)
    assert CREATED == seen

    seen.clear()
    assert 5 == db.drain()["done"]
    assert {"event_handler", "event_handler_async", "Model.on", "event_handler(Note)", "Note.event"} == set(seen)


@pytest.mark.parametrize("delivery, expected", [("transaction", 0), ("after_commit", 1), ("durable", 1)])
def test_delivery_moves_a_global_handler(db, door, look, delivery, expected):
    Note = model()

    @event_handler("note.created", delivery=delivery, name="moved")
    def moved(note):
        seen.append(look.rows("notes"))

    note = Note(text="one")
    seen.clear()
    door.create(note)
    if delivery == "durable":
        db.drain()

    assert [expected] == [rows for rows in seen if isinstance(rows, int)]


@pytest.mark.parametrize("delivery, expected", [("transaction", 0), ("after_commit", 1), ("durable", 1)])
def test_delivery_moves_a_models_on(db, door, look, delivery, expected):
    Note = model()

    @Note.on("created", delivery=delivery, name="moved")
    def moved(note):
        seen.append(look.rows("notes"))

    door.create(Note(text="one"))
    if delivery == "durable":
        db.drain()

    assert [expected] == [rows for rows in seen if isinstance(rows, int)]


@pytest.mark.parametrize("decorator", [post_save, post_create, on_event("created")])
def test_delivery_durable_moves_a_hook_behind_the_commit(db, look, decorator):
    options = {"delivery": "durable", "name": "moved"}
    moved = decorator(**options) if decorator in (post_save, post_create) else on_event("created", **options)
    Note = hooked(moved, lambda self: seen.append(look.rows("notes")))

    create(DOORS["save"](db), Note)
    assert [] == seen
    db.drain()

    assert [1] == seen


def test_a_global_handler_in_the_transaction_may_veto(db, door, look):
    Note = model()

    @event_handler("note.created", delivery="transaction", name="veto")
    def veto(note):
        raise Abort("no notes")

    with pytest.raises(Abort, match="no notes"):
        create(door, Note)

    assert 0 == look.rows("notes")
    assert [] == names(db)


# --- custom events ---


def test_a_custom_event_runs_a_models_handler_at_once(db):
    class Note(BaseModel):
        text = StringField()

        @on_event("read")
        def on_read(self, by):
            seen.append((self.text, by))

    note = Note(text="one").save()
    note.emit("read", by="ada")

    assert [("one", "ada")] == seen
    assert ["note.created", "note.read"] == names(db)


async def test_a_custom_event_awaits_nothing_before_its_commit(db, look):
    class Note(BaseModel):
        text = StringField()

        @on_event_async("read", name="later")
        async def on_read(self, by):
            seen.append((look.rows("earnorm_log"), by))

    note = await Note(text="one").asave()
    await note.aemit("read", by="ada")
    assert [] == seen

    await db.adrain()

    assert [(2, "ada")] == seen


def test_a_handler_of_a_custom_event_may_veto_the_emit(db):
    class Note(BaseModel):
        text = StringField()

        @on_event("read")
        def on_read(self):
            raise Abort("private")

    note = Note(text="one").save()

    with pytest.raises(Abort, match="private"):
        note.emit("read")
    assert ["note.created"] == names(db)


def test_an_event_without_a_model_needs_none(db):
    @event_handler("system.started", name="started")
    def started(event):
        seen.append(str(event))

    emit("system.started")
    db.drain()

    assert ["system.started"] == seen


# --- the end of a transaction ---


def test_post_commit_waits_for_the_outermost_commit(db, look):
    Note = model()

    with db.transaction():
        Note(text="one").save()
        with db.transaction():
            Note(text="two").save()
        assert "post_commit" not in seen

    assert 2 == seen.count("post_commit")


def test_post_rollback_runs_after_the_rollback_and_post_commit_does_not(door, db, look):
    class Note(BaseModel):
        text = StringField()

        @post_save
        def fail(self):
            raise ValueError("no")

        @post_commit
        def committed(self):
            seen.append("post_commit")

        @post_rollback
        def rolled_back(self):
            seen.append(("post_rollback", look.rows("notes"), self.text))

    with pytest.raises(ValueError, match="no"):
        create(door, Note)

    assert [("post_rollback", 0, "one")] == seen


def test_post_rollback_runs_for_a_transaction_that_its_block_gave_up(db):
    Note = model()

    with pytest.raises(KeyError):
        with db.transaction():
            Note(text="one").save()
            raise KeyError

    assert ["post_rollback"] == [word for word in seen if word.startswith(("post_commit", "post_rollback"))]


def test_post_rollback_does_not_run_for_what_was_committed(door):
    create(door, model())

    assert "post_rollback" not in seen


def test_a_post_rollback_hook_cannot_hide_why_it_was_rolled_back(db):
    class Note(BaseModel):
        text = StringField()

        @post_rollback
        def fail(self):
            raise ValueError("in the hook")

    with expect_failures() as failures:
        with pytest.raises(KeyError, match="the reason"):
            with db.transaction():
                Note(text="one").save()
                raise KeyError("the reason")

    assert ["in the hook"] == [str(failure.error) for failure in failures]


def test_an_error_in_one_after_commit_handler_does_not_stop_the_next(db):
    Note = model()

    @event_handler("note.created", delivery="after_commit", priority=2)
    def fails(note):
        raise ValueError("first")

    @event_handler("note.created", delivery="after_commit", priority=1)
    def works(note):
        seen.append("second")

    with expect_failures() as failures:
        create(DOORS["save"](db), Note)

    assert ["first"] == [str(failure.error) for failure in failures]
    assert "second" in seen


# --- sync doors in hooks ---


async def test_a_sync_save_in_a_hook_runs_in_the_transaction_of_asave(db, look):
    class Note(BaseModel):
        text = StringField()

        @post_create
        def second(self):
            if self.text == "one":
                Note(text="two").save()
                seen.append(look.rows("notes"))

    await Note(text="one").asave()

    assert [0] == seen
    assert 2 == look.rows("notes")


async def test_the_specs_handle_payment_works_under_aemit(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("payment_received")
        def handle_payment(self, payment):
            self.status = payment
            self.save()

    order = await Order().asave()
    await order.aemit("payment_received", payment="paid")

    assert "paid" == (await Order.aget(order.id)).status
    assert ["order.created", "order.payment_received", "order.updated"] == names(db)
