"""Refusals: emits and handlers that used to be taken, and then lost what they were given or never ran."""

from dataclasses import dataclass

import pytest

import earnorm
from earnorm import BaseModel, EventBus, IntegerField, StringField, pre_save
from earnorm.errors import (
    DatabaseClosed,
    InvalidField,
    InvalidName,
    InvalidSetting,
    InvalidSubject,
    InvalidValue,
    LifecycleEmitted,
    NotAnEvent,
    PayloadError,
    UnsavedSubject,
    ViewEmitted,
    WrongColour,
)
from tests.flows.stories import names


@pytest.fixture
def Note(db):
    class Note(BaseModel):
        __event_name__ = "desk.note"
        text = StringField()

    return Note


@pytest.mark.parametrize("subject", ["ada", {"ip": "::1"}, 7, object()])
def test_a_subject_that_is_no_record_is_refused_and_not_dropped(db, subject):
    """The log kept the event without it, and said nothing."""
    with pytest.raises(InvalidSubject, match="give data by name instead"):
        earnorm.emit("user.login", subject)

    assert [] == names(db)


def test_in_memory_a_subject_may_be_anything():
    bus, seen = EventBus("alone"), []

    @bus.on("user.login")
    def hear(user):
        seen.append(user)

    bus.emit("user.login", "ada")
    assert ["ada"] == seen


@pytest.mark.parametrize("verb", ["created", "updated", "saved", "deleted"])
def test_what_a_write_tells_is_not_emitted_without_one(db, Note, verb):
    """`earnorm.emit("user.created")` was taken, and its handlers were given no user."""
    with pytest.raises(LifecycleEmitted, match=f"desk.note.{verb} is raised by save"):
        earnorm.emit(f"desk.note.{verb}")
    with pytest.raises(LifecycleEmitted):
        Note(text="one").save().emit(verb)


def test_a_view_is_not_emitted_without_its_record(db, Note):
    with pytest.raises(ViewEmitted):
        earnorm.emit("desk.note.text_changed")


def test_a_record_in_a_payload_is_saved_first(db, Note):
    """Its handlers were given a reference to no row."""
    with pytest.raises(UnsavedSubject, match=r"payload: <Note \(not saved\)> is not saved yet"):
        earnorm.emit("board.pinned", note=Note(text="one"))


@pytest.mark.parametrize("event", [5, None, b"user.login", EventBus])
def test_what_is_no_event_is_told_so(db, event):
    with pytest.raises(NotAnEvent, match="emit takes a name"):
        earnorm.emit(event)


def test_a_handler_that_yields_is_refused(db):
    """It was registered, and none of its code ever ran."""
    bus = EventBus("alone")

    with pytest.raises(WrongColour, match="yields"):

        @bus.on("user.login")
        def hear(event):
            yield event

    with pytest.raises(WrongColour, match="yields"):

        @bus.on("user.login")
        async def ahear(event):
            yield event

    with pytest.raises(WrongColour, match="yields"):

        class Note(BaseModel):
            text = StringField()

            @pre_save
            def tidy(self):
                yield


def test_nested_faults_of_a_payload_are_told_with_their_place(db):
    with pytest.raises(PayloadError, match=r"payload items\[1\]\.tags = \{1\}"):
        earnorm.emit("cart.filled", items=[{}, {"tags": {1}}])


def test_a_declared_event_has_no_subject_but_itself(db):
    @earnorm.event_type("shop.opened")
    @dataclass
    class ShopOpened:
        at: str

    earnorm.emit(ShopOpened(at="nine"))

    assert ["shop.opened"] == names(db)


@pytest.mark.parametrize(
    "setting",
    [
        {"name": ""},
        {"name": 5},
        {"worker": "yes"},
        {"tables": "maybe"},
        {"log": None},
        {"groups": []},
        {"groups": [""]},
        {"groups": [1]},
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting):
    with pytest.raises(InvalidSetting, match=rf"connect\({next(iter(setting))}="):
        earnorm.connect("sqlite://", **{"name": "other", **setting})


def test_a_closed_database_says_what_was_asked_of_it(db):
    db.close()

    with pytest.raises(DatabaseClosed, match=r"drain\(\): database 'default' is closed"):
        db.drain()


def test_a_field_that_was_not_called_is_refused():
    """The class was made, without the field."""
    with pytest.raises(
        InvalidField, match=r"text='StringField'\): the field is not made yet; write text = StringField"
    ):

        class Memo(BaseModel):
            text = StringField


def test_an_unknown_option_of_a_model_is_refused():
    with pytest.raises(InvalidField, match=r"class Memo\(bubble_to='board'\): no such option of a model"):

        class Memo(BaseModel, bubble_to="board"):
            text = StringField()


def test_a_mixin_of_the_user_may_take_options_of_its_own():
    class Shelved:
        def __init_subclass__(cls, shelf="", **options):
            super().__init_subclass__(**options)
            cls.shelf = shelf

    class Memo(BaseModel, Shelved, shelf="top"):
        text = StringField()

    assert "top" == Memo.shelf


@pytest.mark.parametrize("where", [{"pages": "3"}, {"text": 3}, {"id": "ada"}, {"pages": True}])
def test_what_a_field_can_never_hold_is_not_looked_for(db, where):
    """SQLite found nothing, PostgreSQL raised an error of its driver."""

    class Memo(BaseModel):
        text = StringField()
        pages = IntegerField(default=1)

    with pytest.raises(InvalidValue, match=f"expected {next(iter(where))}: "):
        Memo.find(**where)
    with pytest.raises(InvalidValue, match="expected id: UUID; it is str, not UUID"):
        Memo.get("0198d5a2-0000-7000-8000-000000000000")


def test_a_comparison_of_a_record_s_value_is_no_condition(db, Note):
    note = Note(text="one").save()

    with pytest.raises(InvalidValue, match="with the class and not a record before the dot"):
        Note.find(note.text == "two")


def test_a_class_in_place_of_its_event_is_refused(db):
    @earnorm.event_type("shop.closed")
    @dataclass
    class ShopClosed:
        at: str

    with pytest.raises(NotAnEvent):
        EventBus("alone").emit(ShopClosed)


def test_an_error_of_a_handler_is_told_without_our_own():
    bus = EventBus("alone")

    @earnorm.event_type("shop.shut")
    @dataclass
    class ShopShut:
        at: str

    @bus.on(ShopShut, delivery="transaction")
    def hear(shut: ShopShut):
        raise ValueError(shut.at)

    with pytest.raises(ValueError, match="nine") as raised:
        bus.emit(ShopShut(at="nine"))
    assert raised.value.__context__ is None


def test_a_model_whose_name_is_no_subject_says_what_to_set():
    with pytest.raises(InvalidName, match="the subject of the events of Größe: set __event_name__ there"):

        class Größe(BaseModel):  # noqa: PLC2401  what this is about
            text = StringField()
