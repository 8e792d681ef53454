"""What users get wrong: each is refused early, by an error of ours that says what to do, and nothing is written."""

import asyncio
import threading
from functools import partial

import pytest
from sqlalchemy import String
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

from earnorm import (
    Backoff,
    BaseModel,
    StringField,
    aemit,
    connect,
    emit,
    event_handler,
    event_handler_async,
    on_event,
    on_event_async,
    post_commit,
    post_rollback,
    post_save,
    post_save_async,
    pre_create,
    pre_delete,
    pre_save,
    pre_save_async,
    pre_update,
)
from earnorm.errors import (
    AlreadyConnected,
    AsyncHandlerUnderSync,
    ConfigurationError,
    DatabaseClosed,
    DeletedSubject,
    DrainInTransaction,
    EarnORMError,
    EventError,
    HandlerError,
    HandlerNameNeeded,
    HandlerNameTaken,
    InvalidName,
    InvalidOption,
    InvalidValue,
    MissingPayload,
    MissingTables,
    NoEvent,
    NotAMethod,
    NotConnected,
    OptionWithoutMeaning,
    PayloadError,
    PreHookAfterCommit,
    ReservedFieldName,
    ReservedPayloadKey,
    SensitiveArgument,
    SubjectTaken,
    SyncDoorInCoroutine,
    TransactionNotYours,
    UnknownField,
    UnknownOption,
    UnmappedAnnotation,
    UnsatisfiableArgument,
    UnsavedSubject,
    UnsupportedDatabase,
    ViewEmitted,
    WrongColour,
)
from earnorm.orm import connected
from earnorm.testing import expect_failures
from tests.flows.stories import log, names

DURABLE_ONLY = ["ordered", "retry", "timeout", "delay", "concurrency", "transactional", "group", "since", "formerly"]

NOT_DATA = {
    "an object": object(),
    "a function": print,
    "a file": threading.Lock(),
    "a generator": (n for n in ()),
    "not a number": float("nan"),
    "infinity": float("inf"),
    "NUL": "a\0b",
    "a lone surrogate": "\ud800",
    "keys that are no strings": {1: "one"},
    "too much": "x" * 300_000,
}


@pytest.fixture
def Note(db):
    class Note(BaseModel):
        text = StringField()

        @on_event("read")
        def on_read(self):
            pass

    return Note


# --- handlers that could never run ---


def test_a_hook_that_takes_what_no_event_gives_is_refused_with_the_class():
    with pytest.raises(UnsatisfiableArgument, match=r"takes 'colour', which .* never gives") as raised:

        class Note(BaseModel):
            text = StringField()

            @pre_save
            def before(self, colour):
                pass

    assert {"text", "old_text", "new_text", "event", "changes"} <= set(raised.value.available)


def test_a_slip_of_the_pen_is_guessed():
    with pytest.raises(UnsatisfiableArgument, match="did you mean 'old_text'"):

        class Note(BaseModel):
            text = StringField()

            @on_event("text_change")
            def changed(self, old_txt):
                pass


def test_a_view_handler_that_takes_another_fields_name_wrong_is_refused(Note):
    with pytest.raises(UnsatisfiableArgument):

        @Note.on("text_changed")
        def changed(note, old_colour):
            pass


def test_a_refused_class_leaves_no_model_behind(db):
    with pytest.raises(UnsatisfiableArgument):

        class Broken(BaseModel):
            text = StringField()

            @pre_save
            def before(self, colour):
                pass

    class Note(BaseModel):
        text = StringField()

    Note(text="one").save()

    assert ["note.created"] == names(db)


def test_a_key_that_a_known_handler_needs_is_missed_at_emit(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("payment_received")
        def handle_payment(self, payment):
            pass

    order = Order().save()

    with pytest.raises(MissingPayload, match=r"takes 'payment'.*given: amount"):
        order.emit("payment_received", amount=3)
    assert ["order.created"] == names(db)


def test_a_key_missing_at_a_global_emit_starts_no_handler(db):
    seen = []

    @event_handler("till.opened", name="first", delivery="transaction", priority=5)
    def first(event):
        seen.append("first")

    @event_handler("till.opened", name="second", delivery="transaction")
    def second(subject, clerk):
        seen.append("second")

    with pytest.raises(MissingPayload, match="clerk"):
        emit("till.opened")
    assert [] == seen


def test_the_old_value_of_a_secret_in_a_durable_handler_is_refused():
    with pytest.raises(SensitiveArgument, match="old_password"):

        class User(BaseModel):
            password = StringField(sensitive=True)

            @on_event_async("password_changed")
            async def changed(self, old_password):
                pass


def test_the_old_value_of_a_secret_in_a_global_durable_handler_is_refused():
    class User(BaseModel):
        password = StringField(sensitive=True)

    with pytest.raises(SensitiveArgument, match="old_password"):

        @User.on("password_changed")
        def changed(user, old_password):
            pass


def test_a_session_is_only_for_handlers_in_the_transaction():
    with pytest.raises(UnsatisfiableArgument, match="session"):

        @event_handler("user.created")
        def created(user, session):
            pass


# --- decorators ---


@pytest.mark.parametrize("decorator", [pre_save, pre_create, pre_update, pre_delete])
@pytest.mark.parametrize("delivery", ["after_commit", "durable"])
def test_a_pre_hook_declared_after_the_commit_is_refused(decorator, delivery):
    with pytest.raises(PreHookAfterCommit, match="use the post_ hook"):

        class Note(BaseModel):
            @decorator(delivery=delivery)
            def hook(self):
                pass


MEANINGLESS = {
    "ordered in pre_save": (pre_save, {"ordered": False}),
    "ordered in post_save": (post_save, {"ordered": True}),
    "ordered after the commit": (post_save, {"ordered": True, "delivery": "after_commit"}),
    "retry before the SQL": (pre_save, {"retry": 3}),
    "timeout in the transaction": (post_save, {"timeout": 30}),
    "delay of post_commit": (post_commit, {"delay": "1h"}),
    "concurrency after the commit": (post_save, {"concurrency": 1, "delivery": "after_commit"}),
    "retry after the rollback": (post_rollback, {"retry": False}),
    "delivery of post_commit": (post_commit, {"delivery": "durable"}),
    "delivery of post_rollback": (post_rollback, {"delivery": "transaction"}),
}


@pytest.mark.parametrize("decorator, options", MEANINGLESS.values(), ids=MEANINGLESS)
def test_an_option_without_meaning_in_its_phase_is_refused(decorator, options):
    with pytest.raises(OptionWithoutMeaning, match="means nothing here"):

        class Note(BaseModel):
            @decorator(**options)
            def hook(self):
                pass


@pytest.mark.parametrize("retry", [3, False, Backoff(attempts=3), {OSError: 9}])
def test_a_retry_without_meaning_is_told_as_it_was_written(retry):
    """What was made of it was told, which nobody had written."""
    with pytest.raises(OptionWithoutMeaning) as refused:

        class Note(BaseModel):
            @pre_save(retry=retry)
            def hook(self):
                pass

    assert str(refused.value).startswith(f"pre_save(retry={retry!r}) means nothing here")
    assert retry == refused.value.value


def test_an_option_without_meaning_on_a_global_handler_is_refused():
    with pytest.raises(OptionWithoutMeaning, match="ordered"):

        @event_handler("a.b", delivery="transaction", ordered=True)
        def hook(event):
            pass


def test_an_option_nobody_knows_is_refused_with_a_guess():
    with pytest.raises(UnknownOption, match="did you mean 'priority'"):

        @event_handler("a.b", priorty=3)
        def hook(event):
            pass


EVERYWHERE = ["name", "priority", "before", "after", "when"]


@pytest.mark.parametrize(
    "decorator, besides",
    [
        (pre_save, []),
        (post_commit, []),
        (post_save, ["delivery"]),
        (partial(post_save_async, delivery="after_commit"), ["delivery"]),
        (post_save_async, ["delivery", *DURABLE_ONLY]),
        (partial(post_save, delivery="durable"), ["delivery", *DURABLE_ONLY]),
    ],
)
def test_an_option_nobody_knows_is_answered_with_those_that_mean_something_there(decorator, besides):
    with pytest.raises(UnknownOption) as raised:
        decorator(colour="red")

    assert str(raised.value).endswith(f"options here: {', '.join(sorted([*EVERYWHERE, *besides]))}")


WRONG = {
    "priority": "high",
    "delivery": "sometime",
    "name": "",
    "when": "always",
    "before": 3,
    "ordered": 1,
}


@pytest.mark.parametrize("option", WRONG)
def test_an_options_value_of_the_wrong_kind_is_refused(option):
    with pytest.raises(InvalidOption, match=f"{option}="):

        @event_handler("a.b", **{option: WRONG[option]})
        def hook(event):
            pass


WRONG_NUMBERS = {
    "retry": [True, 0, "often", {}, {"ValueError": 3}, {ValueError: "often"}],
    "timeout": [0, -1, "soon", True],
    "delay": ["0s", "tomorrow", float("inf")],
    "concurrency": [0, 1.5, True, "2"],
}


@pytest.mark.parametrize("option, value", [(name, value) for name, values in WRONG_NUMBERS.items() for value in values])
def test_a_wait_a_time_or_a_number_that_is_none_is_refused(option, value):
    with pytest.raises(InvalidOption, match=f"{option}=.*expected"):

        @event_handler("a.b", **{option: value})
        def hook(event):
            pass


def test_a_plain_function_under_an_async_decorator_is_refused():
    with pytest.raises(WrongColour, match="async def"):

        class Note(BaseModel):
            @post_save_async
            def hook(self):
                pass

    with pytest.raises(WrongColour, match="async def"):

        @event_handler_async("a.b")
        def handler(event):
            pass


@pytest.mark.parametrize("decorator", [pre_save, post_save, on_event("read"), post_commit, post_rollback])
def test_an_async_function_under_a_plain_decorator_is_refused(decorator):
    with pytest.raises(WrongColour, match="_async"):

        class Note(BaseModel):
            @decorator
            async def hook(self):
                pass


def test_a_hook_decorator_outside_a_class_is_refused():
    with pytest.raises(NotAMethod, match="event_handler"):

        @pre_save
        def hook(self):
            pass


@pytest.mark.parametrize("events", [(), ([],), (3,), (None,), ("!user.viewed",), (["!user.*"],)])
def test_a_handler_without_an_event_is_refused(events):
    with pytest.raises(NoEvent, match="such as"):
        event_handler(*events)


def test_an_event_handler_without_parentheses_is_refused():
    with pytest.raises(NoEvent):

        @event_handler
        def handler(event):
            pass


@pytest.mark.parametrize("name", ["", "user..created", "user created", "user.créé", "a" * 300, "user.\n", "us*er.a"])
def test_a_name_outside_the_charset_is_refused_everywhere(Note, name):
    note = Note(text="one").save()
    with pytest.raises(InvalidName):
        emit(name)
    with pytest.raises(InvalidName):
        event_handler(name, name="hears")(lambda event: None)
    with pytest.raises(InvalidName):
        note.emit(name)
    with pytest.raises(InvalidName):
        on_event(name)


def test_a_pattern_is_no_name_to_emit(db):
    with pytest.raises(InvalidName, match="patterns only"):
        emit("user.*")


def test_two_functions_under_one_name_are_refused():
    @event_handler("a.b", name="mail")
    def first(event):
        pass

    with pytest.raises(HandlerNameTaken, match="test_bad_input"):

        @event_handler("a.c", name="mail")
        def second(event):
            pass


@pytest.mark.parametrize("connected_first", [True, False])
def test_a_durable_lambda_without_a_name_is_refused(path, connected_first):
    def handle():
        event_handler("a.b")(lambda event: None)

    if not connected_first:
        handle()
    with pytest.raises(HandlerNameNeeded, match="name="):
        with connect(f"sqlite:///{path}", worker=False):
            handle()


def test_a_durable_closure_without_a_name_is_refused(db):
    seen = []

    with pytest.raises(HandlerNameNeeded, match="name="):

        @event_handler("a.b")
        def handler(event):
            seen.append(event)


# --- models ---


@pytest.mark.parametrize("field", ["emit", "find", "get", "save", "changes", "metadata", "registry", "on", "event"])
def test_a_field_that_hides_an_attribute_is_refused(field):
    with pytest.raises(ReservedFieldName, match=field):
        type("Note", (BaseModel,), {"__module__": __name__, field: StringField()})


def test_a_field_that_hides_one_is_refused_however_it_is_written():
    class Mixin:
        emit = StringField()

    class Annotated:
        emit: Mapped[str]

    for written in (
        {"emit": mapped_column(String)},
        {"emit": relationship("Note")},
        {"emit": declared_attr(lambda cls: mapped_column(String))},
        {"__annotations__": {"emit": Mapped[str]}},
    ):
        with pytest.raises(ReservedFieldName, match="emit"):
            type("Note", (BaseModel,), {"__module__": __name__, **written})
    for base in (Mixin, Annotated):
        with pytest.raises(ReservedFieldName, match=r"Note\.emit"):
            type("Note", (base, BaseModel), {"__module__": __name__})


def test_a_method_may_be_overridden(db):
    class Note(BaseModel):
        text = StringField()

        def save(self):
            self.text = self.text.strip()
            return super().save()

    assert "one" == Note(text=" one ").save().text


def test_a_second_model_with_the_same_event_name_is_refused(Note):
    with pytest.raises(SubjectTaken, match="__event_name__"):

        class OtherNote(BaseModel):
            __event_name__ = "note"
            text = StringField()


def test_a_field_nobody_knows_is_refused_with_a_guess(Note):
    with pytest.raises(UnknownField, match="did you mean 'text'"):
        Note(txt="one")
    with pytest.raises(UnknownField, match="did you mean 'text'"):
        Note.find(txt="one")


# --- emits ---


@pytest.mark.parametrize("value", NOT_DATA.values(), ids=NOT_DATA)
def test_what_is_no_data_is_refused_with_its_path(db, Note, value):
    note = Note(text="one").save()

    with pytest.raises(PayloadError, match=r"box\.inside"):
        note.emit("read", box={"inside": value})
    assert ["note.created"] == names(db)


def test_what_is_nested_too_deep_is_refused(Note):
    deep = []
    for _ in range(70):
        deep = [deep]

    with pytest.raises(PayloadError):
        Note(text="one").save().emit("read", deep=deep)


def test_what_is_no_data_takes_the_transaction_it_is_emitted_in(db, Note):
    with pytest.raises(PayloadError):
        with db.transaction():
            Note(text="one").save().emit("read", box=object())

    assert [] == names(db)


def test_an_emit_on_an_unsaved_record_is_refused(Note):
    with pytest.raises(UnsavedSubject, match="save"):
        Note(text="one").emit("read")


def test_an_emit_on_a_deleted_record_is_refused(db, Note):
    note = Note(text="one").save()
    note.delete()

    with pytest.raises(DeletedSubject, match="before delete"):
        note.emit("read")
    assert ["note.created", "note.deleted"] == names(db)


def test_an_emit_about_a_record_deleted_in_the_same_transaction_is_refused(db, Note):
    note = Note(text="one").save()

    with db.transaction():
        note.delete()
        with pytest.raises(DeletedSubject):
            note.emit("read")


def test_a_save_or_delete_of_a_deleted_record_is_refused(Note):
    note = Note(text="one").save()
    note.delete()

    with pytest.raises(DeletedSubject):
        note.save()
    with pytest.raises(DeletedSubject):
        note.delete()


def test_a_delete_or_refresh_of_an_unsaved_record_is_refused(Note):
    with pytest.raises(UnsavedSubject):
        Note(text="one").delete()
    with pytest.raises(UnsavedSubject):
        Note(text="one").refresh()


@pytest.mark.parametrize("key", ["event", "changes", "created", "session", "context", "old_text", "new_text"])
def test_a_payload_key_that_no_handler_could_get_is_refused(Note, key):
    note = Note(text="one").save()

    with pytest.raises(ReservedPayloadKey, match=key):
        note.emit("read", **{key: 1})


def test_a_payload_has_sixty_four_levels_at_most(db):
    """Of which the log's own words took one."""
    value = []
    for _ in range(62):
        value = [value]
    emit("day.ended", value=value)

    with pytest.raises(PayloadError, match="nested deeper than 64 levels"):
        emit("day.ended", value=[value])
    assert [{"value": value}] == [event.payload for event in log(db)]


@pytest.mark.parametrize("key", ["event", "changes", "created", "session", "context"])
def test_a_reserved_payload_key_is_refused_without_a_model_and_without_a_database(key):
    with pytest.raises(ReservedPayloadKey, match=key):
        emit("system.started", **{key: 1})


@pytest.mark.parametrize("verb", ["text_change", "text_changed", "text.changed", "note.text.changed"])
def test_a_view_cannot_be_emitted_by_hand(Note, verb):
    note = Note(text="one").save()

    with pytest.raises(ViewEmitted, match="set the field and save"):
        note.emit(verb)
    with pytest.raises(ViewEmitted, match="set the field and save"):
        note.emit(verb, old_text="one", new_text="two")


@pytest.mark.parametrize("verb", ["created", "updated", "deleted", "saved"])
def test_a_lifecycle_event_cannot_be_emitted_by_hand(Note, verb):
    note = Note(text="one").save()

    with pytest.raises(EventError, match="save"):
        note.emit(verb)


@pytest.mark.parametrize("event", [3, None, object(), ["a.b"]])
def test_what_is_no_event_cannot_be_emitted(event):
    with pytest.raises(EventError, match="emit takes a name"):
        emit(event)


# --- databases ---


def test_connecting_twice_is_refused(db, tmp_path):
    with pytest.raises(AlreadyConnected, match="name="):
        connect(f"sqlite:///{tmp_path}/other.db")


def test_a_block_that_cannot_be_entered_gives_the_name_back(path):
    """Nobody had the database to close, so that every later attempt was refused with AlreadyConnected."""
    for _ in range(2):
        with pytest.raises(MissingTables), connect(f"sqlite:///{path}", tables="check"):
            pass

    with connect(f"sqlite:///{path}", worker=False) as db:
        assert db is connected.BY_NAME["default"]


async def test_an_async_block_that_cannot_be_entered_gives_the_name_back(path):
    for _ in range(2):
        with pytest.raises(MissingTables):
            async with connect(f"sqlite:///{path}", tables="check"):
                pass

    async with connect(f"sqlite:///{path}", worker=False) as db:
        assert db is connected.BY_NAME["default"]


def test_a_name_is_free_again_after_the_close(path):
    connect(f"sqlite:///{path}", worker=False).close()

    connect(f"sqlite:///{path}", worker=False).close()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/db", "oracle://u:secret@h", "nonsense", "", "sqlite+nope:///x.db"])
def test_a_database_we_cannot_keep_promises_on_is_refused_without_its_password(url):
    with pytest.raises((UnsupportedDatabase, ConfigurationError)) as raised:
        connect(url)

    assert "secret" not in str(raised.value)


def test_an_unknown_way_with_tables_is_refused(path):
    with pytest.raises(ConfigurationError, match="create"):
        connect(f"sqlite:///{path}", tables="maybe")


USES = {
    "transaction": lambda db, Note: db.transaction().__enter__(),
    "session": lambda db, Note: db.session(),
    "drain": lambda db, Note: db.drain(),
    "ready": lambda db, Note: db.ready(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_use_after_the_close_says_so(path, use):
    db = connect(f"sqlite:///{path}", worker=False)
    db.close()

    with pytest.raises(DatabaseClosed, match="connect"):
        use(db, None)


def test_a_model_without_its_database_says_so(path):
    class Note(BaseModel):
        text = StringField()

    connect(f"sqlite:///{path}", worker=False).close()

    for use in (Note(text="one").save, lambda: Note.get(1), Note.find):
        with pytest.raises(NotConnected, match="connect"):
            use()


def test_closing_twice_is_one_close(path):
    db = connect(f"sqlite:///{path}", worker=False)
    db.ready()
    db.close()
    db.close()


def test_a_drain_in_a_transaction_is_refused(db):
    with db.transaction():
        with pytest.raises(DrainInTransaction, match="wait for itself"):
            db.drain()


def test_a_drain_in_a_handler_is_refused(db, Note):
    @Note.on("created", name="drains")
    def drains(note):
        db.drain()

    Note(text="one").save()
    with expect_failures() as failures:
        db.drain()

    assert [DrainInTransaction] == [type(failure.error) for failure in failures]


# --- colours and tasks ---


def test_an_async_hook_under_save_names_asave(db):
    class Note(BaseModel):
        text = StringField()

        @pre_save_async
        async def check(self):
            pass

    with pytest.raises(AsyncHandlerUnderSync, match=r"await asave\(\)"):
        Note(text="one").save()


DOORS = {
    "save": lambda db, note: note.save(),
    "delete": lambda db, note: note.delete(),
    "refresh": lambda db, note: note.refresh(),
    "emit": lambda db, note: note.emit("read"),
    "get": lambda db, note: type(note).get(note.id),
    "find": lambda db, note: type(note).find(),
    "drain": lambda db, note: db.drain(),
}


@pytest.mark.parametrize("door", DOORS)
async def test_a_sync_door_in_a_coroutine_names_its_twin(db, Note, door):
    note = await Note(text="one").asave()

    with pytest.raises(SyncDoorInCoroutine, match=rf"await a{door}\(\)"):
        DOORS[door](db, note)


async def test_a_sync_transaction_in_a_coroutine_is_refused(db):
    with pytest.raises(SyncDoorInCoroutine, match="transaction"):
        with db.transaction():
            pass


async def test_a_transaction_used_from_another_task_is_refused(db, Note):
    async with db.transaction():
        with pytest.raises(TransactionNotYours, match="one of its own"):
            await asyncio.create_task(Note(text="one").asave())


def test_every_refusal_is_one_of_ours():
    """Whoever catches EarnORMError catches all of the above."""
    ours = [value for value in globals().values() if isinstance(value, type) and issubclass(value, Exception)]

    assert [] == [error for error in ours if not issubclass(error, EarnORMError)]


async def test_an_aemit_of_nonsense_is_refused_as_well(db):
    with pytest.raises(InvalidName):
        await aemit("no name")
    with pytest.raises(EventError):
        await aemit(3)


def test_a_decorator_on_something_that_is_no_function_is_refused():
    with pytest.raises(HandlerError, match="takes a function"):
        event_handler("a.b")("not a function")


def test_a_plain_annotation_on_a_field_is_refused_with_the_remedy():
    with pytest.raises(UnmappedAnnotation, match=r"Mapped\[str\]"):

        class Person(BaseModel):
            name: str = StringField()


def test_a_key_that_can_be_none_of_the_model_is_named():
    class Person(BaseModel):
        name = StringField()

    with connect("sqlite://"):
        with pytest.raises(InvalidValue, match=r"Person\.get\(3\): expected id: UUID; it is int, not UUID$"):
            Person.get(3)
        with pytest.raises(InvalidValue, match=r"Person\.find\(.*expected id: UUID; it is str, not UUID$"):
            Person.find(id="Ada")


def test_the_path_of_a_bad_payload_value_begins_with_its_key():
    class Person(BaseModel):
        name = StringField()

    with connect("sqlite://"):
        person = Person(name="Ada").save()
        with pytest.raises(PayloadError) as caught:
            person.emit("moved", to=[1, {2}])

    assert "to[1]" == caught.value.path
